"""Files of safetensors: tensors by name and some text, without code; the extra ``segunet[safetensors]``."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.files import whole_file
from segunet.base.torch_file import read_torch_file

SUFFIX = ".safetensors"
_CHECKSUM = "checksum"


def write_tensors(tensors: Mapping[str, Tensor], text: Mapping[str, str], path: Path) -> None:
    """Write tensors and texts by name, atomically, with a checksum, which the format itself does not have."""
    library = import_extra("safetensors.torch", "safetensors")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {**text, "format": "pt", _CHECKSUM: _checksum(plain, text)}
    with whole_file(path) as file:
        file.write(library.save(plain, metadata))


def read_tensors(path: Path, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the texts of a file; a checksum, if there is one, is verified.

    Raises:
        UserError: not such a file, or a damaged one (with ``advice``); safetensors is not installed.
    """
    library = import_extra("safetensors", "safetensors")
    try:
        with library.safe_open(path, framework="pt") as file:
            text: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, ValueError, RuntimeError, AttributeError, library.SafetensorError) as error:
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} ({size}) is not a readable file of safetensors: {reason}. {advice}") from error
    wanted, own = text.pop(_CHECKSUM, None), {name: each for name, each in text.items() if name != "format"}
    if wanted is not None and wanted != _checksum(tensors, own):
        raise UserError(f"{path} is damaged: its checksum is wrong. {advice}")
    return tensors, own


def read_weights(path: Path, advice: str) -> Any:
    """Return what a file of ``torch.save`` or of safetensors holds; raises as their readers."""
    return read_tensors(path, advice)[0] if path.suffix == SUFFIX else read_torch_file(path, advice)


def _checksum(tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> str:
    """Return a digest of names, types, shapes and values, and of the texts."""
    digest = hashlib.sha256(repr(sorted(text.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
