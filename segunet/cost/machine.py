"""What a device can do at most: floating-point operations in matrix products, and bytes read and written."""

from collections.abc import Callable
from functools import partial

import torch

_SIDE = 2048  # of the matrices
_NUMBERS = 2**26  # in the array that is copied: 256 MB, beyond every cache
MATRIX_FLOPS = 2 * _SIDE**3
COPIED_BYTES = 2 * 4 * _NUMBERS  # read and written


def matrix_product(device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that multiplies two matrices with :data:`MATRIX_FLOPS` floating-point operations."""
    first, second = (torch.rand(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
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
