"""What an evaluation leaves: JSON, CSV, an image, a table."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segunet.base.terminal import console
from segunet.images.drawing import confusion_image
from segunet.metrics.scores import Scores, scores_from_confusion
from segunet.report.scores import as_dict, show_report, write_report

CLASS_NAMES = ["background", "disc, round", "absent"]
CONFUSION = [[90, 10, 0], [5, 20, 0], [0, 0, 0]]


@pytest.fixture
def scores() -> Scores:
    return scores_from_confusion(CONFUSION, images=3)


@pytest.fixture
def nothing() -> Scores:
    return scores_from_confusion(np.zeros((3, 3), dtype=np.int64), images=0)


def strict_json(path: Path) -> dict[str, Any]:
    """Read JSON, without Python's own NaN and Infinity."""
    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    return content


def test_metrics_json_has_these_keys_and_values(scores: Scores, tmp_path: Path) -> None:
    write_report(scores, CLASS_NAMES, tmp_path)
    metrics = strict_json(tmp_path / "metrics.json")
    headline = {"pixel_accuracy", "mean_accuracy", "miou", "fwiou"}
    assert set(metrics) == headline | {"images", "confusion_matrix", "per_class"}
    for name in headline:
        assert metrics[name] == getattr(scores, name)
    assert metrics["images"] == 3
    assert metrics["confusion_matrix"] == CONFUSION
    assert list(metrics["per_class"]) == CLASS_NAMES
    wanted = {"iou": 20 / 35, "accuracy": 20 / 25, "dice": 40 / 55, "pixels": 25}
    assert metrics["per_class"]["disc, round"] == pytest.approx(wanted)
    assert isinstance(metrics["per_class"]["background"]["pixels"], int)


def test_an_undefined_number_is_null(scores: Scores, nothing: Scores, tmp_path: Path) -> None:
    write_report(scores, CLASS_NAMES, tmp_path)
    absent = strict_json(tmp_path / "metrics.json")["per_class"]["absent"]
    assert absent == {"iou": None, "accuracy": None, "dice": None, "pixels": 0}
    write_report(nothing, CLASS_NAMES, tmp_path)
    metrics = strict_json(tmp_path / "metrics.json")
    assert [metrics[name] for name in ("miou", "pixel_accuracy", "mean_accuracy", "fwiou")] == [None] * 4


def test_what_is_written_is_what_as_dict_says(scores: Scores, tmp_path: Path) -> None:
    write_report(scores, CLASS_NAMES, tmp_path)
    assert strict_json(tmp_path / "metrics.json") == as_dict(scores, CLASS_NAMES)


def test_per_class_csv_has_a_row_a_class_and_empty_cells_for_undefined_numbers(scores: Scores, tmp_path: Path) -> None:
    write_report(scores, CLASS_NAMES, tmp_path)
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == CLASS_NAMES
    assert list(rows[0]) == ["class", "iou", "accuracy", "dice", "pixels"]
    for index, row in enumerate(rows[:2]):
        assert float(row["iou"]) == scores.iou[index]
        assert float(row["accuracy"]) == scores.accuracy[index]
        assert float(row["dice"]) == scores.dice[index]
    assert [row["pixels"] for row in rows] == ["100", "25", "0"]
    assert [rows[2][name] for name in ("iou", "accuracy", "dice")] == [""] * 3


def test_the_confusion_matrix_is_drawn(scores: Scores, nothing: Scores, tmp_path: Path) -> None:
    for each in (scores, nothing):
        write_report(each, CLASS_NAMES, tmp_path)
        with Image.open(tmp_path / "confusion_matrix.png") as image:
            assert (np.asarray(image) == confusion_image(each.confusion, CLASS_NAMES)).all()


def test_a_report_is_three_files_in_a_folder_that_it_makes(scores: Scores, tmp_path: Path) -> None:
    write_report(scores, CLASS_NAMES, tmp_path / "new" / "folder")
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names == {"metrics.json", "per_class.csv", "confusion_matrix.png"}


def test_the_table_shows_every_class_and_the_headline(scores: Scores) -> None:
    with console.capture() as capture:
        show_report(scores, CLASS_NAMES)
    lines = capture.get().splitlines()
    rows = {name: next(line for line in lines if name in line) for name in CLASS_NAMES}
    assert "0.5714" in rows["disc, round"]
    assert "100" in rows["background"]
    assert rows["absent"].count(" - ") == 3
    assert lines[-2] == "classes without pixels in the truth (their IoU is 0 or undefined): absent"
    assert lines[-1].split("  ") == [
        f"mIoU {scores.miou:.4f}",
        f"pixel accuracy {scores.pixel_accuracy:.4f}",
        f"mean accuracy {scores.mean_accuracy:.4f}",
        f"FWIoU {scores.fwiou:.4f}",
        "(3 images)",
    ]


@pytest.mark.parametrize("name", ["[red]", "[/]", "class [old]"])
def test_a_class_name_in_brackets_is_shown_as_it_is(name: str) -> None:
    scores = scores_from_confusion([[3, 1], [2, 4]], images=1)
    with console.capture() as capture:
        show_report(scores, ["background", name])
    assert name in capture.get()


def test_class_names_of_any_script_are_written(scores: Scores, tmp_path: Path) -> None:
    names = ["Hintergrund", "Straße", "道路"]
    write_report(scores, names, tmp_path)
    assert list(strict_json(tmp_path / "metrics.json")["per_class"]) == names
    assert "道路" in (tmp_path / "per_class.csv").read_text(encoding="utf-8")
