"""Logging to MLflow, in a database without a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segunet import train
from tests.commands import TINY, Command
from tests.runs import scalars, stop_in

mlflow: Any = pytest.importorskip("mlflow", reason="needs the extra mlflow")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget a server of the user's, and the address that MLflow keeps in the process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def one_epoch(voc_folder: Path, tmp_path: Path) -> list[str]:
    return [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]


def runs_in(database: Path) -> list[Any]:
    """Return the runs of all experiments."""
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))


def history(database: Path, name: str) -> list[tuple[int, float]]:
    """Return the (step, value) of a metric of the only run."""
    (only,) = runs_in(database)
    values = mlflow.MlflowClient(f"sqlite:///{database}").get_metric_history(only.info.run_id, name)
    return sorted((each.step, each.value) for each in values)


def test_it_has_curves_images_and_settings_and_a_resumed_run_goes_on(
    run: Command, one_epoch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(train, *one_epoch, "logger=[tensorboard,mlflow]", "logger.mlflow.run_name=first")
    assert result.status == 0, result.error
    database = tmp_path / "run" / "mlflow.db"
    (only,) = runs_in(database)
    assert (only.info.status, only.info.run_name) == ("FINISHED", "first")
    assert only.data.params["data.batch_size"] == "2"
    assert history(database, "train/loss") == [pytest.approx(each) for each in scalars(tmp_path / "run", "train/loss")]
    assert {"val/miou", "best/miou"} <= only.data.metrics.keys()
    assert "epoch" not in only.data.metrics
    assert list((tmp_path / "run" / "mlflow").rglob("*.png"))
    assert not (tmp_path / "mlruns").exists()
    result = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    assert history(database, "train/loss") == [pytest.approx(each) for each in scalars(tmp_path / "run", "train/loss")]


def test_a_run_that_is_stopped_is_marked_so(
    run: Command, one_epoch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("segunet.training.progress.RunProgress.on_train_batch_end", stop_in(0, 1))
        assert run(train, *one_epoch, "logger=mlflow").status == 130
    (only,) = runs_in(tmp_path / "run" / "mlflow.db")
    assert only.info.status == "FAILED"


def test_a_server_that_is_not_there_is_refused_before_the_training(
    run: Command, one_epoch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = run(train, *one_epoch, "logger=mlflow")
    assert result.status == 1
    assert "MLflow at http://127.0.0.1:9: " in result.error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_training_outlives_its_server(run: Command, one_epoch: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise mlflow.exceptions.MlflowException("gone")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse)
    result = run(train, *one_epoch, "logger=mlflow")
    assert result.status == 0, result.error
    assert result.output.count("MLflow: gone; nothing more is sent to it") == 1


def test_an_identity_is_a_word(run: Command, one_epoch: list[str]) -> None:
    result = run(train, *one_epoch, "logger=mlflow", 'logger.mlflow.identity="x\' or 1=1"')
    assert (result.status, "logger.mlflow.identity" in result.error) == (1, True), result.error
