"""precision=auto on a CPU: what is faster, timed once and kept; a run keeps it when it is resumed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from segunet import load, train
from segunet.base.files import write_json
from segunet.inference import precision
from segunet.inference.precision import bf16_speed_up, default_precision, machine
from tests.commands import TINY, Command
from tests.exports import export_to_every_format


@pytest.fixture(autouse=True)
def speed_ups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test a cache file of its own."""
    monkeypatch.setattr(precision, "SPEED_UPS", tmp_path / "cache" / "speed_ups.json")
    precision._cpu_precision.cache_clear()
    yield precision.SPEED_UPS
    precision._cpu_precision.cache_clear()


def keep(speed_up: float) -> None:
    write_json(precision.SPEED_UPS, {machine(): speed_up})
    precision._cpu_precision.cache_clear()


@pytest.mark.parametrize(("speed_up", "chosen"), [(2.5, "bf16-mixed"), (1.05, "32-true"), (0.3, "32-true")])
def test_a_cpu_gets_what_is_faster(speed_up: float, chosen: str) -> None:
    keep(speed_up)
    assert default_precision("cpu") == chosen


def test_it_is_timed_once(speed_ups: Path) -> None:
    write_json(speed_ups, {"another processor": 3.0})
    chosen = default_precision("cpu")
    kept = json.loads(speed_ups.read_text())
    assert list(kept) == ["another processor", machine()]
    assert chosen == ("bf16-mixed" if kept[machine()] >= 1.1 else "32-true")
    precision._cpu_precision.cache_clear()
    default_precision("cpu")
    assert json.loads(speed_ups.read_text()) == kept


@pytest.mark.parametrize("damaged", ["", "[1]", '{"%s": -1}', '{"%s": "fast"}', '{"%s": NaN}'])
def test_a_damaged_file_is_replaced(speed_ups: Path, damaged: str) -> None:
    speed_ups.parent.mkdir()
    speed_ups.write_text(damaged.replace("%s", machine()))
    default_precision("cpu")
    assert json.loads(speed_ups.read_text())[machine()] > 0


def test_a_cache_that_cannot_be_written_is_said(speed_ups: Path, caplog: pytest.LogCaptureFixture) -> None:
    speed_ups.parent.write_text("a file, not a folder")
    assert default_precision("cpu") in ("32-true", "bf16-mixed")
    assert "will be measured again" in caplog.text


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_is_timed_too(mode: type) -> None:
    with mode():
        assert bf16_speed_up() > 0


def test_timing_disturbs_nothing() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    assert 0.01 < bf16_speed_up() < 100
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_resumed_run_keeps_its_precision(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    keep(2.5)
    result = run(train, *TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={folder}")
    assert result.status == 0, result.error
    assert "bfloat16 is 2.50 times as fast as float32" in result.output
    assert "cpu, bf16-mixed" in result.output
    keep(1.0)
    assert "cpu, bf16-mixed" in run(train, f"resume={folder}", "trainer.max_epochs=2").output
    assert "cpu, 32-true" in run(train, f"resume={folder}", "trainer.max_epochs=3", "trainer.precision=32-true").output


def test_a_run_from_before_cpus_were_timed_keeps_float32(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    keep(1.0)
    run(train, *TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={folder}")
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.trainer.precision = "auto"
    OmegaConf.save(cfg, folder / "config.yaml")
    keep(2.5)
    assert "cpu, 32-true" in run(train, f"resume={folder}", "trainer.max_epochs=2").output


def test_a_network_of_another_runtime_is_in_float32(trained: Path) -> None:
    keep(2.5)
    exports = export_to_every_format(trained / "voc")
    assert load(exports.checkpoint, accelerator="cpu").fabric._precision.precision == "bf16-mixed"
    for name in ("onnx", "openvino"):
        assert load(exports.files[name], accelerator="cpu").fabric._precision.precision == "32-true"
