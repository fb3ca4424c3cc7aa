"""Which images are shown, and that they are what was scored."""

import math
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Trainer

from segunet.data.datamodule import VOCDataModule
from segunet.inference.checkpoint import load_checkpoint
from segunet.inference.tiling import Inference
from segunet.report.examples import chosen, examples, small
from segunet.training.build_scoring import data_of


def scored(*values: float) -> dict[str, float]:
    return {f"image {number}": value for number, value in enumerate(values)}


def test_the_best_the_median_and_the_worst_are_chosen() -> None:
    values = np.random.default_rng(0).permutation(11) / 10  # 0.0 .. 1.0; the median is 0.5
    image_miou = scored(*values)
    found = {kind: [image_miou[name] for name in names] for kind, names in chosen(image_miou).items()}
    assert found == {"best": [1.0, 0.9, 0.8], "median": [0.6, 0.5, 0.4], "worst": [0.0, 0.1, 0.2]}


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (0, {"best": [], "median": [], "worst": []}),
        (1, {"best": [0], "median": [], "worst": []}),
        (2, {"best": [0], "median": [], "worst": [1]}),
        (3, {"best": [0], "median": [1], "worst": [2]}),
        (5, {"best": [0], "median": [2], "worst": [4]}),
        (7, {"best": [0, 1], "median": [2, 3], "worst": [6, 5]}),
        (9, {"best": [0, 1, 2], "median": [3, 4, 5], "worst": [8, 7, 6]}),
    ],
)
def test_few_images_give_fewer_of_each(number: int, wanted: dict[str, list[int]]) -> None:
    image_miou = scored(*[1 - rank / 10 for rank in range(number)])
    assert chosen(image_miou) == {kind: [f"image {rank}" for rank in ranks] for kind, ranks in wanted.items()}


@pytest.mark.parametrize("number", range(1, 40))
def test_no_image_is_shown_twice(number: int) -> None:
    rng = np.random.default_rng(number)
    names = [name for names in chosen(scored(*rng.choice([0.2, 0.5, 1.0], number))).values() for name in names]
    assert len(names) == len(set(names)) == min(number if number < 3 else number // 3 * 3, 9)


def test_equal_images_are_taken_by_name() -> None:
    assert chosen({"b": 0.5, "c": 0.5, "a": 0.5}) == {"best": ["a"], "median": ["b"], "worst": ["c"]}


def test_an_image_without_a_score_is_not_shown() -> None:
    assert chosen(scored(math.nan, 0.5, math.nan, 0.25)) == {
        "best": ["image 1"],
        "median": [],
        "worst": ["image 3"],
    }


def test_an_image_that_is_off_the_list_is_left_out(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "checkpoints" / "best.ckpt")
    datamodule = VOCDataModule(**data_of(checkpoint, OmegaConf.create()))
    datamodule.setup("test")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    scores = {"val_0": 0.9, "gone": 0.5, "val_1": 0.1}
    found = examples(scores, checkpoint.net, trainer, datamodule, checkpoint.colours, Inference())
    assert {kind: [each.name for each in some] for kind, some in found.items()} == {
        "best": ["val_0"],
        "median": [],
        "worst": ["val_1"],
    }


def test_a_large_panel_is_shrunk_and_a_small_one_is_not() -> None:
    large = np.full((600, 800, 3), (200, 100, 50), dtype=np.uint8)
    assert small(large).shape == (384, 512, 3)
    assert (small(large) == (200, 100, 50)).all()
    np.testing.assert_array_equal(small(large[:64, :256]), large[:64, :256])
