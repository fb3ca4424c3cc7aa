"""The report of a run that was stopped, by ``python -m segunet.report RUN``."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from segunet import generate, train
from segunet.base.files import locked
from segunet.report import __main__ as report
from tests.commands import TINY, TINY_DENOISER, Command
from tests.page import page_of, section, text_of
from tests.runs import stop_in


@pytest.fixture
def tiny(voc_folder: Path) -> list[str]:
    return [*TINY, f"data.root={voc_folder}"]


def stopped_run(run: Command, settings: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train two of three epochs, and a step of the third."""
    options = ["trainer.max_epochs=3", "checkpoint.every_steps=1", f"run_dir='{folder}'"]
    with monkeypatch.context() as patch:
        patch.setattr("segunet.training.progress.RunProgress.on_train_batch_start", stop_in(2, 1))
        assert run(train, *settings, *options).status == 128 + signal.SIGINT
    assert not (folder / "report.html").exists()


def test_a_stopped_run_has_the_report_that_it_would_have_had(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a run, of mine"
    stopped_run(run, tiny, folder, monkeypatch)
    files = {path: path.read_bytes() for path in folder.rglob("*.ckpt")}
    result = run(report, str(folder))
    assert result.status == 0, result.error
    assert f"report:    {folder / 'report.html'}" in result.output
    page = page_of(folder)
    assert "of 2, on the 4 images of val" in text_of(page)
    curves = section(page, "curves")
    assert curves is not None
    assert len(curves.findall(".//figure")[1].findall(".//circle")) == 3 * 2  # three scores of two validations
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["segunet"]["scores"]["confusion"]
    assert json.loads((folder / "metrics.json").read_text())["confusion_matrix"] == best
    assert {path: path.read_bytes() for path in folder.rglob("*.ckpt")} == files
    result = run(train, f"resume='{folder}'")  # which goes on as if there were none
    assert result.status == 0, result.error
    assert "of 3, on the 4 images of val" in text_of(page_of(folder))


def test_a_denoiser_s_run_too(run: Command, voc_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    stopped_run(run, [*TINY_DENOISER, f"data.root={voc_folder}"], folder, monkeypatch)
    result = run(report, f"run={folder}", "accelerator=cpu")
    assert result.status == 0, result.error
    assert section(page_of(folder), "samples") is not None


def test_what_is_no_run_with_a_validation_is_refused(run: Command, trained: Path, tmp_path: Path) -> None:
    assert "Which run? Give its folder" in run(report).error
    assert "there is no such folder" in run(report, str(tmp_path / "none")).error
    assert "without config.yaml, checkpoints/last.ckpt" in run(report, str(tmp_path)).error
    folder = tmp_path / "run"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("voc"))
    with locked(folder):
        assert "Another process is writing to" in run(report, str(folder)).error
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    content["callbacks"]["History"] = {"train/loss": "none"}
    torch.save(content, folder / "checkpoints/last.ckpt")
    assert "does not hold a training state of segunet.train" in run(report, str(folder)).error
    (folder / "checkpoints/best.ckpt").unlink()
    assert "no validation has ended yet" in run(report, str(folder)).error


def test_only_a_report_s_run_needs_no_name(run: Command, trained: Path) -> None:
    assert "cannot be parsed as a setting" in run(generate, str(trained)).error
