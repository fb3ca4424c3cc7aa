"""Generating through the command itself, with a tiny denoiser."""

import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline
from PIL import Image
from torch import Tensor

import segunet
from segunet import evaluate, generate, predict, train
from segunet.base.errors import UserError
from segunet.inference.checkpoint import read_card
from segunet.inference.generator import Generator, load_denoiser
from segunet.inference.sampling import denoised, guided
from segunet.models.drop_in import DiffusersUNet
from tests.commands import TINY_DENOISER, Command


def best(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "best.ckpt"


@pytest.fixture
def checkpoint(denoiser: Path) -> str:
    return f"checkpoint={best(denoiser)}"


@pytest.fixture
def model(denoiser: Path) -> Generator:
    """Return a generator whose prompts matter: a short training leaves attention and head near zero."""
    loaded = load_denoiser(best(denoiser))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return Generator(loaded, accelerator="cpu")


def image_of(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def test_it_writes_images_grid_and_film(run: Command, checkpoint: str, tmp_path: Path) -> None:
    result = run(
        generate, checkpoint, 'prompt="square, disc"', "count=5", "steps=9", "guidance=2", "batch_size=2",
        f"output={tmp_path}/out",
    )  # fmt: skip
    assert result.status == 0, result.error
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert names == [f"{number:04d}.png" for number in range(5)]
    assert image_of(tmp_path / "out" / "images" / "0003.png").shape == (32, 32, 3)
    assert image_of(tmp_path / "out" / "grid.png").shape[1] >= 3 * 64
    assert image_of(tmp_path / "out" / "film.png").shape[1] > 8 * 64
    assert '"square, disc", guidance 2, ddim, 9 steps, seed 0' in result.output
    assert re.search(r"5 images, \S+ s per step of up to 2 at once; peak memory \S+ GB", result.output)


def test_a_prompt_needs_no_quotes_but_the_shell_s(run: Command, checkpoint: str, tmp_path: Path) -> None:
    for number, prompt in enumerate(("disc, square", '"disc, square"', "disc,square", "square")):
        result = run(generate, checkpoint, f"prompt={prompt}", "count=1", "steps=1", f"output={tmp_path}/{number}")
        assert result.status == 0, result.error
    first, second, third, last = (image_of(tmp_path / str(n) / "images" / "0000.png") for n in range(4))
    assert np.array_equal(first, second)
    assert np.array_equal(first, third)
    assert first.shape == last.shape


def test_a_folder_that_is_generated_into_again_holds_the_new_images_alone(
    run: Command, checkpoint: str, tmp_path: Path
) -> None:
    options = [checkpoint, "steps=2", f"output={tmp_path}/out"]
    assert run(generate, *options, "count=3", "prompt=disc").status == 0
    (tmp_path / "out" / "images" / "mine.png").write_text("mine")
    result = run(generate, *options, "count=1")
    assert "no prompt, ddim, 2 steps, seed 0" in result.output
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["0000.png", "mine.png"]


def test_nothing_is_removed_through_a_link(run: Command, checkpoint: str, tmp_path: Path) -> None:
    options = [checkpoint, "steps=2", f"output={tmp_path}/out"]
    assert run(generate, *options).status == 0
    shutil.move(tmp_path / "out" / "images", tmp_path / "elsewhere")
    (tmp_path / "out" / "images").symlink_to(tmp_path / "elsewhere")
    result = run(generate, *options)
    assert (result.status, "leads out of its folder" in result.error) == (1, True)
    assert (tmp_path / "elsewhere" / "0000.png").is_file()


def test_the_seed_alone_decides(model: Generator) -> None:
    images = model.generate("disc", count=3, steps=4, seed=1)
    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, model.generate("disc", count=3, steps=4, seed=1))
    assert not np.array_equal(images, model.generate("disc", count=3, steps=4, seed=2))
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "euler", "ddpm"])
def test_the_batch_size_does_not_matter(model: Generator, scheduler: str) -> None:
    one, many = (
        model.generate("disc", count=3, steps=4, scheduler=scheduler, batch_size=size).astype(int) for size in (1, 3)
    )
    assert np.abs(one - many).max() <= 1  # sums of floats in another order
    assert model.film is not None
    assert model.film.steps == [0, 1, 2, 3, 4]


def test_the_time_of_a_step_is_the_network_s_alone(model: Generator) -> None:
    wanted = model.request("disc", count=4, steps=2, batch_size=2)
    for _ in model.batches(wanted):
        time.sleep(2)  # as for files that are written
    assert 0 < model.seconds_per_step < 0.4


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_any_precision_makes_much_the_same_images(denoiser: Path, precision: str, scheduler: str) -> None:
    exact, other = (
        Generator(load_denoiser(best(denoiser)), accelerator="cpu", precision=each).generate(
            "disc", count=2, steps=5, scheduler=scheduler
        )
        for each in ("32-true", precision)
    )
    assert np.abs(exact.astype(int) - other).mean() < 4


def test_guidance_is_between_the_empty_prompt_and_beyond_the_prompt(model: Generator) -> None:
    net, prompts = model.net, model.prompts
    assert prompts is not None
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        hidden, empty = (prompts(torch.full((2, 2), wanted)) for wanted in (True, False))
        with_prompt, without = net(x, 500, hidden), net(x, 500, empty)
        assert not torch.allclose(with_prompt, without)
        for guidance, wanted in ((1, with_prompt), (0, without), (3, without + 3 * (with_prompt - without))):
            got = guided(net, hidden, empty, guidance)(x, 500)
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    assert np.array_equal(model.generate("", steps=3), model.generate("disc", steps=3, guidance=0))


def test_ddim_is_that_of_the_stock_pipeline(denoiser: Path, run: Command, tmp_path: Path) -> None:
    own = [f"data.root={denoiser / 'voc'}", "model.cross_attention_dim=null", "trainer.max_epochs=1"]
    assert run(train, *TINY_DENOISER, *own, f"run_dir={tmp_path}/run").status == 0
    loaded = load_denoiser(best(tmp_path / "run"))
    scheduler = loaded.schedule.sampler("ddim")
    net = DiffusersUNet.around(loaded.net, read_card(best(tmp_path / "run")).model, sample_size=32)
    pipeline: Any = DDIMPipeline(unet=net, scheduler=scheduler)  # type: ignore[no-untyped-call]
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=7, output_type="np"
    ).images
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    scheduler.set_timesteps(7)
    got = denoised(guided(loaded.net, None, None, 1.0), noise, scheduler)
    torch.testing.assert_close(((got / 2 + 0.5).clamp(0, 1)).permute(0, 2, 3, 1), torch.from_numpy(wanted))


def test_an_unconditional_network_refuses_prompt_and_guidance(denoiser: Path, run: Command, tmp_path: Path) -> None:
    own = [f"data.root={denoiser / 'voc'}", "model.cross_attention_dim=null", "trainer.max_epochs=1"]
    own += ["loss=flow_matching"]
    assert run(train, *TINY_DENOISER, *own, f"run_dir={tmp_path}/run").status == 0
    path = best(tmp_path / "run")
    for setting in ("prompt=disc", "guidance=2"):
        result = run(generate, f"checkpoint={path}", setting, f"output={tmp_path}/out")
        assert result.status == 1
        assert "this network is unconditional" in result.error
    assert not (tmp_path / "out").exists()
    assert segunet.load(path, accelerator="cpu").generate(count=2, steps=3).shape == (2, 32, 32, 3)
    with pytest.raises(UserError, match=r"loss.schedule=flow is sampled with euler"):
        segunet.load(path, accelerator="cpu").generate(scheduler="ddim")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prompt=sun", "the network does not know sun. It knows disc, square"),
        ("size=33", "A side of 33 does not fit the network, whose encoder has a stride of 8: the nearest that fit are"),
        ("steps=0", "steps must be greater than or equal to 1, got 0"),
        ("steps=61", "steps=61: ddim cannot divide 1000 time steps into so many without leaving noise"),
        ("steps=1001", "steps=1001: the network was trained with 1000"),
        ("count=0", "count must be greater than or equal to 1, got 0"),
        ("guidance=nan", "guidance must be a finite number"),
        ("guidance=7", "guidance is the strength of a prompt, and there is none"),
        ("scheduler=lms", "scheduler=lms: a network trained with loss.schedule=squaredcos_cap_v2 is sampled with"),
        ("seed=-1", "seed must be greater than or equal to 0"),
        ("checkpoint=null", "Which checkpoint?"),
    ],
)
def test_bad_input_is_one_paragraph_and_nothing_is_written(
    run: Command, checkpoint: str, setting: str, message: str, tmp_path: Path
) -> None:
    given = [setting] if setting.startswith("checkpoint") else [checkpoint, setting]
    result = run(generate, *given, f"output={tmp_path}/out")
    assert result.status == 1
    assert message in result.error
    assert "\n" not in result.error.strip()
    assert not (tmp_path / "out").exists()


def test_each_kind_of_checkpoint_names_its_command(
    run: Command, checkpoint: str, trained: Path, tmp_path: Path
) -> None:
    out = f"run_dir={tmp_path}/out"
    result = run(generate, f"checkpoint={best(trained)}", out)
    assert result.status == 1
    assert f"python -m segunet.predict checkpoint={best(trained)} input=PATH" in result.error
    image = trained / "voc" / "JPEGImages" / "val_0.jpg"
    for module, more in ((evaluate, [out]), (predict, [f"input={image}", out])):
        result = run(module, checkpoint, *more)
        assert result.status == 1, module
        assert f"python -m segunet.generate {checkpoint}" in result.error
    assert not (tmp_path / "out").exists()


def test_without_diffusers_it_says_what_to_install(
    run: Command, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    result = run(generate, checkpoint, f"output={tmp_path}/out")
    assert (result.status, (tmp_path / "out").exists()) == (1, False)
    assert "segunet[diffusers]" in result.error


def _without_prompts(content: dict[str, Any]) -> None:
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith("prompts.")}


def _with_nan(content: dict[str, Any]) -> None:
    value: Tensor = content["state_dict"]["prompts.empty"]
    value.fill_(float("nan"))


DAMAGES: dict[str, tuple[Any, str]] = {
    "flow of v": (lambda c: c["segunet"]["denoiser"].update(schedule="flow"), "does not fit the schedule"),
    "no steps": (lambda c: c["segunet"]["denoiser"].update(steps=0), "denoiser.steps must be greater than or equal"),
    "huge size": (lambda c: c["segunet"]["denoiser"].update(size=10**9), "denoiser.size must be less than or equal"),
    "more": (lambda c: c["segunet"]["denoiser"].update(run="x"), "denoiser.run"),
    "code": (lambda c: c["segunet"]["model"].update(_target_="os.system"), "names the class 'os.system'"),
    "no prompts": (_without_prompts, "missing: prompts.empty, prompts.named"),
    "nan": (_with_nan, "empty contains NaN"),
    "other class": (
        lambda c: c["segunet"].update(model={"_target_": "segunet.models.encoder.ResNetEncoder", "depth": 18}),
        "its network is a ResNetEncoder",
    ),
    "wider": (lambda c: c["segunet"]["model"].update(cross_attention_dim=16), "do not match the network"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_card_is_named(run: Command, denoiser: Path, damage: str, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    shutil.copy(best(denoiser), tmp_path / "best.ckpt")
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "best.ckpt")
    result = run(generate, f"checkpoint={tmp_path}/best.ckpt", f"output={tmp_path}/out")
    assert result.status == 1
    assert str(tmp_path / "best.ckpt") in result.error
    assert message in result.error
    assert not (tmp_path / "out").exists()


def test_load_refuses_settings_of_segmentation(denoiser: Path) -> None:
    with pytest.raises(UserError, match="holds a denoiser, which has no tta, tile"):
        segunet.load(best(denoiser), tta="flip", tile=64)
