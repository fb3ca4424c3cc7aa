"""Write a network as ONNX, torch.export program or OpenVINO model, for any batch, height and width."""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from segunet.base.extras import import_extra
from segunet.formats.pt2 import EXTRA_FILE
from segunet.formats.read import INPUT, METADATA, OUTPUT, import_openvino
from segunet.formats.seal import UNSEALED, seal
from segunet.models.classic_unet import border_of

_EXAMPLE = (2, 3, 71, 103)  # padded in both directions, like any other size
_SIZES = {0: "batch", 2: "height", 3: "width"}  # axes of the images that can have any size


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Attributes:
        suffix: suffix of its file, a key of ``formats.read.READERS``.
        packages: imports the packages to write and run it; raises a UserError if one is missing.
        write: writes a program and its card (plain containers) to a path, with a weights file if the format has one.
    """

    suffix: str
    packages: Callable[[], Any]
    write: Callable[[ExportedProgram, dict[str, Any], Path], None]


def traced(net: nn.Module) -> ExportedProgram:
    """Return the network as a graph of tensor operations, for images uint8 (N, 3, H, W) of any N, H and W.

    Args:
        net: in evaluation mode, on the CPU.

    Raises:
        RuntimeError: torch.export cannot trace the network, or not for every size.
    """
    least = border_of(net) + 1  # pixels: an unpadded network cannot mirror smaller images
    count, channels, height, width = _EXAMPLE
    images = torch.zeros(count, channels, height + least, width + least, dtype=torch.uint8)
    # In channels_last the trace would check memory layouts, and specialize maps of one pixel.
    net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    sizes = ({axis: Dim(name, min=1 if axis == 0 else least) for axis, name in _SIZES.items()},)
    # By default sizes of 1 would be specialized; torch.onnx traces this way too.
    settings = torch.fx.experimental._config
    with torch.no_grad(), settings.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(net, (images,), dynamic_shapes=sizes)
    _strip_metadata(program)
    return program


def _strip_metadata(program: ExportedProgram) -> None:
    """Remove source paths of this machine, and assertions that tie the program to the CPU and uint8."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    program.graph_module.recompile()


def _onnx_packages() -> list[Any]:
    return [import_extra(module, "onnx") for module in ("onnx", "onnxscript", "onnxruntime")]


def write_onnx(program: ExportedProgram, card: dict[str, Any], path: Path) -> None:
    """Write one .onnx file, including weights (up to protobuf's 2 GB), and check it with onnx."""
    onnx, script, _ = _onnx_packages()
    names: Any = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_shapes": (_SIZES,)}
    result = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)
    assert result is not None
    images, logits = result.model.graph.inputs[0].shape, result.model.graph.outputs[0].shape
    assert images is not None
    assert logits is not None
    logits[2], logits[3] = images[2], images[3]  # torch says min(height, height rounded up to the stride)
    exporter = f"torch.onnx, onnx {onnx.__version__}, onnxscript {script.__version__}"
    result.model.metadata_props[METADATA] = json.dumps({**card, "exporter": exporter, "checksum": UNSEALED})
    result.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)
    seal(path)


def write_program(program: ExportedProgram, card: dict[str, Any], path: Path) -> None:
    """Write one .pt2 file."""
    buffer = io.BytesIO()  # torch's own writer aborts the process if the disk is full
    torch.export.save(program, buffer, extra_files={EXTRA_FILE: json.dumps({**card, "exporter": "torch.export"})})
    path.write_bytes(buffer.getbuffer())


def write_openvino(program: ExportedProgram, card: dict[str, Any], path: Path) -> None:
    """Write an .xml file and its weights, float32, in a .bin file beside it."""
    openvino = import_openvino()
    model = openvino.convert_model(program)
    model.input().get_tensor().set_names({INPUT})
    model.output().get_tensor().set_names({OUTPUT})
    about = {**card, "exporter": f"openvino {openvino.__version__}", "checksum": UNSEALED}
    model.set_rt_info(json.dumps(about), [METADATA])
    openvino.save_model(model, path, compress_to_fp16=False)
    seal(path)


FORMATS = {
    "onnx": Format(".onnx", _onnx_packages, write_onnx),
    "torch_export": Format(".pt2", lambda: None, write_program),
    "openvino": Format(".xml", import_openvino, write_openvino),
}
