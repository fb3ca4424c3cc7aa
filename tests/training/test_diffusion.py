"""A denoiser is trained by the same command as a segmentation network, with the same promises."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segunet import train
from segunet.inference.checkpoint import read_card
from segunet.training.diffusion import FixedNoise, fitted, spread_shares
from tests.commands import TINY, TINY_DENOISER, Command
from tests.runs import board_of


@pytest.fixture
def tiny(voc_folder: Path) -> list[str]:
    return [*TINY_DENOISER, f"data.root={voc_folder}"]


def losses_of(run_dir: Path) -> list[float]:
    return [event.value for event in board_of(run_dir).Scalars("val/loss")]


def weights_of(run_dir: Path, name: str = "last") -> dict[str, Tensor]:
    content = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return content["state_dict"]  # type: ignore[no-any-return]


def test_a_run_leaves_checkpoints_loss_and_samples(denoiser: Path) -> None:
    card = read_card(denoiser / "checkpoints" / "best.ckpt")
    assert card.denoiser is not None
    assert (card.denoiser.schedule, card.denoiser.prediction) == ("squaredcos_cap_v2", "v")
    assert (card.denoiser.size, card.class_names) == (32, ["background", "disc", "square"])
    metrics = json.loads((denoiser / "metrics.json").read_text())
    assert metrics["val_loss"] == pytest.approx(min(losses_of(denoiser)))
    assert metrics["val_loss"] == pytest.approx(card.denoiser.val_loss)
    tags = board_of(denoiser).Tags()
    assert {"train/loss", "val/loss", "lr", "best/val_loss"} <= set(tags["scalars"])
    assert len(board_of(denoiser).Images("val/samples")) == 2


def test_the_report_shows_curves_and_samples(denoiser: Path) -> None:
    loss = json.loads((denoiser / "metrics.json").read_text())["val_loss"]
    page = (denoiser / "report.html").read_text()
    assert f"<dd>{loss:.4f}</dd>" in page
    for heading in ("Loss</h3>", "Learning rate</h3>", "Samples</h2>", "Software</h3>", "Hardware</h3>"):
        assert heading in page
    for prompt in ("disc", "square", "no prompt"):
        assert f"<figcaption>{prompt}</figcaption>" in page
        assert f'alt="Sample 1 of {prompt}"' in page
    assert "python -m segunet.train" in page
    assert "cross_attention_dim: 8" in page


def test_it_says_what_to_do_next(run: Command, tiny: list[str], tmp_path: Path) -> None:
    result = run(train, *tiny, "trainer.max_epochs=1", f"run_dir={tmp_path}/run")
    assert result.status == 0, result.error
    assert "best epoch: 1, val loss " in result.output
    assert f"python -m segunet.generate checkpoint={tmp_path}/run/checkpoints/best.ckpt" in result.output
    assert f"python -m segunet.train resume={tmp_path}/run" in result.output


def stop_in(epoch: int) -> Callable[..., None]:
    def stop(_: object, trainer: Any, *__: object) -> None:
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize(
    ("own", "epochs"),
    [
        (["callbacks.early_stopping_patience=3"], 2),
        (["loss=flow_matching", "callbacks.ema_decay=0.5", "trainer.max_steps=6"], 3),
        (["model.cross_attention_dim=null"], 2),
    ],
    ids=["conditional", "flow, averaged, by steps", "unconditional"],
)
@pytest.mark.parametrize("stop", ["on_train_batch_end", "on_validation_batch_start"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    run: Command,
    tiny: list[str],
    own: list[str],
    epochs: int,
    stop: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides = [*tiny, *own, f"trainer.max_epochs={epochs}"]
    assert run(train, *overrides, f"run_dir={tmp_path}/whole").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(f"segunet.training.progress.RunProgress.{stop}", stop_in(1))
        assert run(train, *overrides, f"run_dir={tmp_path}/cut").status == 128 + signal.SIGINT
    rest = run(train, f"resume={tmp_path}/cut")
    assert rest.status == 0, rest.error
    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "cut")
    one, other = ((tmp_path / name / "metrics.json").read_text() for name in ("whole", "cut"))
    assert one == other


def test_a_finished_run_says_how_to_go_on(run: Command, tiny: list[str], tmp_path: Path) -> None:
    assert run(train, *tiny, "trainer.max_epochs=1", f"run_dir={tmp_path}/run").status == 0
    again = run(train, f"resume={tmp_path}/run")
    assert again.status == 1
    assert "that run has done 1 epoch, all that it was to do. To train it longer" in again.error
    (tmp_path / "run" / "report.html").unlink()
    assert run(train, f"resume={tmp_path}/run").status == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_short_training_lowers_the_loss(run: Command, tiny: list[str], tmp_path: Path) -> None:
    result = run(
        train,
        *tiny,
        "trainer.max_epochs=12",
        "trainer.check_val_every_n_epoch=4",
        "optimizer.lr=0.003",
        f"run_dir={tmp_path}/run",
    )
    assert result.status == 0, result.error
    losses = losses_of(tmp_path / "run")
    assert losses[-1] < losses[1] < losses[0]


def test_averaged_weights_are_those_of_the_best_checkpoint(run: Command, tiny: list[str], tmp_path: Path) -> None:
    result = run(train, *tiny, "trainer.max_epochs=1", "callbacks.ema_decay=0.9", f"run_dir={tmp_path}/run")
    assert result.status == 0, result.error
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    averaged, current = best["state_dict"], best["current_model_state"]
    assert not torch.equal(averaged["prompts.named"], current["prompts.named"])
    assert not torch.equal(averaged["net.head.weight"], current["net.head.weight"])


def test_the_validation_is_the_same_twice(run: Command, tiny: list[str], tmp_path: Path) -> None:
    for name, more in (("a", []), ("b", ["data.val_batch_size=1", "optimizer.lr=1e-30"])):
        run(train, *tiny, "optimizer.lr=1e-30", "trainer.max_epochs=2", *more, f"run_dir={tmp_path / name}")
    first, second = losses_of(tmp_path / "a")
    assert first == second
    assert losses_of(tmp_path / "b") == pytest.approx([first, first], rel=1e-5)


def test_noises_differ_and_time_steps_are_spread() -> None:
    fixed = [FixedNoise(0, index, 8) for index in range(8)]
    assert sorted(int(each.share * 8) for each in fixed) == list(range(8))
    assert torch.equal(fixed[3].noise((3, 4, 4)), FixedNoise(0, 3, 8).noise((3, 4, 4)))
    assert not torch.equal(fixed[3].noise((3, 4, 4)), fixed[4].noise((3, 4, 4)))
    assert fixed[3].share != FixedNoise(1, 3, 8).share


def test_the_time_steps_of_a_batch_are_random_and_spread() -> None:
    torch.manual_seed(0)
    first, second = (spread_shares(8, torch.device("cpu")) for _ in range(2))
    assert sorted((first * 8).long().tolist()) == list(range(8))
    assert ((first >= 0) & (first < 1)).all()
    assert not torch.equal(first, second)
    many = torch.cat([spread_shares(3, torch.device("cpu")) for _ in range(4000)])
    assert torch.histc(many, bins=4, min=0, max=1) / len(many) == pytest.approx([0.25] * 4, abs=0.01)


def test_images_of_any_size_become_samples() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 60), dtype=np.uint8))
    masks = images[:, 0] % 3
    got = fitted(images, masks, 32)
    assert (got[0].shape, got[1].shape, got[0].dtype) == ((2, 3, 32, 32), (2, 32, 32), torch.uint8)
    same = fitted(images[..., :40], masks[..., :40], 40)
    assert torch.equal(same[0], images[..., :40])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            ["data.transform.crop_size=33", "data.transform.fill_crop=true"],
            "does not fit the network, whose encoder has a stride of 8: the nearest that",
        ),
        (["model.in_channels=4"], "model.in_channels=4: the images that it is trained on have 3 channels"),
        (["loss=ce_dice"], "is a denoiser, which returns no logits: train it with loss=denoising"),
        (["data.objects=true"], "data.objects is for segmentation"),
        (["data.border_weights.w0=10"], "data.border_weights.w0 is for segmentation"),
        (
            ["data.transform.scale=[0.2,1]"],
            "make it smaller than data.transform.crop_size=32, and a denoiser would learn",
        ),
        (["tile=64"], "tile=64: a denoiser is validated on squares of crop_size"),
        (["loss.min_snr_gamma=-1"], "loss.min_snr_gamma must be greater than 0"),
        (["optimizer.optimizer.betas=[2,2]"], "optimizer.optimizer.*: torch does not accept"),
    ],
)
def test_bad_settings_are_one_paragraph_and_nothing_is_written(
    run: Command, tiny: list[str], own: list[str], message: str, tmp_path: Path
) -> None:
    result = run(train, *tiny, *own, f"run_dir={tmp_path}/run")
    assert result.status == 1
    assert message in result.error
    assert result.error.count("\n") <= 1
    assert not (tmp_path / "run").exists()


def test_a_segmentation_network_has_no_denoising_loss(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    result = run(train, *TINY, f"data.root={voc_folder}", "loss=denoising", f"run_dir={tmp_path}/run")
    assert (result.status, (tmp_path / "run").exists()) == (1, False)
    assert "the model is a segmentation network: add model=diffusion_unet" in result.error


def test_a_loss_that_is_not_finite_names_step_and_images(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segunet.losses.denoising.DenoisingLoss.forward", lambda *_: torch.tensor([float("nan")]))
    result = run(train, *tiny, "trainer.num_sanity_val_steps=0", f"run_dir={tmp_path}/run")
    assert result.status == 1
    assert "The loss became nan at step 0 (epoch 0) on the images train_" in result.error


def test_without_diffusers_it_says_what_to_install(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    result = run(train, *tiny, f"run_dir={tmp_path}/run")
    assert (result.status, (tmp_path / "run").exists()) == (1, False)
    assert "segunet[diffusers]" in result.error
