"""Scores as a table in the terminal and as files."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from segunet.files import save_png, whole_file
from segunet.metrics import Scores
from segunet.terminal import console
from segunet.visualize import confusion_picture

_HEADLINE = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "fwiou": "FWIoU",
}


def write_report(scores: Scores, class_names: Sequence[str], folder: Path) -> None:
    """Write metrics.json, per_class.csv and confusion_matrix.png into ``folder``."""
    _write(folder / "metrics.json", json.dumps(as_dict(scores, class_names), indent=2, allow_nan=False) + "\n")
    _write(folder / "per_class.csv", _per_class_csv(scores, class_names))
    save_png(confusion_picture(scores.confusion, class_names), folder / "confusion_matrix.png")


def show_report(scores: Scores, class_names: Sequence[str]) -> None:
    """Print the per-class table and the headline numbers."""
    table = Table()
    table.add_column("class")
    for heading in ("IoU", "accuracy", "Dice", "pixels"):
        table.add_column(heading, justify="right")
    for name, row in _per_class(scores, class_names).items():
        table.add_row(escape(name), *(_cell(row[key]) for key in ("iou", "accuracy", "dice")), f"{row['pixels']:,}")
    console.print(table)
    numbers = "  ".join(f"{_HEADLINE[name]} {_cell(value)}" for name, value in scores.headline.items())
    console.print(f"{numbers}  ({scores.images} images)", highlight=False, soft_wrap=True)


def as_dict(scores: Scores, class_names: Sequence[str]) -> dict[str, Any]:
    """Return what metrics.json holds; an undefined number (NaN) is None."""
    return {
        **{name: _or_none(value) for name, value in scores.headline.items()},
        "images": scores.images,
        "confusion_matrix": scores.confusion.tolist(),
        "per_class": {
            name: {key: _or_none(value) for key, value in row.items()}
            for name, row in _per_class(scores, class_names).items()
        },
    }


def _per_class(scores: Scores, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    pixels = scores.confusion.sum(axis=1)
    return {
        name: {
            "iou": float(scores.iou[index]),
            "accuracy": float(scores.accuracy[index]),
            "dice": float(scores.dice[index]),
            "pixels": int(pixels[index]),
        }
        for index, name in enumerate(class_names)
    }


def _per_class_csv(scores: Scores, class_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "iou", "accuracy", "dice", "pixels"])
    for name, row in _per_class(scores, class_names).items():
        writer.writerow([name, *("" if _or_none(value) is None else value for value in row.values())])
    return text.getvalue()


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())
