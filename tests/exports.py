"""A checkpoint of a very small network, exported to every format; made once for all tests."""

import contextlib
import io
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from segunet import export, train
from segunet.formats.write import FORMATS
from tests.commands import TINY

_SMALLER = ["model.encoder.num_maps=2", "model.decoder.widths=[8]", "model.decoder.reduced_channels=[4,8]"]


class Exports(NamedTuple):
    """The checkpoint, and by format the file beside it and what the command printed; to be read only."""

    checkpoint: Path
    files: dict[str, Path]
    printed: dict[str, str]


@cache
def export_to_every_format(voc: Path) -> Exports:
    """Train on the folder ``voc`` and export, without a name for the output."""
    run_dir = voc.parent / "exported"
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    _run(train, *TINY, *_SMALLER, f"data.root={voc}", "trainer.max_epochs=2", f"run_dir={run_dir}")
    printed = {name: _run(export, f"checkpoint={checkpoint}", f"format={name}", "images=3") for name in FORMATS}
    files = {name: checkpoint.with_suffix(each.suffix) for name, each in FORMATS.items()}
    return Exports(checkpoint, files, printed)


def _run(module: object, *overrides: str) -> str:
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(sys, "argv", ["command.py", *overrides])
        module.main()  # type: ignore[attr-defined]
    return output.getvalue()
