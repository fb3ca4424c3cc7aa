"""A sweep's runs as a table: by hand-made folders, against numpy."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segunet.base.errors import UserError
from segunet.base.terminal import console
from segunet.cli.comparison import Job, combine, failures, read_runs, show_comparison, write_comparison, write_job

SCORES = {("a", 1): 0.5, ("a", 2): 0.7, ("a", 3): 0.66, ("b", 1): 0.9, ("[b]", 1): 0.1}


def add_run(sweep: Path, *overrides: str, miou: float | None = None, **job: Any) -> None:
    number = len(list(sweep.iterdir()))
    write_job(Job(number, ["data=custom", *overrides], **job), sweep / str(number))
    if job.get("state") == "done":
        metrics: dict[str, Any] = {"miou": miou, "pixel_accuracy": 0.75, "images": 4, "per_class": {}}
        (sweep / str(number) / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Write three seeds of a, one of b, one of [b], and a failed and an unfinished run."""
    for (model, seed), miou in SCORES.items():
        add_run(tmp_path, f"model={model}", f"seed={seed}", miou=miou, state="done", seconds=10.0 * seed)
    add_run(tmp_path, "model=b", "seed=2", state="failed", error="no such weights")
    add_run(tmp_path, "model=c", "seed=2")
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shown(sweep: Path) -> list[str]:
    with console.capture() as capture:
        show_comparison(read_runs(sweep))
    return capture.get().splitlines()


def test_combinations_have_mean_and_sample_deviation_and_the_best_is_first(sweep: Path) -> None:
    combinations = combine(read_runs(sweep))
    assert [each.settings for each in combinations] == [{"model": name} for name in ("b", "a", "[b]", "c")]
    assert [each.runs for each in combinations] == [1, 3, 1, 0]
    a = [value for (model, _), value in SCORES.items() if model == "a"]
    assert combinations[1].numbers["miou"] == pytest.approx(np.mean(a))
    assert combinations[1].spread["miou"] == pytest.approx(np.std(a, ddof=1))
    assert combinations[1].numbers["seconds"] == 20
    assert combinations[1].spread["seconds"] == 10
    assert combinations[0].spread["miou"] is None
    assert combinations[3].numbers == {}


def test_an_undefined_score_is_left_out_of_the_mean(tmp_path: Path) -> None:
    for seed, miou in enumerate([0.5, None, 0.7]):
        add_run(tmp_path, f"seed={seed}", miou=miou, state="done", seconds=1.0)
    (combination,) = combine(read_runs(tmp_path))
    assert combination.settings == {}
    assert combination.numbers["miou"] == pytest.approx(0.6)
    assert combination.spread["miou"] == pytest.approx(0.02**0.5)


def test_the_files_hold_combinations_and_runs(sweep: Path) -> None:
    write_comparison(read_runs(sweep), sweep)
    rows = rows_of(sweep / "comparison.csv")
    assert list(rows[0])[:4] == ["model", "runs", "miou", "miou_spread"]
    assert [row["model"] for row in rows] == ["b", "a", "[b]", "c"]
    assert float(rows[1]["miou_spread"]) == pytest.approx(np.std([0.5, 0.7, 0.66], ddof=1))
    assert rows[0]["miou_spread"] == rows[3]["miou"] == ""
    runs = rows_of(sweep / "runs.csv")
    assert [row["run"] for row in runs] == ["3", "1", "2", "0", "4", "5", "6"]
    assert [row["state"] for row in runs[-2:]] == ["failed", "unfinished"]
    assert runs[-2]["error"] == "no such weights"
    content = json.loads((sweep / "comparison.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert "n - 1" in content["spread"]
    assert [each["runs"] for each in content["combinations"]] == [1, 3, 1, 0]
    assert content["runs"][0]["overrides"] == ["data=custom", "model=b", "seed=1"]
    assert content["runs"][0]["numbers"]["miou"] == 0.9


def test_the_terminal_shows_runs_then_combinations(sweep: Path) -> None:
    lines = shown(sweep)
    assert any("failed" in line and " b " in line for line in lines)
    assert any("unfinished" in line and " c " in line for line in lines)
    assert any("[b]" in line and "0.1000" in line for line in lines)
    mean = next(number for number, line in enumerate(lines) if "0.6200" in line)
    assert " a " in lines[mean]
    assert " 3 " in lines[mean]
    assert "± 0.1058" in lines[mean + 1]
    assert "± -" in lines[mean - 1]  # a single run
    assert "(n - 1)" in lines[-1]


def test_without_repeated_runs_there_is_one_table(tmp_path: Path) -> None:
    for rate in ("0.0012345678901", "0.02"):
        add_run(tmp_path, f"optimizer.lr={rate}", miou=0.5, state="done", seconds=1.0)
    lines = shown(tmp_path)
    assert not any("±" in line for line in lines)
    assert any(" 0.001235 " in line for line in lines)


def test_failures_are_named_by_their_cause(sweep: Path) -> None:
    add_run(sweep, "model=d", state="failed", error="no such weights")
    assert failures(read_runs(sweep)).splitlines() == ["error: 2 of 8 runs failed.", "run 5, 7: no such weights"]
    assert failures([]) == ""


def test_a_damaged_file_of_scores_is_named(sweep: Path) -> None:
    for content in ("{", "[1]", "null"):
        (sweep / "0" / "metrics.json").write_text(content)
        with pytest.raises(UserError, match=f"{sweep / '0' / 'metrics.json'} is not a valid file of scores"):
            read_runs(sweep)


def test_a_date_is_shown_as_it_is_and_a_long_fraction_by_four_digits(tmp_path: Path) -> None:
    for value in ("2024_01_15", "0.123456789"):
        add_run(tmp_path, f"name={value}", miou=0.5, state="done", seconds=1.0)
    text = "".join(shown(tmp_path))
    assert "2024_01_15" in text
    assert "0.1235" in text
