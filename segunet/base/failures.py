"""System failures as user errors: out of memory, a full disk, a killed process."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segunet.base.errors import UserError

# Messages of PyTorch's allocators and loader processes, cuDNN, cuBLAS, OpenCV and ONNX Runtime.
_OUT_OF_MEMORY = re.compile(r"allocate memory|out of memory|insufficient memory|alloc_failed|bad_?alloc", re.I)
_DEAD_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)", re.S)
_DEAD_RANK = re.compile(r"connection (was )?(closed|reset|refused)|remote process exited|processgroup|heartbeat", re.I)
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "it is too large"}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` is an out-of-memory error of PyTorch or another library."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, Exception) and _OUT_OF_MEMORY.search(f"{type(error).__name__} {error}") is not None


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Convert an out-of-memory error into a UserError that says ``what`` failed, such as "in the training"; add advice.

    Raises:
        UserError: out of memory.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"Out of memory {what}. {advice}") from error


def explained(error: BaseException) -> UserError | None:
    """Return a UserError for an error that the system caused; None for any other."""
    if is_out_of_memory(error):
        return UserError(
            f"Out of memory: {first_line(error)}. Use smaller images, batches or tiles, or another device."
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f"{error.filename} could not be written" if error.filename else "A file could not be written"
        return UserError(f"{where}: {_FULL[error.errno]}. Free some space or give another folder, then resume.")
    if isinstance(error, RuntimeError) and _DEAD_WORKER.search(str(error)):
        return UserError(
            f"A loader process died: {first_line(error)}. Most likely the system killed it for lack of memory. Lower "
            "data.num_workers (0 for none), the batch size or the image size, then resume."
        )
    if isinstance(error, RuntimeError) and _DEAD_RANK.search(str(error)):
        return UserError(
            f"Another process of this run died: {first_line(error)}. Its own messages say why; if there are "
            "none, most likely the system killed it for lack of memory. Fix the cause, then resume with all processes."
        )
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
