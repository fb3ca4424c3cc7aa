"""A checksum inside an exported file, over the file and its weights file: formats such as ONNX have none.

It is a SHA-256 of 64 hexadecimal digits in the card, computed with zeros in their place. It detects damage; it does
not authenticate the file.
"""

import hashlib
import re
from pathlib import Path

from segunet.base.errors import UserError

UNSEALED = "0" * 64  # the card's checksum before the file is sealed
_DIGITS = re.compile(rb"checksum.{1,24}?([0-9a-f]{64})", re.DOTALL)


def seal(path: Path) -> None:
    """Write the checksum of the file ``path`` into it; its card has :data:`UNSEALED` there."""
    content = bytearray(path.read_bytes())
    digits = _DIGITS.search(content)
    assert digits is not None
    content[slice(*digits.span(1))] = _digest(path, content, digits.span(1)).encode()
    path.write_bytes(content)


def check_seal(path: Path) -> None:
    """Raise a UserError if the file has changed since it was sealed; a file without a checksum is accepted."""
    content = bytearray(path.read_bytes())
    digits = _DIGITS.search(content)
    if digits and digits[1].decode() != _digest(path, content, digits.span(1)):
        raise UserError(
            f"{path} is damaged: it, or its weights file, is not what segunet.export wrote. Copy the file again "
            "from its source, or export the checkpoint again."
        )


def _digest(path: Path, content: bytearray, digits: tuple[int, int]) -> str:
    """Return the checksum of the file's content and the weights file, with zeros for the digits."""
    digest = hashlib.sha256(content[: digits[0]] + UNSEALED.encode() + content[digits[1] :])
    if path.suffix == ".xml":
        digest.update(path.with_suffix(".bin").read_bytes())
    return digest.hexdigest()
