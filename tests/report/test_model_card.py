"""The card beside the best checkpoint."""

import json
import re
from pathlib import Path

import yaml

from segunet.report.model_card import card_text
from tests.images.test_drawing import colours_of
from tests.report.test_page import report_with


def test_a_training_writes_it_with_its_scores(trained: Path) -> None:
    text = (trained / "checkpoints" / "model_card.md").read_text()
    metrics = json.loads((trained / "metrics.json").read_text())
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "segunet"
    assert f"| {metrics['miou']:.4f} |" in body
    for name, row in metrics["per_class"].items():
        cells = [
            "-" if value is None else f"{value:,}" if key == "pixels" else f"{value:.4f}" for key, value in row.items()
        ]
        assert f"| {name} | {' | '.join(cells)} |" in body
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)]
    assert [len({line.count("|") for line in lines}) for lines in tables] == [1, 1]  # whole tables, one below another
    assert [len(lines) for lines in tables] == [3, 5]
    assert "\n- data: voc\n" in body


def test_names_cannot_break_the_page() -> None:
    names = ["a|b", "<script>", "c\nd", "e", "f"]
    text = card_text(report_with(colours=colours_of(names), name="a\n# b"))
    assert "| a\\|b |" in text
    assert "&lt;script&gt;" in text
    assert "| c d |" in text
    assert "&#" not in text
    assert text.endswith("\n")
    assert "# a # b" in text
