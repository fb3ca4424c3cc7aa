"""What a network costs, through the command itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segunet import summary, train
from segunet.base.terminal import console
from segunet.inference.generator import load_denoiser
from tests.commands import TINY, WHOLE, Command
from tests.cost.test_stable_diffusion import TINY as TINY_DIFFUSION

TINY_MODEL = [each for each in TINY if each.startswith("model.")]
TABLE = ["measure=false"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave each row of a table on a line."""
    monkeypatch.setattr(console, "width", 120)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def rows_of(output: str) -> list[list[str]]:
    """Return the cells of the first table, from its first row to the total."""
    lines = [line.split() for line in output.splitlines()]
    start = next(number for number, cells in enumerate(lines) if cells[:1] == ["layer"]) + 2
    end = next(number for number, cells in enumerate(lines) if cells[:1] == ["total"])
    return [cells for cells in lines[start : end + 1] if cells]


@pytest.mark.parametrize(
    ("model", "parameters", "gflops"), [("unet_resnet50", 26_329_477, 56.686), ("article", 43_934_101, 183.534)]
)
def test_the_columns_of_the_table_add_up(
    run: Command, tmp_path: Path, model: str, parameters: int, gflops: float
) -> None:
    result = run(summary, f"model={model}", *TABLE, f"output={tmp_path / 'cost.json'}")
    assert result.status == 0, result.error
    *rows, total = rows_of(result.output)
    assert total == ["total", f"{parameters:,}", f"{gflops:.3f}", "100.0", "%"]
    assert sum(int(row[-4].replace(",", "")) for row in rows) == parameters
    assert sum(float(row[-3]) for row in rows) == pytest.approx(gflops, abs=0.0005 * len(rows))
    assert sum(float(row[-2]) for row in rows) == pytest.approx(100, abs=0.05 * len(rows))
    assert "a multiply and an add are two" in result.output
    cost = read(tmp_path / "cost.json")
    assert [layer["name"] for layer in cost["layers"]] == [row[0] for row in rows]
    for key, column in (("parameters", "parameters"), ("flops", "flops")):
        assert cost[key] == sum(layer[column] for layer in cost["layers"])
    assert cost["input"] == [1, 3, 512, 512]
    assert "measurements" not in cost


def test_size_batch_classes_and_frozen_stages_are_those_asked_for(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "new" / "cost.json"
    data = ["data=custom", "data.class_names=[a,b]", "size=[64,96]", "batch_size=3", "depth=1"]
    result = run(summary, *data, *TINY_MODEL, "model.encoder.frozen_stages=1", *TABLE, f"output={path}")
    assert result.status == 0, result.error
    cost = read(path)
    assert cost["input"] == [3, 3, 64, 96]
    assert [layer["name"] for layer in cost["layers"]] == ["encoder", "decoder", "head"]
    assert cost["layers"][2]["outputs"] == [[3, 2, 32, 48]]
    assert cost["parameters"] - cost["trainable_parameters"] == 64 * 3 * 7 * 7 + 2 * 64
    assert "2 x" not in result.output
    assert f"{cost['trainable_parameters']:,}" in result.output


def test_time_and_memory_are_measured(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    result = run(summary, *TINY_MODEL, *WHOLE, "size=64", "batch_size=2", "accelerator=cpu", f"output={path}")
    assert result.status == 0, result.error
    cost = read(path)
    forward, training = cost["measurements"]
    assert (forward["what"], training["what"]) == ("forward pass", "training step")
    for each in (forward, training):
        assert (each["accelerator"], each["precision"], each["compile"]) == ("cpu", "32-true", False)
        assert f"{1000 * each['seconds']:.1f} ms" in result.output
        assert f"{each['peak_bytes'] / 1e6:.1f} MB" in result.output
    weights = cost["weight_bytes"]["fp32"]
    assert weights < forward["peak_bytes"] < 3 * weights
    assert 4 * 0.99 * weights < training["peak_bytes"] < 8 * weights  # gradients and two moments, but of no buffers
    assert cost["versions"]["torch"] == torch.__version__
    assert cost["hardware"]


def test_a_checkpoint_s_network_is_shown(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    result = run(train, *TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    checkpoint, path = tmp_path / "run" / "checkpoints" / "best.ckpt", tmp_path / "cost.json"
    given = f"checkpoint={checkpoint}"
    result = run(summary, given, "size=64", *TABLE, f"output={path}")
    assert result.status == 0, result.error
    cost = read(path)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert cost["weight_bytes"]["fp32"] == sum(v.nbytes for name, v in state.items() if name.startswith("net."))
    assert cost["layers"][-1]["outputs"] == [[1, 3, 32, 32]]
    for other in ("source=sd15", "model=article", "data=sample"):
        refused = run(summary, given, other)
        assert refused.status == 1
        assert f"{given} and {other} cannot be combined" in refused.error
    plain = tmp_path / "plain.pth"
    torch.save({"weight": torch.zeros(2)}, plain)
    for bad in (plain, tmp_path / "missing.ckpt", tmp_path / "net.onnx"):
        refused = run(summary, f"checkpoint={bad}")
        assert refused.status == 1
        assert str(bad) in refused.error
    assert "an exported network does not expose its layers" in refused.error


def test_stable_diffusion_s_unet_is_shown(run: Command) -> None:
    result = run(summary, "source=sd15")
    assert result.status == 0, result.error
    assert "parameters  859,520,964" in result.output
    assert "fp16 1.72 GB" in result.output
    assert "called with 1 x 4 x 64 x 64" in result.output
    assert "measured" not in result.output
    assert sum(int(row[-4].replace(",", "")) for row in rows_of(result.output)[:-1]) == 859_520_964
    assert "multiples of 8" in run(summary, "source=sd15", "size=100").error


def test_a_denoising_step_is_measured_on_request(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_DIFFUSION | {"_class_name": "UNet2DConditionModel"}))
    path = tmp_path / "cost.json"
    result = run(summary, f"source={folder}", "measure=true", "accelerator=cpu", f"output={path}")
    assert result.status == 0, result.error
    cost = read(path)
    assert cost["input"] == [1, 4, 8, 16]
    assert [each["what"] for each in cost["measurements"]] == ["forward pass"]
    assert cost["measurements"][0]["peak_bytes"] > cost["weight_bytes"]["fp32"]


def test_a_denoiser_s_checkpoint_is_shown(run: Command, denoiser: Path, tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    checkpoint = denoiser / "checkpoints" / "best.ckpt"
    result = run(summary, f"checkpoint={checkpoint}", "measure=false", f"output={path}")
    assert result.status == 0, result.error
    loaded = load_denoiser(checkpoint)
    net, content = loaded.net.to("meta"), json.loads(path.read_text())
    assert loaded.size == 32  # of its own samples, with its own prompts
    assert content["parameters"] == sum(each.numel() for each in net.parameters())
    assert content["input"] == [1, 3, 32, 32]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 32, 32), torch.tensor(1), torch.zeros(1, 2, net.cross_attention_dim or 0))
    assert content["flops"] == counter.get_total_flops()
    assert set(content["weight_bytes"]) == {"fp32", "fp16", "int8"}


@pytest.mark.parametrize("width", [None, 32])
def test_the_denoiser_is_shown_and_measured_per_step(run: Command, tmp_path: Path, width: int | None) -> None:
    denoiser = ["model=diffusion_unet", f"model.cross_attention_dim={width or 'null'}", "accelerator=cpu"]
    path = tmp_path / "cost.json"
    result = run(summary, *denoiser, "size=32", "batch_size=2", "depth=1", f"output={path}")
    assert result.status == 0, result.error
    cost = read(path)
    assert cost["input"] == [2, 3, 32, 32]
    assert cost["parameters"] == 4_126_083 + (0 if width is None else attention_parameters(32, 128, 256))
    assert [each["what"] for each in cost["measurements"]] == ["forward pass"]
    result = run(summary, *denoiser, "size=60")
    assert (result.status, "nearest that fit are 48 and 64" in result.error) == (1, True)


def attention_parameters(width: int, *channels: int) -> int:
    """Count the norm, query, key, value and output of an attention on maps of these channels."""
    return sum(2 * c + c * c + 2 * width * c + c * c + c for c in channels)


def test_settings_that_mean_nothing_are_refused(run: Command) -> None:
    for override, message in {
        "measure=maybe": "measure must be auto, true or false, got 'maybe'",
        "accelerator=tpu": "accelerator must be 'auto', 'cpu' or 'cuda', got 'tpu'",
        "depth=0": "depth must be greater than or equal to 1, got 0",
        "size=-64": "size must be",
        "loss.pixelwise.class_weights=auto": "needs training masks",
        "output=cost.txt": "output=cost.txt: wanted the name of a .json file",
        "source=sd2": "source=sd2: wanted sd15, sdxl",
        "precision=16-true": "precision=16-true needs a CUDA GPU",
        "precision=half": "precision=half: Lightning says",
    }.items():
        result = run(summary, override, *([] if override.startswith("accelerator") else ["accelerator=cpu"]))
        assert result.status == 1
        assert message in result.error


def test_somebody_s_own_file_is_left_alone_and_an_earlier_summary_is_replaced(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    path.write_text('{"precious": 1}')
    result = run(summary, *TINY_MODEL, *TABLE, f"output={path}")
    assert result.status == 1
    assert f"output={path} exists" in result.error
    assert read(path) == {"precious": 1}
    path.unlink()
    for size in (64, 96):
        assert run(summary, *TINY_MODEL, *TABLE, f"size={size}", f"output={path}").status == 0
    assert read(path)["input"] == [1, 3, 96, 96]
