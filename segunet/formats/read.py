"""Read exported files: the network as a module, and its card.

Segmentation networks take ``images`` (N, C, H, W), and return what their ``formats.interface.Interface`` says;
denoisers are called by their method ``run`` with the inputs of :func:`segunet.formats.write.traced_denoiser`. All use
as many threads as torch (``torch.get_num_threads``, the environment variable OMP_NUM_THREADS) and are deterministic.
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.files import is_file
from segunet.formats.pt2 import read_program
from segunet.formats.seal import check_seal
from segunet.models.classic_unet import check_can_mirror

METADATA = "segunet"  # the key in ONNX's metadata_props and OpenVINO's rt_info
EXPORT_AGAIN = "Export the checkpoint again: python -m segunet.export checkpoint=PATH format=..."

# ONNX operators that compute a tensor from others; no control flow, none that create a tensor from a shape.
_OPERATORS = frozenset(
    """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvTranspose Cos
    DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Flatten Floor Gather Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Min Mod Mul Neg Not Or PRelu Pad
    Pow QuantizeLinear Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Resize Round Shape Sigmoid Sign Sin
    Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - a list would take a line per name
)


class ExportedNet(nn.Module):
    """The network of an exported file.

    Attributes:
        border, stride: as in ``models.classic_unet.ClassicUNet``, for an unpadded network.
        float_input: whether it takes images as float32, not uint8.
    """

    border = 0
    stride = 1
    float_input = False

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the output of all inputs in the file's order, each in its dtype.

        Raises:
            RuntimeError: the runtime failed, for example out of memory, or an input does not fit.
        """
        raise NotImplementedError


class ArrayNet(ExportedNet):
    """A network of another runtime as a module. It always runs on the CPU.

    Args:
        compute: the inputs, in the file's order -> the output.
    """

    def __init__(self, compute: Callable[[list[NDArray[Any]]], NDArray[Any]]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, images: Tensor) -> Tensor:
        """Return the output for ``images`` (N, C, H, W) uint8, or float 0..255, which a uint8 input rounds.

        Raises:
            RuntimeError: as :meth:`run`.
        """
        check_can_mirror(images, self.border)
        if self.float_input:
            return self.run(images.float())
        if images.is_floating_point():
            images = images.round().clamp(0, 255)
        return self.run(images.to(torch.uint8))

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the output; raises as :meth:`ExportedNet.run`."""
        arrays = [each.cpu().contiguous().numpy() for each in inputs]
        try:
            output = self.compute(arrays)
        except Exception as error:  # each runtime has its own errors
            raise RuntimeError(str(error)) from error
        return torch.from_numpy(output).to(inputs[0].device)


class ProgramNet(ExportedNet):
    """A program of torch.export as a module, on any device."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module only: the program was traced in evaluation mode."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the output for ``images`` (N, C, H, W), uint8 or float 0..255."""
        check_can_mirror(images, self.border)
        return self.run(images.float() if self.float_input else images)

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the output; raises as :meth:`ExportedNet.run`."""
        output: Tensor = self.program(*inputs)
        return output


def read_exported(path: Path) -> tuple[ExportedNet, Any]:
    """Return the network of a file that segunet.export wrote, and its card, as unvalidated JSON.

    Args:
        path: its suffix is a key of :data:`READERS`.

    Raises:
        UserError: no file, not segunet.export's, damaged, or a package that is missing.
    """
    if not is_file(path):
        raise UserError(f"There is no checkpoint {path.absolute()}. Give the path of a file that segunet.export wrote.")
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not is_file(weights):
        raise UserError(f"{path} has its weights in {weights.name} beside it, which is missing. Copy both files.")
    try:
        if path.suffix != ".pt2":  # .pt2 is an archive, whose records have checksums
            check_seal(path)
        net, text = READERS[path.suffix](path)
        card = json.loads(text) if text else None
    except UserError:
        raise
    except Exception as error:  # each runtime has its own errors
        reason = " ".join(str(error).split()).split(". ")[0][:300] or type(error).__name__
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) is not a readable {path.suffix} file: {reason}. It may be truncated "
            f"or of another format. {EXPORT_AGAIN}"
        ) from error
    if card is None:
        raise UserError(
            f"{path} was not written by segunet.export: it has no description under {METADATA!r}. {EXPORT_AGAIN}"
        )
    return net, card


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which sends usage data to Google Analytics without asking.

    Raises:
        UserError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO works without it
    return import_extra("openvino", "openvino")


@cache
def openvino_core() -> Any:
    """Return the process's only OpenVINO core, which lives as long as the process.

    The CPU plugin gives the thread an alternate signal stack and takes it away with its core. With two cores, the
    thread is left with one that was freed, and the next signal ends the process.

    Raises:
        UserError: OpenVINO is not installed.
    """
    return import_openvino().Core()


def _read_onnx(path: Path) -> tuple[ExportedNet, str | None]:
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Waiting threads must not spin: loader processes and torch need the cores too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _check_operators(path)
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    names = [each.name for each in session.get_inputs()]
    return ArrayNet(lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]), text


def _check_operators(path: Path) -> None:
    """Reject operators that no network needs: a loop may run forever, a tensor constructor may exhaust memory."""
    model = import_extra("onnx", "onnx").load(path, load_external_data=False)
    strange = {node.op_type for node in model.graph.node if node.op_type not in _OPERATORS or node.domain}
    if model.functions or strange:
        raise UserError(
            f"{path} contains operators that a network does not need ({', '.join(sorted(strange)) or 'functions'}), so "
            "it is not run. Export the checkpoint again; a custom network that needs them can be exported with "
            "format=torch_export."
        )


def _read_program(path: Path) -> tuple[ExportedNet, str | None]:
    program, text = read_program(path)
    return ProgramNet(program.to(memory_format=torch.channels_last)), text  # faster than as it was traced


def _read_openvino(path: Path) -> tuple[ExportedNet, str | None]:
    if b"<net" not in path.read_bytes()[:200]:
        raise UserError(f"{path} is not an OpenVINO network. {EXPORT_AGAIN}")
    model = openvino_core().read_model(path)
    text = model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None
    settings = {
        # By default it computes in bfloat16 on CPUs that support it.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino_core().compile_model(model, "CPU", settings)
    return ArrayNet(lambda inputs: compiled(inputs)[0]), text


READERS: dict[str, Callable[[Path], tuple[ExportedNet, str | None]]] = {
    ".onnx": _read_onnx,
    ".pt2": _read_program,
    ".xml": _read_openvino,
}
