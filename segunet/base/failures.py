"""Failures of the machine told as a paragraph: out of memory, a full disk, a process that was ended."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segunet.base.errors import UserError

# What PyTorch's allocators, its loader processes, cuDNN, cuBLAS, OpenCV and ONNX Runtime say.
_OUT_OF_MEMORY = re.compile(r"allocate memory|out of memory|insufficient memory|alloc_failed|bad_?alloc", re.I)
_DEAD_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)", re.S)
_DEAD_RANK = re.compile(r"connection (was )?(closed|reset|refused)|remote process exited|processgroup|heartbeat", re.I)
_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "it is too large"}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` is one of the ways in which PyTorch and others say that the memory does not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, Exception) and _OUT_OF_MEMORY.search(f"{type(error).__name__} {error}") is not None


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Say of what runs out of memory here what it was, as in "in the training", and what to do.

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
    """Return the paragraph for an error that the machine caused; None for any other."""
    if is_out_of_memory(error):
        return UserError(
            f"Out of memory: {first_line(error)}. Give smaller images, batches or tiles, or other devices."
        )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f"{error.filename} could not be written" if error.filename else "A file could not be written"
        return UserError(f"{where}: {_NO_ROOM[error.errno]}. Make room or give another folder, then go on.")
    if isinstance(error, RuntimeError) and _DEAD_WORKER.search(str(error)):
        return UserError(
            f"A loader process ended: {first_line(error)}. Most likely memory ran out and the system ended it. Lower "
            "data.num_workers (0 is none), the batch size or the size of the images, then go on."
        )
    if isinstance(error, RuntimeError) and _DEAD_RANK.search(str(error)):
        return UserError(
            f"Another process of this run ended: {first_line(error)}. Its own messages say why; if there are "
            "none, most likely memory ran out and the system ended it. Then go on with all processes."
        )
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
