"""What a device can do at most: floating-point operations in matrix products, and bytes read and written."""

from collections.abc import Callable
from functools import partial

import torch

_SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices; a CPU without bfloat16 takes seconds for its smaller ones
_NUMBERS = 2**26  # in the array that is copied: 256 MB, beyond every cache
COPIED_BYTES = 2 * 4 * _NUMBERS  # read and written


def matrix_flops(device: torch.device) -> int:
    """Return the floating-point operations of :func:`matrix_product`."""
    return 2 * int(_SIDE[device.type] ** 3)


def matrix_product(device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that multiplies two square matrices."""
    side = _SIDE[device.type]
    first, second = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return partial(finished, partial(torch.mm, first, second, out=torch.empty_like(first)), device)


def copy(device: torch.device) -> Callable[[], object]:
    """Return a function that copies an array in memory: :data:`COPIED_BYTES` are read or written."""
    source = torch.rand(_NUMBERS, device=device)
    return partial(finished, partial(torch.empty_like(source).copy_, source), device)


def finished(function: Callable[[], object], device: torch.device) -> None:
    """Call a function, and wait until a GPU has done its work."""
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
