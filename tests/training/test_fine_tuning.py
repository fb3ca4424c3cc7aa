"""Starting from a checkpoint's weights, through the command itself."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segunet import train
from segunet.cli.comparison import read_scores
from segunet.data import sample
from segunet.data.built_in import write
from segunet.data.sample import the_sample
from segunet.data.voc import list_pairs, list_path
from segunet.training import build
from segunet.training.diffusion import DiffusionTask
from tests.commands import TINY, TINY_DENOISER, Command
from tests.test_conf import composed


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}


def best_of(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "best.ckpt"


def started(*settings: str) -> dict[str, torch.Tensor]:
    """Return the weights that a training starts with."""
    cfg = composed("train", *settings)
    datamodule = build.datamodule_from_config(cfg)
    return dict(build.task_from_config(cfg, datamodule).net.state_dict())


def equal_parts(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, bool]:
    """Return whether all tensors of each part of the networks are equal."""
    parts: dict[str, bool] = {}
    for name, value in one.items():
        part = name.partition(".")[0]
        same = name in other and value.shape == other[name].shape and torch.equal(value, other[name])
        parts[part] = parts.get(part, True) and same
    return parts


@pytest.fixture
def options(trained: Path) -> list[str]:
    return [*TINY, f"data.root={trained / 'voc'}", f"init={best_of(trained)}"]


@pytest.mark.parametrize(
    ("more", "from_checkpoint"),
    [
        ([], {"encoder", "decoder", "head"}),
        (["init_parts=encoder"], {"encoder"}),
        (["init_parts=[decoder,head]"], {"decoder", "head"}),
        (["data.class_names=[background,disc,square,star]"], {"encoder", "decoder"}),
        (["data.class_names=[background,square,disc]"], {"encoder", "decoder"}),  # as many, but others
    ],
)
def test_the_parts_that_fit_start_from_the_checkpoint(
    trained: Path, options: list[str], more: list[str], from_checkpoint: set[str]
) -> None:
    same = equal_parts(started(*options, *more), weights_in(best_of(trained)))
    same = {part: equal for part, equal in same.items() if part in ("encoder", "decoder", "head")}
    assert {part for part, equal in same.items() if equal} == from_checkpoint


def test_what_matched_is_said_and_the_run_can_be_resumed_without_the_file(
    run: Command, options: list[str], trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "start.ckpt"
    copy.write_bytes(best_of(trained).read_bytes())
    settings = [
        *options[:-1],
        f"init={copy}",
        "data.class_names=[background,disc,other]",
        f"run_dir={tmp_path / 'run'}",
    ]
    result = run(train, *settings, "trainer.max_epochs=1")
    assert result.status == 0, result.error
    tensors = sum(name.startswith("encoder.") for name in weights_in(copy))
    assert f"  encoder: {tensors} tensors loaded\n" in result.output
    assert "as the checkpoint's is for other classes (background, disc, square)" in result.output
    assert f"starts from {copy}: all parts" in (tmp_path / "run" / "train.log").read_text()
    copy.unlink()
    refused = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2", "init=null")
    assert "'init=null' cannot be changed in a resumed run" in refused.error
    assert run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2").status == 0


def test_other_settings_are_said(run: Command, options: list[str], tmp_path: Path) -> None:
    settings = ["init_parts=encoder", "model.decoder.widths=[8,8]", "model.mean=[0,0,0]", f"run_dir={tmp_path / 'run'}"]
    result = run(train, *options, *settings, "trainer.max_epochs=1")
    assert result.status == 0, result.error
    assert "was trained with other settings: model.mean=[123.675, 116.28, 103.53]\n" in result.output
    assert "decoder" not in result.output.partition("training on")[0]


def test_a_denoiser_s_parts_are_a_start_for_segmentation(denoiser: Path) -> None:
    model = [each for each in TINY_DENOISER if each.startswith(("model.encoder", "model.decoder"))]
    settings = ["data=custom", "data.root=.", "data.class_names=[a,b]", *model, "model.encoder.depth=18"]
    settings += ["+model.encoder.norm=group", "model.decoder.norm=group", "model.decoder.widths=[16,16]"]
    cfg = composed(
        "train", *settings, "model.decoder.reduced_channels=null", f"init={best_of(denoiser)}", "init_parts=encoder"
    )
    net = build.task_from_config(cfg, build.datamodule_from_config(cfg)).net
    assert equal_parts(dict(net.state_dict()), weights_in(best_of(denoiser)))["encoder"]


def test_a_denoiser_starts_from_another_one_s_network_and_prompts(
    denoiser: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segunet"), "propagate", True)
    options = [*TINY_DENOISER, "data.root=.", f"init={best_of(denoiser)}"]
    saved = torch.load(best_of(denoiser), weights_only=True)["state_dict"]

    def task_of(*more: str) -> DiffusionTask:
        cfg = composed("train", *options, *more)
        task = build.task_from_config(cfg, build.datamodule_from_config(cfg))
        assert isinstance(task, DiffusionTask)
        return task

    task = task_of()
    assert all(equal_parts(dict(task.net.state_dict()), weights_in(best_of(denoiser))).values())
    assert task.prompts is not None
    assert torch.equal(task.prompts.named, saved["prompts.named"])
    assert torch.equal(task.prompts.empty, saved["prompts.empty"])
    with caplog.at_level(logging.INFO):
        task = task_of("data.class_names=[background,square,star]", "loss=flow_matching")
    assert task.prompts is not None
    assert torch.equal(task.prompts.named[0], saved["prompts.named"][1])
    assert "prompts: 1 of 2 loaded" in caplog.text
    assert "prompts initialized at random: star" in caplog.text
    assert "its head predicts something else" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["init_parts=head"], "Give init, too"),
        (["init=nowhere.ckpt"], "init: there is no checkpoint"),
        (["init=PATH", "init_parts=neck"], "init_parts=neck: the network's parts are encoder, decoder, head."),
        (["init=PATH", "init_parts=3"], "init_parts"),
        (["init=PATH", "init_parts=[]"], "init_parts"),
        (
            ["init=PATH", "init_parts=head", "data.class_names=[background,disc,star]"],
            "is for other classes",
        ),
        (
            ["init=PATH", "model.encoder.weights=other.pth"],
            "both give the encoder's weights",
        ),
        (
            ["init=PATH", "model.decoder.widths=[8,8]"],
            "the decoder does not fit: decoder.steps.0.conv1.0",
        ),
        (["init=PATH", "model.decoder.full_resolution_width=16"], "to_full_resolution.conv1.0.weight is not in it"),
        (["init=PATH", "model.encoder.depth=34"], "It was trained with model.encoder.depth=18"),
        (["init=RUN"], "Give init=RUN/checkpoints/best.ckpt"),
        (["init=PATH", "model.decoder.widths=[8,8]"], "It was trained with model.decoder.widths=[16, 16]"),
        (
            ["init=PATH", "model.encoder.depth=50"],
            "the encoder does not fit: encoder.layer1.0.conv1.w",
        ),
    ],
)
def test_what_cannot_be_a_start_is_refused(
    run: Command, trained: Path, options: list[str], settings: list[str], words: str, tmp_path: Path
) -> None:
    given = [each.replace("PATH", str(best_of(trained))).replace("RUN", str(trained)) for each in settings]
    result = run(train, *options[:-1], *given, "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}")
    assert result.status == 1
    assert words.replace("RUN", str(trained)) in result.error, result.error
    assert not (tmp_path / "run").exists()


def test_fine_tuning_beats_a_start_at_random(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows the sample's discs, squares and triangles learns its other shapes in fewer steps."""
    monkeypatch.setattr(sample, "RECIPE", {**sample.RECIPE, "train": 640, "val": 160})
    root = tmp_path / "sample"
    write(the_sample(), root)
    write_lists(root, {"first": {1, 2, 3}, "others": {4, 5, 6}})
    common = ["data=sample", f"data.root={root}", "data.num_workers=0", "callbacks.images=0", "optimizer.lr=3e-3"]
    common += [each for each in TINY if each.startswith(("model.", "trainer."))]
    common += ["optimizer.encoder_lr=null", "trainer.check_val_every_n_epoch=100"]

    def trained_on(which: str, names: str, values: str, epochs: int, folder: str, *settings: str) -> float:
        data = [f"data.train_split=train_{which}", f"data.val_split=val_{which}", f"data.class_names={names}"]
        data += [f"data.mask_values={values}", f"run_dir={tmp_path / folder}", f"trainer.max_epochs={epochs}"]
        result = run(train, *common, *data, *settings)
        assert result.status == 0, result.error
        miou = read_scores(tmp_path / folder)["miou"]
        assert miou is not None
        return miou

    trained_on("first", "[background,disc,square,triangle]", "{0:0,1:1,2:2,3:3}", 10, "first")
    others = ("others", "[background,star,ring,cross]", "{0:0,4:1,5:2,6:3}", 4)
    tuned = trained_on(*others, "tuned", f"init={best_of(tmp_path / 'first')}")
    assert tuned > trained_on(*others, "random") + 0.03  # with these seeds 0.58 and 0.43


def write_lists(root: Path, shapes: dict[str, set[int]]) -> None:
    """Write lists of the sample's images that show some of the shapes, and no others."""
    for split in ("train", "val"):
        found = {
            pair.name: set(np.unique(np.asarray(Image.open(pair.mask))).tolist()) for pair in list_pairs(root, split)
        }
        for name, wanted in shapes.items():
            names = [each for each, values in found.items() if wanted & values and values <= {0, 255, *wanted}]
            list_path(root, f"{split}_{name}").write_text("\n".join(names) + "\n")
