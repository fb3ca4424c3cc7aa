"""Scores as a table in the terminal and as files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from segunet.base.errors import counted
from segunet.base.files import save_png, write_csv, write_json
from segunet.base.terminal import console, show_table
from segunet.images.drawing import confusion_image
from segunet.metrics.scores import HEADLINE, Scores, absent_note, mean_of_defined

FILES = ("metrics.json", "per_class.csv", "per_image.csv", "confusion_matrix.png")  # in a run's folder


def headline(scores: Scores) -> dict[str, float]:
    """Return the single numbers that were computed, by name, in display order."""
    numbers = dict(scores.headline)
    if scores.image_miou:
        numbers["mean_image_miou"] = scores.mean_image_miou
    if scores.boundary_iou is not None:
        numbers["boundary_miou"] = mean_of_defined(scores.boundary_iou)
    return numbers


def write_report(scores: Scores, class_names: Sequence[str], folder: Path) -> None:
    """Write metrics.json, per_class.csv, confusion_matrix.png and, if available, per_image.csv into ``folder``."""
    content = as_dict(scores, class_names)
    write_json(folder / "metrics.json", content)
    write_csv(folder / "per_class.csv", [{"class": name, **row} for name, row in content["per_class"].items()])
    if images := scores.image_miou:
        write_csv(
            folder / "per_image.csv", [{"image": name, "miou": _or_none(value)} for name, value in images.items()]
        )
    save_png(confusion_image(scores.confusion, class_names), folder / "confusion_matrix.png")


def show_report(scores: Scores, class_names: Sequence[str]) -> None:
    """Print the per-class table and the headline numbers."""
    table = Table()
    table.add_column("class")
    for heading in per_class_headings(scores).values():
        table.add_column(heading, justify="right")
    for name, row in per_class(scores, class_names).items():
        table.add_row(escape(name), *(as_text(value) for value in row.values()))
    show_table(table)
    if note := absent_note(scores, class_names):
        console.print(f"classes {note}", highlight=False, markup=False, soft_wrap=True)
    numbers = "  ".join(f"{HEADLINE[name]} {as_text(value)}" for name, value in headline(scores).items())
    console.print(f"{numbers}  ({counted(scores.images, 'image')})", highlight=False, soft_wrap=True)


def as_dict(scores: Scores, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the content of metrics.json; an undefined number (NaN) is None."""
    return {
        **{name: _or_none(value) for name, value in headline(scores).items()},
        "images": scores.images,
        **({"objects": scores.objects.counts._asdict()} if scores.objects else {}),
        "confusion_matrix": scores.confusion.tolist(),
        "per_class": {
            name: {key: _or_none(value) for key, value in row.items()}
            for name, row in per_class(scores, class_names).items()
        },
    }


def per_class_headings(scores: Scores) -> dict[str, str]:
    """Return the names of the per-class numbers and their table headings."""
    boundary = {} if scores.boundary_iou is None else {"boundary_iou": "boundary IoU"}
    return {"iou": "IoU", **boundary, "accuracy": "accuracy", "dice": "Dice", "pixels": "pixels"}


def per_class(scores: Scores, class_names: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Return each class's numbers by name, in the order of :func:`per_class_headings`; NaN if undefined."""
    columns = {"iou": scores.iou, "boundary_iou": scores.boundary_iou, "accuracy": scores.accuracy}
    columns |= {"dice": scores.dice, "pixels": scores.confusion.sum(axis=1)}
    computed = {key: column for key, column in columns.items() if column is not None}
    return {
        name: {key: column[index].item() for key, column in computed.items()} for index, name in enumerate(class_names)
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_text(value: float | int) -> str:
    """Return a score with four decimals, "-" if it is undefined, or a count."""
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if math.isnan(value) else f"{value:.4f}"
