"""Write a network as ONNX, torch.export program or OpenVINO model, for any batch, height and width or given ones.

Shapes: N batch, K classes, C channels, H and W height and width, L hidden states of D numbers each.
"""

import copy
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.formats.interface import Interface
from segunet.formats.pt2 import EXTRA_FILE
from segunet.formats.quantize import Calibration, quantize_onnx, quantize_openvino
from segunet.formats.read import METADATA, import_openvino
from segunet.formats.seal import UNSEALED, seal
from segunet.models.classic_unet import border_of
from segunet.models.diffusion_unet import DiffusionUNet

_EXAMPLE = (2, 71, 103)  # number, height and width of images; padded in both directions, like any other size
# A denoiser's inputs, and their axes that can have any size.
_DENOISER = {
    "sample": {0: "batch", 2: "height", 3: "width"},
    "timestep": {0: "batch"},
    "encoder_hidden_states": {0: "batch", 1: "length"},
}


@dataclass(frozen=True)
class Traced:
    """A network as a graph of tensor operations.

    Attributes:
        program: the graph.
        inputs: names of its inputs, in order, and of their axes that can have any size.
        output: name of its output, whose last two axes are those of the first input.
    """

    program: ExportedProgram
    inputs: dict[str, dict[int, str]]
    output: str


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Attributes:
        suffix: suffix of its file, a key of ``formats.read.READERS``.
        packages: imports the packages to write and run it; raises a UserError if one is missing.
        write: writes a network and its card (plain containers) to a path, with a weights file if the format has one;
            in float32, or in 8 bits if there are calibration images; the format's own options by name.
    """

    suffix: str
    packages: Callable[[], Any]
    write: Callable[..., None]


def traced(net: nn.Module, interface: Interface | None = None, channels: int = 3) -> Traced:
    """Trace a segmentation network: ``images`` -> ``logits`` or ``masks``, as its ``interface`` says.

    Args:
        net: in evaluation mode, on the CPU.
        interface: what it takes and returns; None for uint8 images of any number and size, and logits.
        channels: of the images.

    Raises:
        UserError: the interface's size is too small for the network.
        RuntimeError: torch.export cannot trace the network, or not for every size.
    """
    interface, least = interface or Interface(), least_side(net)
    if interface.size and min(interface.size) < least:
        raise UserError(f"size={interface.size} is too small: this network takes images from {least} pixels on.")
    count, *sides = _EXAMPLE
    height, width = interface.size or [side + least for side in sides]
    dtype = torch.float32 if interface.float_input else torch.uint8
    images = torch.zeros(interface.batch or count, channels, height, width, dtype=dtype)
    free = {0: "batch"} if interface.batch is None else {}
    free |= {2: "height", 3: "width"} if interface.size is None else {}
    sizes = {name: Dim(name, min=least) for name in ("height", "width")}
    graph = _graph(interface.exported_module(net), (images,), {"images": free}, sizes)
    if least > border_of(net) + 1:
        graph._guards_code.clear()  # Python: some of timm's networks would be refused for one image, which they take
    return Traced(graph, {"images": free}, "masks" if interface.argmax else "logits")


def least_side(net: nn.Module) -> int:
    """Return the smallest side in pixels of images that a network takes when it is exported.

    An unpadded network cannot mirror smaller ones; some of timm's have other graphs for maps of one pixel.
    """
    return max(border_of(net) + 1, int(getattr(getattr(net, "encoder", None), "least_side", 1)))


def traced_denoiser(net: DiffusionUNet) -> Traced:
    """Trace a denoiser: its forward call's first inputs -> ``prediction`` float32 (N, C, H, W).

    The inputs are ``sample`` float32 (N, C, H, W), ``timestep`` float32 (N,) and, if it is conditional,
    ``encoder_hidden_states`` float32 (N, L, D), of any N and L, and any H and W that are multiples of the encoder's
    stride.

    Args:
        net: in evaluation mode, on the CPU.

    Raises:
        RuntimeError: torch.export cannot trace the network, or not for every size.
    """
    stride, width = net.encoder.stride, net.cross_attention_dim
    examples = [torch.zeros(2, net.in_channels, 3 * stride, 5 * stride), torch.zeros(2)]
    if width is not None:
        examples.append(torch.zeros(2, 7, width))
    inputs = dict(list(_DENOISER.items())[: len(examples)])
    sizes = {name: stride * Dim(f"{name}_in_strides", min=1) for name in ("height", "width")}
    graph = _graph(net, tuple(examples), inputs, sizes)
    graph._guards_code.clear()  # Python: it says that H and W are such multiples, and refuses maps of one pixel
    return Traced(graph, inputs, "prediction")


def _graph(
    net: nn.Module, examples: tuple[torch.Tensor, ...], inputs: dict[str, dict[int, str]], sizes: dict[str, Any]
) -> ExportedProgram:
    """Return the graph of a call with the ``examples``; axes without a restriction in ``sizes`` can be 1 or more."""
    # In channels_last the trace would check memory layouts, and specialize maps of one pixel.
    net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    free = {name: Dim(name, min=1) for axes in inputs.values() for name in axes.values()}
    shapes = tuple({axis: (free | sizes)[name] for axis, name in axes.items()} for axes in inputs.values())
    # By default sizes of 1 would be specialized; torch.onnx traces this way too.
    settings = torch.fx.experimental._config
    with torch.no_grad(), settings.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(net, examples, dynamic_shapes=shapes)
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


def write_onnx(
    network: Traced,
    card: dict[str, Any],
    path: Path,
    calibration: Calibration | None = None,
    opset: int | None = None,
) -> None:
    """Write one .onnx file, including weights (up to protobuf's 2 GB), and check it with onnx.

    Args:
        network: the network.
        card: its card.
        path: the file.
        calibration: images for 8 bits; None for float32.
        opset: version of ONNX's operators; None for the one that torch writes.
    """
    onnx, script, runtime = _onnx_packages()
    names: Any = {"input_names": list(network.inputs), "output_names": [network.output]}
    axes: Any = tuple(network.inputs.values())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*axis name: batch will not be used")  # inputs share it, on purpose
        result = torch.onnx.export(
            network.program, (), dynamo=True, verbose=False, dynamic_shapes=axes, opset_version=opset, **names
        )
    assert result is not None
    if opset is not None and (got := result.model.opset_imports[""]) != opset:
        raise UserError(f"opset={opset}: this network can be written with opset {got} only. Leave it out.")
    first, output = result.model.graph.inputs[0].shape, result.model.graph.outputs[0].shape
    assert first is not None
    assert output is not None
    for axis in (1, 2):  # torch says min(height, height rounded up to the stride)
        output[len(output) - axis] = first[len(first) - axis]
    result.save(path, external_data=False)
    exporter = f"torch.onnx, onnx {onnx.__version__}, onnxscript {script.__version__}"
    if calibration is not None:
        quantize_onnx(path, next(iter(network.inputs)), calibration)
        exporter += f", int8 by onnxruntime {runtime.__version__}"
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: json.dumps({**card, "exporter": exporter, "checksum": UNSEALED})})
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    seal(path)


def write_program(network: Traced, card: dict[str, Any], path: Path, calibration: Calibration | None = None) -> None:
    """Write one .pt2 file, in float32."""
    assert calibration is None
    buffer = io.BytesIO()  # torch's own writer aborts the process if the disk is full
    about = {**card, "exporter": "torch.export"}
    torch.export.save(network.program, buffer, extra_files={EXTRA_FILE: json.dumps(about)})
    path.write_bytes(buffer.getbuffer())


def write_openvino(network: Traced, card: dict[str, Any], path: Path, calibration: Calibration | None = None) -> None:
    """Write an .xml file and its weights in a .bin file beside it."""
    openvino = import_openvino()
    model = openvino.convert_model(network.program)
    for each, name in zip(model.inputs, network.inputs, strict=True):
        each.get_tensor().set_names({name})
    model.output().get_tensor().set_names({network.output})
    exporter = f"openvino {openvino.__version__}"
    if calibration is not None:
        model = quantize_openvino(model, calibration)
        exporter += ", int8 by nncf"
    about = {**card, "exporter": exporter, "checksum": UNSEALED}
    model.set_rt_info(json.dumps(about), [METADATA])
    openvino.save_model(model, path, compress_to_fp16=False)
    seal(path)


FORMATS = {
    "onnx": Format(".onnx", _onnx_packages, write_onnx),
    "torch_export": Format(".pt2", lambda: None, write_program),
    "openvino": Format(".xml", import_openvino, write_openvino),
}
