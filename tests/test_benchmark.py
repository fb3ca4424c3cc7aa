"""The command that times segunet on this machine."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segunet import benchmark
from segunet.cli.overrides import composed
from segunet.cost.cases import start_cases
from segunet.training import build
from tests.commands import TINY, Command

TINY_MODEL = [each for each in TINY if each.startswith(("model.", "data.", "data="))]
SMALL = ["sizes=[64]", "batch_size=2", "inference_batch_sizes=[1]", "rounds=1", "batches=1", "accelerator=cpu"]


def test_every_part_is_timed(run: Command, voc_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_IMAGES", (5, 50))
    output = tmp_path / "speed.json"
    parts = "parts=[machine,training,inference,data,growth]"
    result = run(benchmark, *TINY_MODEL, f"data.root={voc_folder}", *SMALL, parts, "formats=[onnx]", f"output={output}")
    assert result.status == 0, result.error
    content = json.loads(output.read_text())
    rows: dict[str, dict[str, Any]] = {f"{row['part']}: {row['case']}": row for row in content["rows"]}
    assert list(rows) == [
        "machine: matrix product, 32-true",
        "machine: matrix product, bf16-mixed",
        "machine: memory, read and written",
        "training: 64 x 64, batch 2, 32-true",
        "training: 64 x 64, batch 2, bf16-mixed",
        "inference: 64 x 64, batch 1, 32-true",
        "inference: 64 x 64, batch 1, bf16-mixed",
        "inference: 64 x 64, batch 1, onnx",
        "data: loading training images, 0 workers",
        "data: training on them, bf16-mixed",
        "data: validation, bf16-mixed",
        "growth: 64 x 64, batch 2, 21 classes",
        "growth: four times the area",
        "growth: twice the batch",
        "growth: 150 classes",
        "growth: 256 classes",
        "growth: a set of 5 images",
        "growth: a set of 50 images",
    ]
    for row in rows.values():
        assert 0 < row["low"] <= row["median"] <= row["high"]
    for name in rows:
        assert name.partition(": ")[2].split(",")[0] in re.sub(r"\s+", " ", result.output)
    step = rows["training: 64 x 64, batch 2, 32-true"]
    cfg = composed("train", TINY_MODEL)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = build.net_from_config(build.without_weights(cfg.model))
        net(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    rate = 3 * counter.get_total_flops() / 2 * step["median"]  # a step counts as three forward passes
    ceiling = 1e9 * rows["machine: matrix product, 32-true"]["median"]
    assert step["share"] == pytest.approx(rate / ceiling)
    assert step["peak_bytes"] > 4 * 4 * sum(
        each.numel() for each in net.parameters()
    )  # with gradients and Adam's state
    assert rows["inference: 64 x 64, batch 1, onnx"]["peak_bytes"] is None


def test_a_denoiser_s_step_is_timed(run: Command) -> None:
    options = ["model=diffusion_unet", "model.cross_attention_dim=8", "memory=false", *SMALL]
    result = run(benchmark, *options, "parts=[inference]")
    assert result.status == 0, result.error
    assert "64 x 64, batch 1, bf16-mixed" in re.sub(r"\s+", " ", result.output)
    assert "parts=[machine,inference]" in run(benchmark, *options, "parts=[training]").error


def test_a_command_that_fails_is_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = start_cases(tmp_path)["import segunet"]
    importing.run()
    failed = subprocess.CompletedProcess([], 1, "", "no such module")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(Exception, match="no such module"):
        importing.run()


def test_settings_that_mean_nothing_are_refused(run: Command, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"mine": 1}')
    for override, message in {
        "parts=[]": "parts must",
        "parts=[speed]": "parts[0] must be 'machine', 'training'",
        "sizes=[0]": "sizes[0] must be greater than or equal to 1, got 0",
        "rounds=0": "rounds must be",
        "formats=[tflite]": "formats",
        "precisions=[16-mixed]": "16-mixed",
        "precisions=[half]": "precision=half: Lightning says",
        f"output={foreign}": "segunet.benchmark did not write it",
        "loss.pixelwise.class_weights=auto": "needs training masks",
        "checkpoint=missing.ckpt": "missing.ckpt",
    }.items():
        result = run(benchmark, override, "accelerator=cpu", "memory=false")
        assert result.status == 1, override
        assert message in result.error, override
