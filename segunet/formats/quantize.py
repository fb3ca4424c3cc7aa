"""Networks in 8 bits: weights int8 with a scale per channel, activations uint8 with scales from calibration images."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segunet.base.extras import import_extra

Calibration = Sequence[NDArray[Any]]  # images (N, C, H, W) of any sizes, as the network takes them


class _Reader:
    """Gives the calibration images to ONNX Runtime, one after the other."""

    def __init__(self, name: str, images: Calibration) -> None:
        self.inputs = iter([{name: image} for image in images])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.inputs, None)


def quantize_onnx(path: Path, name: str, images: Calibration) -> None:
    """Replace the float32 network of the .onnx file ``path``, whose input is ``name``, by one in 8 bits (QDQ)."""
    tools = import_extra("onnxruntime.quantization", "onnx")
    with _quiet():
        tools.quantize_static(
            path,
            path,
            _Reader(name, images),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )


def quantize_openvino(model: Any, images: Calibration) -> Any:
    """Return the OpenVINO ``model`` in 8 bits, by NNCF."""
    nncf = import_extra("nncf", "int8")
    with _quiet():
        return nncf.quantize(model, nncf.Dataset(list(images)), subset_size=len(images))


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the libraries' progress messages and advice on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
