"""A training with objects and border weights, through the commands."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from segunet import evaluate, train
from segunet.base.errors import UserError
from segunet.images.reading import read_size
from segunet.losses.segmentation import Focal, SegmentationLoss
from segunet.training.build import check_border_weights
from tests.commands import TINY, Command
from tests.pixels import indices, save_mask
from tests.runs import board_of, scalars

CLASSIC = [
    *(each for each in TINY if not each.startswith("model.")),
    *("model=classic_unet", "model.widths=[4,8]", "model.norm=true", "loss=ce", "data.transform.elastic=4"),
    *("data.objects=true", "data.border_weights.w0=10", "trainer.max_epochs=2"),
]


@pytest.fixture
def classic(voc_folder: Path) -> list[str]:
    return [*CLASSIC, f"data.root={voc_folder}"]


def weights_of(run_dir: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return weights


def test_objects_are_scored_alike_by_train_and_evaluate(run: Command, classic: list[str], tmp_path: Path) -> None:
    result = run(train, *classic, f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    assert "Rand error" in result.output
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert run(evaluate, f"checkpoint={best}", f"run_dir={tmp_path / 'scored'}", "boundary_iou=false").status == 0
    trained, scored = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "scored"))
    assert trained == scored
    assert trained["objects"]["truth"] == 8  # a disc and a square in each of four images
    assert 0 <= trained["rand_error"] <= 1
    tags = board_of(tmp_path / "run").Tags()["scalars"]
    assert {"val/merged_objects", "val/split_objects", "val/rand_error"} <= set(tags)
    assert "Rand error" in (tmp_path / "run" / "report.html").read_text()
    assert run(evaluate, f"checkpoint={best}", f"run_dir={tmp_path / 'plain'}", "data.objects=false").status == 0
    assert "rand_error" not in json.loads((tmp_path / "plain" / "metrics.json").read_text())


def test_a_resumed_run_draws_the_same_dropouts(run: Command, classic: list[str], tmp_path: Path) -> None:
    # A rate that does not depend on the length of the run.
    constant = ["lr_schedule.warmup=0", "lr_schedule.min_factor=1"]
    assert run(train, *classic, *constant, f"run_dir={tmp_path / 'whole'}").status == 0
    assert run(train, *classic, *constant, "trainer.max_epochs=1", f"run_dir={tmp_path / 'cut'}").status == 0
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert any(not torch.equal(whole[name], cut[name]) for name in whole)
    assert run(train, f"resume={tmp_path / 'cut'}", "trainer.max_epochs=2").status == 0
    cut = weights_of(tmp_path / "cut")
    # Within rounding: with other dropouts they would differ by more than 1e-3.
    assert max(float((whole[name] - cut[name]).abs().max()) for name in whole) < 1e-4


def test_border_weights_are_in_both_losses_and_only_where_they_are_asked_for(
    run: Command, classic: list[str], tmp_path: Path
) -> None:
    losses = {}
    for w0 in (0, 10):
        overrides = [f"data.border_weights.w0={w0}", "trainer.max_steps=1", f"run_dir={tmp_path / str(w0)}"]
        assert run(train, *classic, *overrides).status == 0
        losses[w0] = [scalars(tmp_path / str(w0), name)[0][1] for name in ("train/loss", "val/loss")]
    # Untrained, nearly all pixels have the same loss, and rounding changes it by 1e-7.
    assert losses[0][0] != pytest.approx(losses[10][0], rel=1e-5)
    assert losses[0][1] != pytest.approx(losses[10][1], rel=1e-5)


def test_objects_come_from_their_folder(run: Command, classic: list[str], voc_folder: Path, tmp_path: Path) -> None:
    (voc_folder / "SegmentationClass").rename(voc_folder / "SegmentationObject")
    (voc_folder / "SegmentationClass").mkdir()
    for path in (voc_folder / "SegmentationObject").iterdir():
        (voc_folder / "SegmentationClass" / path.name).write_bytes(path.read_bytes())
    assert run(train, *classic, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}").status == 0
    (voc_folder / "SegmentationObject" / "val_1.png").write_bytes(b"damaged")
    result = run(train, *classic, f"run_dir={tmp_path / 'damaged'}")
    assert (result.status, "val_1.png" in result.error) == (1, True)
    (voc_folder / "SegmentationObject" / "val_1.png").unlink()
    result = run(train, *classic, f"run_dir={tmp_path / 'missing'}")
    assert (result.status, "no object map" in result.error) == (1, True)
    assert not (tmp_path / "damaged").exists()
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["model.widths=[4,8,16,16,16]"],
            "crop_size=64 is too small for the unpadded network, which mirrors 92 pixels",
        ),
        (["data.border_weights.w0=-1"], "data.border_weights.w0"),
        (["data.border_weights.sigma=0"], "data.border_weights.sigma"),
        (["data.transform.elastic=-1"], "data.transform.elastic"),
        (["data.objects=3"], "data.objects"),
        (["loss.pixelwise_weight=0"], "loss.pixelwise_weight=0: data.border_weights are for that term"),
        (["data.border_weights=null"], "data.border_weights"),
    ],
)
def test_bad_input_is_one_paragraph_and_leaves_no_folder(
    run: Command, classic: list[str], tmp_path: Path, overrides: list[str], text: str
) -> None:
    result = run(train, *classic, *overrides, f"run_dir={tmp_path / 'run'}")
    assert result.status == 1
    assert text in result.error
    assert "Traceback" not in result.error
    assert not (tmp_path / "run").exists()


def test_a_weight_map_without_objects_is_refused(
    run: Command, classic: list[str], voc_folder: Path, tmp_path: Path
) -> None:
    for name in ("val_0", "val_1", "val_2", "val_3"):
        height, width = read_size(voc_folder / "JPEGImages" / f"{name}.jpg")
        save_mask(voc_folder / "SegmentationClass" / f"{name}.png", indices(0, height=height, width=width))
    result = run(train, *classic, f"run_dir={tmp_path / 'run'}")
    assert result.status == 1
    assert "needs objects, but all masks of list 'val'" in result.error
    assert not (tmp_path / "run").exists()


def test_a_network_starts_from_another_run_s_encoder_and_decoder(
    run: Command, trained: Path, voc_folder: Path, tmp_path: Path
) -> None:
    start = trained / "checkpoints" / "best.ckpt"
    weights = [f"model.encoder.weights={start}", f"model.decoder.weights={start}"]
    overrides = [*TINY, f"data.root={voc_folder}", *weights, "optimizer.lr=1e-12", "optimizer.encoder_lr=1e-12"]
    result = run(train, *overrides, "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    before = torch.load(start, weights_only=True)["state_dict"]
    after = weights_of(tmp_path / "run")
    names = [name for name in after if name.endswith("weight") and not name.startswith("net.head")]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in names)
    # Its own checkpoint needs the other one no more.
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["segunet"]["model"]
    assert (saved["encoder"]["weights"], saved["decoder"]["weights"]) == (None, None)


class WithoutWeights(nn.Module):
    """A loss of one's own that takes no border weights."""

    label = "own"

    def forward(self, log_probabilities: Tensor, own: Tensor, targets: Tensor) -> Tensor:
        return -own.mean()


def test_a_loss_that_takes_no_border_weights_is_said() -> None:
    check_border_weights(SegmentationLoss(Focal(), 255))
    with pytest.raises(UserError, match=r"loss\.pixelwise \(WithoutWeights\) takes no border weights"):
        check_border_weights(SegmentationLoss(WithoutWeights(), 255))


def test_a_run_of_an_older_version_goes_on(run: Command, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "old")
    path = tmp_path / "old" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["data"]["objects"], config["data"]["border_weights"], config["data"]["transform"]["elastic"]
    del config["model"]["decoder"]["weights"]
    path.write_text(yaml.safe_dump(config))
    result = run(train, f"resume={tmp_path / 'old'}", "trainer.max_epochs=3")
    assert result.status == 0, result.error
    assert "lacks settings, which are as in a new run: " in result.output
    assert "data.border_weights={" in result.output
    del config["model"]["encoder"]
    path.write_text(yaml.safe_dump(config))
    assert "model.encoder is missing" in run(train, f"resume={tmp_path / 'old'}").error
