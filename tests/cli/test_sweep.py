"""Sweeps (-m) through the commands themselves."""

import csv
import importlib.util
import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segunet import evaluate, summary, train
from segunet.base.files import write_text
from segunet.cli.search import Search
from tests.commands import TINY, Command


@pytest.fixture
def tiny(voc_folder: Path) -> list[str]:
    return [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", "trainer.limit_train_batches=1"]


def runs_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "runs.csv").open(newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["run"])


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def test_a_sweep_compares_runs_that_are_as_they_would_be_alone(run: Command, tiny: list[str], tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    result = run(train, "-m", *tiny, "loss=ce_dice,ce", "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert result.status == 0, result.error
    assert run(train, *tiny, "loss=ce", "seed=2", f"run_dir={tmp_path / 'alone'}").status == 0
    assert metrics_of(sweep / "3") == metrics_of(tmp_path / "alone")
    runs = runs_of(sweep)
    assert [(row["loss"], row["seed"]) for row in runs] == [(a, b) for a in ("ce_dice", "ce") for b in "12"]
    for row in runs:
        assert float(row["miou"]) == metrics_of(sweep / row["run"])["miou"]
        assert (sweep / row["run"] / "train.log").read_text().count("training on 6 images") == 1
    ce = next(each for each in json.loads((sweep / "comparison.json").read_text())["combinations"] if each["runs"] == 2)
    wanted = sum(float(row["miou"]) for row in runs if row["loss"] == ce["settings"]["loss"]) / 2
    assert ce["numbers"]["miou"] == pytest.approx(wanted)
    assert f"{wanted:.4f}" in result.output
    assert "(n - 1)" in result.output
    assert "seed=2" not in result.output.splitlines()[0]
    again = run(train, "-m", *tiny, "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert "exists and is not an empty folder" in again.error


def test_a_failed_run_leaves_the_others_and_is_named(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    introduce = train.introduce

    def stumble(start: train.Start, *others: Any) -> None:
        introduce(start, *others)
        if start.run_dir.name == "1":
            raise RuntimeError("out of luck")

    monkeypatch.setattr(train, "introduce", stumble)
    result = run(train, "-m", *tiny, "seed=-1,1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 1
    assert "2 of 3 runs failed" in result.error
    assert "run 0: seed must" in result.error
    assert "run 1: RuntimeError: out of luck" in result.error
    assert result.output.count("Traceback") == 1  # a bug is shown whole, a wrong setting is not
    assert [row["state"] for row in runs_of(tmp_path / "sweep")] == ["failed", "failed", "done"]
    assert "out of luck" in (tmp_path / "sweep" / "1" / "train.log").read_text()
    assert "run 1" not in (tmp_path / "sweep" / "2" / "train.log").read_text()


def test_evaluations_are_compared(run: Command, trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints" / "best.ckpt"
    choices = [
        f"checkpoint={checkpoint},{tmp_path / 'none.ckpt'}",
        "tta=none,flip",
        "boundary_iou=false",
        "trainer.accelerator=cpu",
    ]
    result = run(evaluate, "-m", *choices, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 1
    assert f"run 2, 3: There is no checkpoint {tmp_path / 'none.ckpt'}" in result.error
    assert metrics_of(tmp_path / "sweep" / "0") == metrics_of(trained)
    runs = runs_of(tmp_path / "sweep")
    assert [(row["tta"], row["state"]) for row in runs[:3]] == [("none", "done"), ("flip", "done"), ("none", "failed")]
    assert runs[0]["checkpoint"] == str(checkpoint)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_keeps_what_is_done(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupt(_: object, trainer: Any, *__: object) -> None:
        if Path(trainer.default_root_dir).name == "1":
            signal.raise_signal(number)

    monkeypatch.setattr("segunet.training.progress.RunProgress.on_validation_start", interrupt)
    result = run(train, "-m", *tiny, "seed=1,2,3", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 128 + number
    assert "Traceback" not in result.output + result.error
    assert [row["state"] for row in runs_of(tmp_path / "sweep")] == ["done", "unfinished"]


def test_a_resumed_run_of_a_sweep_is_listed_as_done(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patch.setattr("segunet.train.conclude", lambda *_: signal.raise_signal(signal.SIGINT))
        run(train, "-m", *tiny, "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert [row["state"] for row in runs_of(sweep)] == ["unfinished"]
    result = run(train, f"resume={sweep / '0'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    (row,) = runs_of(sweep)
    assert (row["state"], row["seconds"]) == ("done", "")
    assert float(row["miou"]) == metrics_of(sweep / "0")["miou"]
    (job,) = json.loads((sweep / "comparison.json").read_text())["runs"]
    assert job["overrides"][-2:] == ["seed=1", "trainer.max_epochs=2"]


BAD = {
    "run_dir=somewhere": "hydra.sweep.dir=PATH",
    "resume=a,b": "Leave -m out",
    "++resume=a": "Leave -m out",
    "optimizer.lr=tag(log,interval(1e-4,1e-2))": "hydra/sweeper=search",
    "hydra/sweeper=search optimizer.lr=interval(2.0,1.0)": "Give interval(LEAST,MOST)",
    "hydra/sweeper=search hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials must be greater than or equal to 1, got 0",
}


@pytest.mark.parametrize("override", BAD)
def test_what_no_sweep_can_do_is_refused(run: Command, tmp_path: Path, override: str) -> None:
    if "hydra/sweeper=" in override:
        pytest.importorskip("optuna", reason="needs the extra optuna")
    result = run(train, "-m", "seed=1,2", *override.split(" "), f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 1
    assert BAD[override] in result.error
    assert not (tmp_path / "sweep").exists()


def test_a_run_of_a_sweep_starts_no_processes(run: Command, tiny: list[str], tmp_path: Path) -> None:
    options = ["trainer.devices=2", "trainer.strategy=ddp", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    result = run(train, "-m", *tiny, *options)
    assert result.status == 1
    assert "trainer.devices=1" in result.error


needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="needs the extra optuna: pip install -e '.[optuna]'"
)


def test_a_sweep_s_folder_is_its_own(run: Command, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "job.json").write_text('{"name": "mine"}')
    result = run(summary, "-m", "measure=false", "depth=1,2", f"hydra.sweep.dir={tmp_path}")
    assert result.status == 1
    assert "not an empty folder" in result.error
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_a_comparison_that_cannot_be_written_ends_the_sweep(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign(_: Any, folder: Path) -> None:
        write_text(folder / "job.json", '{"name": "mine"}')

    monkeypatch.setattr("segunet.cli.sweep.write_job", foreign)
    result = run(summary, "-m", "measure=false", "depth=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 1
    assert "job.json is not a valid job file" in result.error


@needs_optuna
def test_a_search_tries_what_it_may_and_compares_it(run: Command, tiny: list[str], tmp_path: Path) -> None:
    search = ["hydra/sweeper=search", "hydra.sweeper.n_trials=4", "hydra.sweeper.seed=0"]
    space = ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "seed=-1,1"]
    sweeps = [tmp_path / "sweep", tmp_path / "again"]
    for sweep in sweeps:
        result = run(train, "-m", *tiny, *search, *space, f"hydra.sweep.dir={sweep}")
        assert result.status == 1
    runs, again = map(runs_of, sweeps)
    assert {row["state"] for row in runs} == {"done", "failed"}, "choose another seed"
    assert [row["optimizer.lr"] for row in runs] == [row["optimizer.lr"] for row in again]
    assert len({row["optimizer.lr"] for row in runs}) == 4
    assert all(1e-4 <= float(row["optimizer.lr"]) <= 1e-1 for row in runs)


@needs_optuna
def test_a_search_goes_where_the_results_are_high() -> None:
    made, tried = Search(n_trials=40, seed=0), []

    def launch(jobs: list[list[str]], initial_job_idx: int) -> list[SimpleNamespace]:
        values = dict(each.split("=") for each in jobs[0])
        assert values["fixed"] == "7"
        assert values["n"] in {"1", "2", "3"}
        tried.append(abs(float(values["x"]) - 0.3) + (values["choice"] != "b"))
        return [SimpleNamespace(return_value={18: None, 19: math.nan}.get(initial_job_idx % 20, -tried[-1]))]

    made.launcher = SimpleNamespace(launch=launch)  # type: ignore[assignment]
    made.hydra_context = SimpleNamespace(config_loader=None)  # type: ignore[assignment]
    made.sweep(["fixed=7", "choice=a,b,c", "n=int(interval(1,3))", "x=interval(0.0,1.0)"])
    assert len(tried) == 40
    assert sum(tried[-10:]) < sum(tried[:10]) * 2 / 3


@needs_optuna
def test_a_search_without_a_result_ends_in_a_paragraph(run: Command, tiny: list[str], tmp_path: Path) -> None:
    search = ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optimizer.lr=interval(-2.0,-1.0)"]
    result = run(train, "-m", *tiny, *search, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 1
    assert result.error.startswith("error: 2 of 2 runs failed.")
    assert "Traceback" not in result.output + result.error


def test_a_launcher_runs_the_jobs_in_processes_of_their_own(run: Command, tiny: list[str], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs the extra slurm")
    options = ["hydra/launcher=submitit_local", f"hydra.launcher.submitit_folder={tmp_path / 'jobs'}"]
    result = run(train, "-m", *tiny, *options, "seed=-1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 1
    assert "run 0: seed must be greater than or equal to 0, got -1." in result.error
    assert [row["state"] for row in runs_of(tmp_path / "sweep")] == ["failed", "done"]
    assert f"{metrics_of(tmp_path / 'sweep' / '1')['miou']:.4f}" in result.output
