"""Logging to MLflow, in a database, and to a server that fails."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from segunet import train
from segunet.training.mlflow_logger import _plain
from tests.commands import TINY, Command
from tests.runs import scalars, stop_in

mlflow: Any = pytest.importorskip("mlflow", reason="needs the extra mlflow")


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a new database, and let MLflow keep images beside it."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def one_epoch(voc_folder: Path, tmp_path: Path) -> list[str]:
    return [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]


def runs_in(address: str) -> list[Any]:
    """Return the runs of all experiments."""
    client = mlflow.MlflowClient(address)
    return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))


def history(address: str, name: str) -> list[tuple[int, float]]:
    """Return the (step, value) of a metric of the only run."""
    (only,) = runs_in(address)
    values = mlflow.MlflowClient(address).get_metric_history(only.info.run_id, name)
    return sorted((each.step, each.value) for each in values)


def test_it_has_curves_images_and_settings_and_a_resumed_run_goes_on(
    run: Command, one_epoch: list[str], tmp_path: Path, address: str
) -> None:
    result = run(train, *one_epoch, "logger=[tensorboard,mlflow]", "logger.mlflow.run_name=first")
    assert result.status == 0, result.error
    (only,) = runs_in(address)
    assert (only.info.status, only.info.run_name) == ("FINISHED", "first")
    assert only.data.params["data.batch_size"] == "2"
    assert history(address, "train/loss") == [pytest.approx(each) for each in scalars(tmp_path / "run", "train/loss")]
    assert {"val/miou", "best/miou"} <= only.data.metrics.keys()
    assert "epoch" not in only.data.metrics
    assert list((tmp_path / "mlflow_artifacts").rglob("*.png"))
    assert not list((tmp_path / "elsewhere").iterdir())
    result = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    assert history(address, "train/loss") == [pytest.approx(each) for each in scalars(tmp_path / "run", "train/loss")]


def test_a_run_that_is_stopped_is_marked_so(
    run: Command, one_epoch: list[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segunet.training.progress.RunProgress.on_train_batch_end", stop_in(0, 1))
    assert run(train, *one_epoch, "logger=mlflow").status == 130
    (only,) = runs_in(address)
    assert only.info.status == "FAILED"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "logger=mlflow: where to? Set the environment variable MLFLOW_TRACKING_URI"),
        ("http://me:secret@127.0.0.1:9", "MLflow at http://127.0.0.1:9: "),
        ("postgresql://me:se/secret@s@127.0.0.1:9/db?password=secret", "MLflow at postgresql://127.0.0.1:9/db: "),
        ("sqlite:///damaged.db", "MLflow at sqlite:///damaged.db: "),
        ("nowhere://x", "MLflow at nowhere://x: "),
    ],
)
def test_what_cannot_be_reached_is_refused_before_the_training(
    run: Command, one_epoch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.db").write_bytes(b"no database" * 99)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = run(train, *one_epoch, "logger=mlflow")
    assert (result.status, said in result.error) == (1, True), result.error
    assert "secret" not in result.error + result.output
    assert not (tmp_path / "run" / "checkpoints").exists()


class _Failing(BaseHTTPRequestHandler):
    """A server that takes the start of a run, and then fails."""

    def do_GET(self) -> None:
        self._answer(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/experiments/create"):
            self._answer(200, b'{"experiment_id": "7"}')
        elif self.path.endswith("/runs/create"):
            self._answer(200, b'{"run": {"info": {"run_id": "one", "run_uuid": "one", "experiment_id": "7"}}}')
        else:
            self._answer(500, b'{"message": "the disk is full"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def failing_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


@pytest.mark.usefixtures("failing_server")
def test_a_training_outlives_its_server(run: Command, one_epoch: list[str]) -> None:
    result = run(train, *one_epoch, "logger=mlflow")
    assert result.status == 0, result.error
    assert result.output.count("nothing more is sent to it") == 1


def test_scores_of_many_steps_are_sent_at_once(
    run: Command, one_epoch: list[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, send = [], mlflow.MlflowClient.log_batch

    def counted(client: Any, run_id: str, metrics: Any = (), **others: Any) -> None:
        sent.extend([len(metrics)] if metrics else [])
        send(client, run_id, metrics=metrics, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    monkeypatch.setattr("segunet.training.mlflow_logger._EVERY", 3600)
    assert run(train, *one_epoch, "logger=mlflow").status == 0
    assert len(sent) == 2  # at the end of the training, and the best score
    assert len(history(address, "train/loss")) == 3


def test_a_resumed_run_goes_on_without_its_server(
    run: Command, one_epoch: list[str], tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(train, *one_epoch, "logger=mlflow").status == 0
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    assert "the run goes on without MLflow. logger=mlflow: where to?" in result.output
    assert len(history(address, "train/loss")) == 3


def test_a_signal_while_it_connects_ends_the_command(
    run: Command, one_epoch: list[str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for name in ("get_experiment_by_name", "create_experiment"):
            patch.setattr(mlflow.MlflowClient, name, stop)
        patch.setattr(mlflow.MlflowClient, "set_terminated", lambda *_: pytest.fail("of no run"))
        assert run(train, *one_epoch, "logger=mlflow").status == 130
    assert runs_in(address) == []


def test_an_identity_is_a_word(run: Command, one_epoch: list[str]) -> None:
    result = run(train, *one_epoch, "logger=mlflow", 'logger.mlflow.identity="x\' or 1=1"')
    assert (result.status, "logger.mlflow.identity" in result.error) == (1, True), result.error


def test_names_are_those_that_mlflow_takes() -> None:
    validate = mlflow.utils.validation._validate_metric_name
    names = ["val/iou/车", "val/iou/.", "val/iou//", "/", "..", "a\nb", "val/iou/a:b", "val/iou/a(b)", "val/iou/../x"]
    plain = [_plain(name) for name in names]
    for name in plain:
        validate(name)
    assert plain[0] == names[0]
