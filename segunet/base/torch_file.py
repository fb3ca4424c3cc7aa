"""Files of ``torch.save``: written atomically and verified, read without running code in them."""

import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import torch

from segunet.base.errors import UserError
from segunet.base.files import whole_file


def save_torch(content: Any, path: Path) -> None:
    """Write ``content`` with ``torch.save``, atomically, and verified before it replaces an old file."""
    with whole_file(path) as file:
        try:
            torch.save(content, file)
            file.flush()
            with Path(file.name).open("rb") as written:
                check_archive(written)
        except (RuntimeError, zipfile.BadZipFile) as error:  # torch's writer raises a RuntimeError for a full disk
            raise OSError(f"torch.save: {str(error).splitlines()[0]} (disk full?)") from error


# Errors of torch.load and zipfile for files that are truncated, damaged or of another format.
_UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error),
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
)


def read_torch_file(path: Path, advice: str) -> Any:
    """Load a file of ``torch.save``, tensors and plain containers only, on the CPU.

    Raises:
        UserError: not such a file; the message ends with ``advice``.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):  # torch's old format is not a zip archive and has no checksums
                check_archive(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        raise UserError(
            f"{path} ({size}) is not a readable PyTorch file of plain tensors: {_reason(error)}. {advice}"
        ) from error


def check_archive(file: IO[bytes]) -> None:
    """Verify the checksums of the records in a ``torch.save`` archive; torch itself does not.

    Raises:
        zipfile.BadZipFile: a record is damaged, or compressed, so its size in memory is not bounded.
    """
    with zipfile.ZipFile(file) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise zipfile.BadZipFile("compressed")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"its record {damaged} is damaged")


def _reason(error: Exception) -> str:
    """Return torch's message for a file that contains code or is truncated; its other messages are not helpful."""
    if code := re.search(r"Unsupported (global|class): [^\n]*?(?= was not an allowed|\. |\.?\n|$)", str(error), re.I):
        return code[0]
    cut_short = re.match("PytorchStreamReader[^.]*", str(error))
    return cut_short[0] if cut_short else "it is damaged or of another format"
