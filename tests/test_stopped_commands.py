"""Commands that a signal ends: what is complete stays, drafts go, and a line says what was done and how to go on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from segunet import evaluate, export, generate, predict, train
from segunet.base.files import DRAFTS
from segunet.base.stopping import StopRequest, stopped_by_signals
from tests.commands import TINY, Command


def signalling(function: Callable[..., Any], call: int, number: int) -> Callable[..., Any]:
    """Return the function; a signal and its copy come at the end of one call."""
    calls = count(1)

    def called(*given: Any, **named: Any) -> Any:
        result = function(*given, **named)
        if next(calls) == call:
            signal.raise_signal(number)
            signal.raise_signal(number)
        return result

    return called


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, int], None]:
    """Return a function that lets a signal come in a call of the function with that name."""

    def prepare(name: str, call: int, number: int) -> None:
        monkeypatch.setattr(name, signalling(resolve_name(name), call, number))

    return prepare


def files_in(folder: Path) -> list[str]:
    assert not list(folder.rglob(DRAFTS))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_prediction_goes_on_with_what_is_left(
    run: Command,
    trained: Path,
    tmp_path: Path,
    signalled: Callable[[str, int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", f"input={trained / 'voc' / 'JPEGImages'}"]
    assert run(predict, *options, f"output={tmp_path / 'whole'}").status == 0
    signalled("segunet.inference.predictor.Predictor.predict", 4, signal.SIGUSR1)
    result = run(predict, *options, f"output={tmp_path / 'cut'}")
    assert result.status == 128 + signal.SIGUSR1
    assert "stopped by SIGUSR1" in result.output
    done = len(list((tmp_path / "cut" / "masks").iterdir()))
    assert 1 <= done <= 4
    assert f"{done} of 10 are predicted" in result.output
    assert len(files_in(tmp_path / "cut")) == 2 * done + 1
    monkeypatch.undo()
    again = shlex.split(result.output[result.output.index("python -m") :].strip().splitlines()[0])
    assert again[:3] == ["python", "-m", "segunet.predict"]
    second = subprocess.run([sys.executable, *again[1:]], capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert f"{done} of 10 inputs predicted before and skipped" in second.stdout
    assert f"{10 - done} image" in second.stdout
    os.utime(tmp_path / "cut" / "masks" / "val_0.png", (0, 0))  # older than the checkpoint
    again_one = run(predict, *options, f"output={tmp_path / 'cut'}", "skip_existing=true")
    assert "9 of 10 inputs predicted before" in again_one.output
    other = run(predict, *options, f"output={tmp_path / 'cut'}", "skip_existing=true", "tta=flip")
    assert "were predicted with tta=none, not flip" in other.error
    for name in files_in(tmp_path / "whole"):
        if name != "config.yaml":
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_stopped_prediction_leaves_no_results_of_other_settings(
    run: Command, trained: Path, tmp_path: Path, signalled: Callable[[str, int, int], None]
) -> None:
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", f"input={trained / 'voc' / 'JPEGImages'}"]
    assert run(predict, *options, f"output={tmp_path / 'out'}").status == 0
    signalled("segunet.inference.predictor.Predictor.predict", 4, signal.SIGUSR2)
    result = run(predict, *options, f"output={tmp_path / 'out'}", "tta=flip")
    assert result.status == 128 + signal.SIGUSR2
    done = len(list((tmp_path / "out" / "masks").iterdir()))
    assert 1 <= done <= 4
    assert f"{done} of 10 are predicted" in result.output


def test_a_generation_says_how_many_there_are(
    run: Command, denoiser: Path, tmp_path: Path, signalled: Callable[[str, int, int], None]
) -> None:
    signalled("segunet.generate.save_png", 3, signal.SIGTERM)
    options = [f"checkpoint={denoiser / 'checkpoints' / 'best.ckpt'}", "count=4", "steps=2", "batch_size=2"]
    result = run(generate, *options, f"output={tmp_path / 'out'}")
    assert result.status == 128 + signal.SIGTERM
    assert f"3 of 4 are in {tmp_path / 'out'}" in result.output
    assert files_in(tmp_path / "out") == ["config.yaml", *(f"images/{index:04d}.png" for index in range(3))]


def test_an_evaluation_keeps_the_predictions_so_far(
    run: Command, trained: Path, tmp_path: Path, signalled: Callable[[str, int, int], None]
) -> None:
    signalled("segunet.training.callbacks.SavePredictions.on_test_batch_end", 2, signal.SIGINT)
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", "save_predictions=true", "data.num_workers=0"]
    result = run(evaluate, *options, f"run_dir={tmp_path / 'out'}")
    assert result.status == 128 + signal.SIGINT
    assert "nothing was scored; start it again: python -m segunet.evaluate checkpoint=" in result.output
    written = files_in(tmp_path / "out")
    assert "config.yaml" in written
    assert "metrics.json" not in written
    assert sum(name.endswith(".png") for name in written) >= 2


def test_an_export_leaves_nothing(
    run: Command, trained: Path, tmp_path: Path, signalled: Callable[[str, int, int], None]
) -> None:
    signalled("segunet.export.read_exported", 1, signal.SIGTERM)
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", "format=torch_export", "images=2"]
    result = run(export, *options, f"output={tmp_path / 'out' / 'net.pt2'}")
    assert result.status == 128 + signal.SIGTERM
    assert f"{tmp_path / 'out' / 'net.pt2'} was not written" in result.output
    assert files_in(tmp_path / "out") == []


def test_a_second_signal_kills_and_copies_of_the_first_do_not() -> None:
    program = (
        "import signal, time\n"
        "from segunet.base.stopping import stopped_by_signals\n"
        "with stopped_by_signals():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    finally:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        print('cleaned up', flush=True)\n"
        "        time.sleep(1.1)\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        print('still alive', flush=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == -signal.SIGTERM
    assert result.stdout == "cleaned up\n"


def test_a_copy_that_comes_when_a_training_has_stopped_noting_is_one_too() -> None:
    request = StopRequest()
    with stopped_by_signals():
        request.start()
        signal.raise_signal(signal.SIGTERM)
        request.end()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit) as stop:
            request.heed()
    assert stop.value.code == 128 + signal.SIGTERM


def test_a_write_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segunet.base.stopping._PATIENCE", 0.1)
    request = StopRequest()
    written = False
    with stopped_by_signals():
        request.start()
        with request.waiting():
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.3)
            written = True
        with pytest.raises(SystemExit):
            request.heed()
        request.end()
    assert written


def test_a_second_signal_within_a_write_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segunet.base.stopping._COPIES", 0.0)
    request = StopRequest()

    def write() -> None:
        with request.waiting():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    with stopped_by_signals():
        request.start()
        with pytest.raises(SystemExit):
            write()
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_ignored_sigterm_does_not_stop_lightning_either(
    run: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ``trap '' TERM`` in a script lets its commands do
    try:
        for hook in ("RunProgress.on_train_batch_end", "ScoringProgress.on_test_batch_end"):
            monkeypatch.setattr(f"segunet.training.progress.{hook}", lambda *_: signal.raise_signal(signal.SIGTERM))
        run_dir = f"run_dir={tmp_path / 'run'}"
        assert run(train, *TINY, f"data.root={trained / 'voc'}", "trainer.max_epochs=1", run_dir).status == 0
        best = f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
        assert run(evaluate, best, f"run_dir={tmp_path / 'scores'}").status == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "scores" / "metrics.json").is_file()


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a script's background jobs
    try:
        with stopped_by_signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
