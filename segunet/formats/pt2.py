"""Read a .pt2 program of ``torch.export`` without running code that somebody may have put into it.

``torch.export.load`` is not safe on its own (torch 2.14, whose documentation says so): it unpickles sample inputs,
constants and weights that are marked for it, loads shared libraries (AOTInductor), evaluates sizes and guards as
Python, and finds the functions that a program calls by any dotted name below ``torch``. What it cannot read it takes
for its older format, by another reader of archives, and unpickles all of it. So the file's bytes are read once and
looked through with torch's reader: what is not a tensor, a size, a name or a tensor operation is refused. Then the
reader of the current format alone gets the same bytes.
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
from segunet.base.files import check_archive

EXTRA_FILE = "segunet.json"  # what segunet.export adds
_PROGRAM, _EXTRA = "models/model.json", f"extra/{EXTRA_FILE}"
_TENSORS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_INPUTS = "data/sample_inputs/model.pt"

_RECORDS = re.compile(
    rf"archive_format|archive_version|byteorder|\.data/\w+|{_PROGRAM}|{_EXTRA}|{_INPUTS}|{'|'.join(_TENSORS)}|"
    r"data/(weights|constants)/(weight|tensor)_\d+"
)

_NAME = re.compile(r"[\w.,+<>-]*")

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
        UserError: there is none, or there is more in the file than a network needs.
        RuntimeError, ValueError, KeyError, ...: damaged.
    """
    content = io.BytesIO(path.read_bytes())
    check_archive(content)
    content.seek(0)
    archive = torch._C.PyTorchFileReader(content)
    records = archive.get_all_records()
    if _EXTRA not in records:
        raise UserError(f"{path} was not written by segunet.export: there is no {EXTRA_FILE} in it.")
    if strange := next(_strange(archive, records), None):
        raise UserError(
            f"{path} holds {strange[:200]!r}, which no network of segunet.export needs: it may run code of its own, "
            "so it is not opened. Export the checkpoint again."
        )
    content.seek(0)
    module = load_pt2(content).exported_programs["model"].module()
    return module.requires_grad_(False), archive.get_record(_EXTRA).decode()


def _strange(archive: torch._C.PyTorchFileReader, records: list[str]) -> Iterator[str]:
    """Yield what should not be there."""
    yield from (record for record in records if not _RECORDS.fullmatch(record))
    for record in _TENSORS:
        entries = json.loads(archive.get_record(record))["config"].values()
        yield from (f"{record}: use_pickle" for entry in entries if entry["use_pickle"] is not False)
    yield from _strange_texts(json.loads(archive.get_record(_PROGRAM)))
    # Raises what torch.export.load would take for a reason to unpickle anything.
    torch.load(io.BytesIO(archive.get_record(_INPUTS)), weights_only=True)


def _strange_texts(value: Any, key: str = "") -> Iterator[str]:
    """Yield the texts of a program (nested JSON) that do not have the form of what they should be."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _strange_texts(name)
            yield from _strange_texts(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _strange_texts(each, key)
    elif isinstance(value, str) and not _FORM.get(key, _NAME).fullmatch(value):
        yield value
