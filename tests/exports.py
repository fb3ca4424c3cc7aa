"""A checkpoint of a very small network, exported to every format; made once for all tests."""

import contextlib
import io
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from segunet import export, train
from segunet.formats.write import FORMATS
from tests.commands import TINY, main

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
    return export_everything(checkpoint, checkpoint.parent, "images=3")


def export_everything(checkpoint: Path, folder: Path, *options: str) -> Exports:
    """Export a checkpoint into a ``folder``; without a name for the output if it is the checkpoint's own."""
    files = {name: folder / f"{checkpoint.stem}{each.suffix}" for name, each in FORMATS.items()}
    named = {name: [] if folder == checkpoint.parent else [f"output={path}"] for name, path in files.items()}
    printed = {
        name: _run(export, f"checkpoint={checkpoint}", f"format={name}", *options, *named[name]) for name in FORMATS
    }
    return Exports(checkpoint, files, printed)


def _run(module: ModuleType, *overrides: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(module, *overrides)
    return output.getvalue()
