"""Read a .pt2 program of ``torch.export`` without running code in it.

``torch.export.load`` is not safe by itself (torch 2.14, as documented): it unpickles sample inputs, constants
and weights that are marked for it, loads shared libraries (AOTInductor), evaluates sizes and guards as Python, and
resolves the functions that a program calls from any dotted name below ``torch``. A file that it cannot read is taken
for its old format, which uses another archive reader and unpickles everything. So the file's bytes are read once and
validated with torch's reader: anything but tensors, sizes, names and tensor operations is rejected. Then the same
bytes are passed to the reader of the current format only.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive._package import load_pt2

from segunet.base.errors import UserError
from segunet.base.torch_file import check_archive

EXTRA_FILE = "segunet.json"  # added by segunet.export
_PROGRAM, _EXTRA = "models/model.json", f"extra/{EXTRA_FILE}"
_TENSORS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_INPUTS = "data/sample_inputs/model.pt"

_RECORDS = re.compile(
    rf"archive_format|archive_version|byteorder|\.data/\w+|{_PROGRAM}|{_EXTRA}|{_INPUTS}|{'|'.join(_TENSORS)}|"
    r"data/(weights|constants)/(weight|tensor)_\d+"
)

_NAME = re.compile(r"[\w.,+<>-]*|\d+\*s\d+")  # the last one is a size that is a multiple of a number

_SIZE = re.compile(
    r"(\b(Symbol|Integer|Add|Mul|Max|Min|Mod|FloorDiv|positive|nonnegative|integer|True|s\d+|\d+)\b|[ (),='-])*"
)

_STRUCTURE = re.compile(r"(\b(null|type|context|children_spec|builtins\.(tuple|list|dict)|\d+)\b|[][{}:, \"])*")

_OPERATION = re.compile(
    r"torch\.ops\.aten\.(?!(save|from_file)\.)_?[a-z]\w*\.[A-Za-z]\w*|"
    r"_operator\.(add|sub|mul|floordiv|mod|neg|getitem|eq|ne|lt|le|gt|ge)"
)

_FORM = {"target": _OPERATION, "expr_str": _SIZE, "in_spec": _STRUCTURE, "out_spec": _STRUCTURE}


def read_program(path: Path) -> tuple[torch.nn.Module, str]:
    """Return the program's module and the text of its ``EXTRA_FILE``.

    Raises:
        UserError: there is none, or the file contains more than a network needs.
        RuntimeError, ValueError, KeyError, ...: damaged.
    """
    content = io.BytesIO(path.read_bytes())
    check_archive(content)
    content.seek(0)
    archive = torch._C.PyTorchFileReader(content)
    records = archive.get_all_records()
    if _EXTRA not in records:
        raise UserError(f"{path} was not written by segunet.export: it contains no {EXTRA_FILE}.")
    if strange := next(_unexpected_content(archive, records), None):
        raise UserError(
            f"{path} contains {strange[:200]!r}, which no network of segunet.export needs: it may run code, "
            "so it is not loaded. Export the checkpoint again."
        )
    content.seek(0)
    module = load_pt2(content).exported_programs["model"].module()
    return module.requires_grad_(False), archive.get_record(_EXTRA).decode()


def _unexpected_content(archive: torch._C.PyTorchFileReader, records: list[str]) -> Iterator[str]:
    """Yield unexpected content."""
    yield from (record for record in records if not _RECORDS.fullmatch(record))
    for record in _TENSORS:
        entries = json.loads(archive.get_record(record))["config"].values()
        yield from (f"{record}: use_pickle" for entry in entries if entry["use_pickle"] is not False)
    yield from _unexpected_strings(json.loads(archive.get_record(_PROGRAM)))
    # Raises where torch.export.load would fall back to unpickling anything.
    torch.load(io.BytesIO(archive.get_record(_INPUTS)), weights_only=True)


def _unexpected_strings(value: Any, key: str = "") -> Iterator[str]:
    """Yield the strings of a program (nested JSON) that do not have the expected form."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _unexpected_strings(name)
            yield from _unexpected_strings(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _unexpected_strings(each, key)
    elif isinstance(value, str) and not _FORM.get(key, _NAME).fullmatch(value):
        yield value
