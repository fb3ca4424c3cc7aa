"""Export the tests' trained checkpoint to every format, once for all tests."""

import contextlib
import io
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from segunet import export
from segunet.formats import FORMATS


class Exports(NamedTuple):
    """By format: the file, and what the command printed. They lie beside net.ckpt; to be read only."""

    files: dict[str, Path]
    printed: dict[str, str]


@cache
def export_to_every_format(trained: Path) -> Exports:
    """Run the command on ``trained``'s best checkpoint, in a folder beside."""
    folder = trained.parent / "exported"
    folder.mkdir()
    checkpoint = shutil.copy(trained / "checkpoints" / "best.ckpt", folder / "net.ckpt")
    printed = {}
    for name in FORMATS:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
            patch.setattr(sys, "argv", ["export.py", f"checkpoint={checkpoint}", f"format={name}", "images=3"])
            export.main()
        printed[name] = output.getvalue()
    return Exports({name: folder / f"net{each.suffix}" for name, each in FORMATS.items()}, printed)
