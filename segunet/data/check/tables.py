"""Findings about a data set, in the terminal and as check.json."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from segunet.base.errors import counted
from segunet.base.files import write_json
from segunet.base.terminal import console, show_table
from segunet.data.check.findings import KINDS, SEVERITIES, Finding
from segunet.data.check.survey import Split, Survey
from segunet.data.masks import enet_weights

_SHOWN = 3  # files per kind; the others are in check.json
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def write_findings(survey: Survey, folder: Path) -> None:
    """Write :func:`as_dict` as check.json into ``folder``."""
    write_json(folder / "check.json", as_dict(survey))


def as_dict(survey: Survey) -> dict[str, Any]:
    """Return the content of check.json.

    folder               the data set's
    class_names          K names
    ignore_index         the mask value of ignored pixels
    errors, warnings, notes
                         number of findings of each
    findings             list, most serious kind first; only kinds that were found:
        kind             its short name, as in ``segunet.data.check.findings.KINDS``
        severity         error (stops training or invalidates its scores), warning or note
        title, advice    what it is and what to do
        count            length of ``files``
        files            list of every file: ``file`` (path below the folder), ``detail`` (completes a sentence
                         that starts with the file's name) and ``split`` (train, val or null)
    splits               for train and val:
        list             path of the list below the folder
        examples         number of distinct names on it
        classes          for each class name ``pixels`` and ``images``: its pixels, and the masks with it
        ignored          the same for the ignore index
    images, masks      of both lists:
        modes            Pillow's mode, or a raster's bands and type -> number of files
    images             also:
        sizes            number of distinct sizes
        height, width    [smallest, median, largest] in pixels, upright; null if no image could be read
        mean, std        of each channel over the training images, 0..255; null if none could be read
    class_weights        K numbers for loss.pixelwise.class_weights, from the training masks; null if none is valid
    """
    return {
        "folder": str(survey.folder.absolute()),
        "class_names": list(survey.class_names),
        "ignore_index": survey.form.ignore_index,
        **{f"{severity}s": len(survey.of_severity(severity)) for severity in SEVERITIES},
        "findings": [_kind_as_dict(survey, kind, found) for kind, found in survey.by_kind().items()],
        "splits": {split.role: _split_as_dict(survey, split) for split in survey.splits},
        "images": {
            "modes": dict(survey.image_modes.most_common()),
            "sizes": len(survey.sizes),
            "height": _spread(survey.sizes, 0),
            "width": _spread(survey.sizes, 1),
            "mean": survey.moments and survey.moments.mean,
            "std": survey.moments and survey.moments.std,
        },
        "masks": {"modes": dict(survey.mask_modes.most_common())},
        "class_weights": class_weights(survey),
    }


def class_weights(survey: Survey) -> list[float] | None:
    """Return the weights of ``loss.pixelwise.class_weights=auto``; None without a pixel of any class."""
    pixels = survey.splits[0].pixels[: survey.form.num_classes]
    weights = enet_weights(pixels, survey.form.ignore_index)
    return weights if (pixels[np.array(weights) > 0]).any() else None


def show_findings(survey: Survey) -> None:
    """Print each kind of finding with its first files and what to do."""
    for kind, found in survey.by_kind().items():
        severity, title, advice = KINDS[kind]
        style = _STYLES[severity]
        _print(Text.assemble((f"{severity:<8}", style), (f"{len(found):>6}  {title}", "bold")))
        for finding in found[:_SHOWN]:
            _print(Text(f"{'':16}{_below(survey, finding.file)} {finding.detail}"))
        more = f"... and {len(found) - _SHOWN} more. " if len(found) > _SHOWN else ""
        _print(Text(f"{'':16}{more}{advice}", "dim"))
    if not survey.findings:
        _print(Text("no problems found"))


def show_images(survey: Survey) -> None:
    """Print the images' sizes, and the modes of images and masks."""
    if survey.sizes:
        spreads = [
            f"{name} {' / '.join(f'{value:g}' for value in _spread(survey.sizes, axis) or [])}"
            for axis, name in enumerate(("height", "width"))
        ]
        sizes = counted(len(survey.sizes), "size")
        _print(Text(f"images: {sizes}, {', '.join(spreads)} (smallest / median / largest)"))
    for name, modes in (("images", survey.image_modes), ("masks", survey.mask_modes)):
        _print(Text(f"{name}: mode {', '.join(f'{mode} ({times:,})' for mode, times in modes.most_common())}"))
    if survey.moments is not None and survey.form.bands is not None:
        mean, std = (str(each).replace(" ", "") for each in (survey.moments.mean, survey.moments.std))
        _print(Text(f"mean and standard deviation of the training images:\n  data.mean={mean} data.std={std}"))


def show_balance(survey: Survey) -> None:
    """Print each class's share of the pixels and number of images in each list, and class weights to paste."""
    weights = class_weights(survey)
    if weights is None:
        _print(Text("no mask of the training list is valid, so class balance is not reported"))
        return
    table = Table()
    table.add_column("class")
    for split in survey.splits:
        table.add_column(f"{split.role}: pixels", justify="right")
        table.add_column("images", justify="right")
    for value, name in (dict(enumerate(survey.class_names)) | {survey.form.ignore_index: "(ignored)"}).items():
        cells = (_balance(split, value) for split in survey.splits)
        table.add_row(escape(name), *(cell for pair in cells for cell in pair))
    show_table(table)
    listed = ",".join(map(str, weights))
    _print(Text(f"class weights, to give rare classes more weight:\n  'loss.pixelwise.class_weights=[{listed}]'"))


def _balance(split: Split, value: int) -> tuple[str, str]:
    share = split.pixels[value] / max(split.pixels.sum(), 1)
    return f"{100 * share:.2f} %", f"{split.images[value]:,}"


def _kind_as_dict(survey: Survey, kind: str, found: Sequence[Finding]) -> dict[str, Any]:
    files = [{"file": _below(survey, each.file), "detail": each.detail, "split": each.split} for each in found]
    return {"kind": kind, **KINDS[kind]._asdict(), "count": len(found), "files": files}


def _split_as_dict(survey: Survey, split: Split) -> dict[str, Any]:
    def of(value: int) -> dict[str, int]:
        return {"pixels": int(split.pixels[value]), "images": int(split.images[value])}

    return {
        "list": _below(survey, split.path),
        "examples": len(split.pairs),
        "classes": {name: of(index) for index, name in enumerate(survey.class_names)},
        "ignored": of(survey.form.ignore_index),
    }


def _spread(sizes: Counter[tuple[int, int]], axis: int) -> list[float] | None:
    """Return the smallest, the median and the largest of the images' heights (axis 0) or widths (axis 1)."""
    if not sizes:
        return None
    sides = np.repeat([size[axis] for size in sizes], list(sizes.values()))
    return [int(sides.min()), float(np.median(sides)), int(sides.max())]


def _below(survey: Survey, path: Path) -> str:
    below = path.relative_to(survey.folder) if path.is_relative_to(survey.folder) else path
    return os.fsencode(below.as_posix()).decode(errors="replace")  # not every file name is UTF-8


def _print(text: Text) -> None:
    console.print(text, soft_wrap=True)
