"""A denoiser is exported by the same command; what it wrote is run here by the other runtimes alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor

import segunet
from segunet import evaluate, export, generate, predict, train
from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.formats.read import openvino_core
from segunet.formats.write import FORMATS
from segunet.inference.card import ExportedCard
from segunet.inference.generator import DenoiserCheckpoint, load_denoiser
from tests.commands import TINY_DENOISER, Command
from tests.exports import Exports, export_everything

NAMES = ["sample", "timestep", "encoder_hidden_states"]


@pytest.fixture
def checkpoint(denoiser: Path, tmp_path: Path) -> Path:
    """Copy the checkpoint to a folder of the test's own."""
    return Path(shutil.copy(denoiser / "checkpoints" / "best.ckpt", tmp_path / "net.ckpt"))


@pytest.fixture(scope="module")
def exports(denoiser: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Export to every format."""
    return export_everything(denoiser / "checkpoints" / "best.ckpt", tmp_path_factory.mktemp("exports"))


def onnx_of(path: Path) -> tuple[Callable[..., Tensor], Any]:
    session: Any = import_extra("onnxruntime", "onnx").InferenceSession(path)
    inputs = [each.name for each in session.get_inputs()]
    assert inputs == NAMES[: len(inputs)]

    def run(*given: Tensor) -> Tensor:
        arrays = {name: each.numpy() for name, each in zip(inputs, given, strict=True)}
        return torch.from_numpy(session.run(["prediction"], arrays)[0])

    return run, json.loads(session.get_modelmeta().custom_metadata_map["segunet"])


def program_of(path: Path) -> tuple[Callable[..., Tensor], Any]:
    files = {"segunet.json": ""}
    program = torch.export.load(path, extra_files=files)
    return program.module(), json.loads(files["segunet.json"])


def openvino_of(path: Path) -> tuple[Callable[..., Tensor], Any]:
    core = openvino_core()
    model = core.read_model(path)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*given: Tensor) -> Tensor:
        arrays = {name: each.numpy() for name, each in zip(NAMES, given, strict=False)}
        return torch.from_numpy(compiled(arrays)["prediction"])

    return run, json.loads(model.get_rt_info(["segunet"]).astype(str))


RUNTIMES = {"onnx": onnx_of, "torch_export": program_of, "openvino": openvino_of}


def inputs_of(loaded: DenoiserCheckpoint, card: Any, count: int, height: int, width: int) -> list[Tensor]:
    """Return random inputs, with the hidden states that the card holds."""
    generator = torch.Generator().manual_seed(count)
    noise = torch.randn(count, 3, height, width, generator=generator)
    inputs = [noise, torch.rand(count, generator=generator) * card["denoiser"]["steps"]]
    if loaded.prompts is not None:
        prompts = card["denoiser"]["prompts"]
        assert prompts["names"] == ["disc", "square"]
        hidden = torch.tensor([prompts["named"][0], prompts["empty"]])  # "disc"
        assert torch.equal(hidden, loaded.prompts(torch.tensor([[True, False]]))[0])
        inputs.append(hidden.expand(count, -1, -1).contiguous())
    return inputs


@pytest.mark.parametrize("name", FORMATS)
def test_the_command_compares_and_says_how_the_file_is_called(exports: Exports, name: str) -> None:
    path, printed = exports.files[name], exports.printed[name]
    for wanted in ("largest prediction", "ms per denoising step", "times as fast", f"written to {path}"):
        assert wanted in printed
    assert "input:     sample: float32 (N, 3, H, W), RGB, any N, H and W multiples of 8; timestep" in printed
    assert "output:    prediction: float32 (N, 3, H, W), v" in printed


@pytest.mark.parametrize("name", FORMATS)
def test_other_runtimes_predict_what_the_checkpoint_does(exports: Exports, name: str) -> None:
    predict_noise, card = RUNTIMES[name](exports.files[name])
    loaded = load_denoiser(exports.checkpoint)
    for count, height, width in ((1, 32, 32), (3, 40, 32), (2, 8, 64), (5, 8, 8)):
        inputs = inputs_of(loaded, card, count, height, width)
        with torch.no_grad():
            wanted, got = loaded.net(*inputs), predict_noise(*inputs)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    parsed = ExportedCard.model_validate(card)
    assert parsed.denoiser is not None
    assert (parsed.class_names, parsed.stride) == (["background", "disc", "square"], 8)
    assert (parsed.denoiser.schedule, parsed.denoiser.steps) == ("squaredcos_cap_v2", 1000)
    assert (parsed.denoiser.prediction, parsed.denoiser.size, parsed.denoiser.scale) == ("v", 32, 127.5)


def test_a_file_names_its_axes(exports: Exports) -> None:
    graph = onnx.load(exports.files["onnx"]).graph
    axes = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.output)
    }
    image = ["batch", 3, "height", "width"]
    states = ["batch", "length", 8]
    assert axes == {"sample": image, "timestep": ["batch"], "encoder_hidden_states": states, "prediction": image}


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (["model.cross_attention_dim=null", "loss=flow_matching"], "openvino"),
        (["model.time_step=false"], "onnx"),
    ],
    ids=["unconditional", "not told the time step"],
)
def test_every_denoiser_is_exported(run: Command, denoiser: Path, own: list[str], name: str, tmp_path: Path) -> None:
    options = [*TINY_DENOISER, f"data.root={denoiser / 'voc'}", "trainer.max_epochs=1", *own]
    assert run(train, *options, f"run_dir={tmp_path}/run").status == 0
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    loaded = load_denoiser(path)
    result = run(export, f"checkpoint={path}", f"format={name}")
    assert result.status == 0, result.error
    predict_noise, card = RUNTIMES[name](path.with_suffix(FORMATS[name].suffix))
    assert (card["denoiser"]["prompts"] is None) == (loaded.prompts is None)
    inputs = inputs_of(loaded, card, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(predict_noise(*inputs), loaded.net(*inputs), rtol=1e-3, atol=1e-5)


def test_one_that_differs_is_not_written(run: Command, checkpoint: Path) -> None:
    result = run(export, f"checkpoint={checkpoint}", "tolerance.prediction=0")
    assert result.status == 1
    assert "The exported denoiser differs from the original" in result.error
    assert "tolerance.prediction" in result.error
    assert [each.name for each in checkpoint.parent.iterdir()] == ["net.ckpt"]


def test_settings_for_images_are_refused(run: Command, checkpoint: Path) -> None:
    for override in ("images=3", "data.root=/nowhere", "data=sample", "split=val", "tolerance.agreement=1"):
        result = run(export, f"checkpoint={checkpoint}", override)
        assert result.status == 1
        assert f"{override}: a denoiser is not compared on images, but on noise" in result.error
    assert [each.name for each in checkpoint.parent.iterdir()] == ["net.ckpt"]


@pytest.mark.parametrize("name", FORMATS)
def test_segunet_s_commands_say_what_such_a_file_is(
    run: Command, exports: Exports, name: str, trained: Path, tmp_path: Path
) -> None:
    path, out = exports.files[name], f"run_dir={tmp_path}/out"
    image = f"input={trained / 'voc' / 'JPEGImages' / 'val_0.jpg'}"
    for module, more in ((generate, []), (evaluate, []), (predict, [image])):
        result = run(module, f"checkpoint={path}", *more, out)
        assert result.status == 1
        assert f"{path} is a denoiser that segunet.export wrote for other programs" in result.error
        assert "\n" not in result.error.strip()
    with pytest.raises(UserError, match=r"is a denoiser that segunet\.export wrote"):
        segunet.load(path)
    assert not (tmp_path / "out").exists()
