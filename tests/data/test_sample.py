"""The built-in sample: written once and whole, and not to be won by colour alone."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from numpy.random import default_rng
from numpy.typing import NDArray
from omegaconf import OmegaConf

from segunet.base.errors import UserError
from segunet.base.paths import CONF_DIR
from segunet.cli.overrides import composed
from segunet.data import sample
from segunet.data.built_in import write
from segunet.data.datamodule import VOCDataModule
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.sample import _SHAPES, RECIPE, draw_example, the_sample
from segunet.data.voc import list_pairs
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import read_image
from segunet.metrics.scores import Scores, scores_from_confusion

NUM_CLASSES = len(_SHAPES) + 1
FORM = MaskFormat(NUM_CLASSES, IGNORE_INDEX, voc_palette())
SIZE = RECIPE["size"]
Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (N, S, S, 3), masks (N, S, S)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the sample one of 6 + 3 images."""
    monkeypatch.setattr(sample, "RECIPE", {**RECIPE, "train": 6, "val": 3})


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read_split(root: Path, split: str) -> Split:
    pairs = list_pairs(root, split)
    images = np.stack([read_image(pair.image) for pair in pairs])
    masks = np.stack([read_mask(pair.mask, (SIZE, SIZE), FORM) for pair in pairs])
    return images, masks


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    root = tmp_path_factory.mktemp("full") / "sample"
    write(the_sample(), root)
    return {split: read_split(root, split) for split in ("train", "val")}


# --- writing ---


@pytest.mark.usefixtures("small")
def test_it_is_a_voc_folder_of_the_recipe_s_size(tmp_path: Path) -> None:
    root = tmp_path / "below" / "sample"
    write(the_sample(), root)
    for split, count in (("train", 6), ("val", 3)):
        images, masks = read_split(root, split)
        assert images.shape == (count, SIZE, SIZE, 3)
        assert masks.shape == (count, SIZE, SIZE)
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["sample"]


@pytest.mark.usefixtures("small")
def test_it_is_written_once(tmp_path: Path) -> None:
    root = tmp_path / "sample"
    write(the_sample(), root)
    for path in root.rglob("*"):
        os.utime(path, (1000, 1000))
    (root / "mine.txt").touch()
    write(the_sample(), root)
    assert {path.stat().st_mtime for path in root.rglob("*") if path.name != "mine.txt"} <= {1000, root.stat().st_mtime}
    assert (root / "JPEGImages" / "train_0000.jpg").stat().st_mtime == 1000
    assert (root / "mine.txt").exists()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("change", ["recipe", "no json"])
def test_it_is_written_anew_when_it_is_another_recipe_s(tmp_path: Path, change: str) -> None:
    root = tmp_path / "sample"
    write(the_sample(), root)
    wanted = contents(root)
    recipe = root / "sample.json"
    recipe.write_text("{" if change == "no json" else json.dumps({**RECIPE, "seed": -1}))
    (root / "JPEGImages" / "outdated.jpg").touch()
    write(the_sample(), root)
    assert contents(root) == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.usefixtures("small")
def test_another_version_is_not_scored_nor_replaced_by_a_scoring(tmp_path: Path) -> None:
    cfg = composed("train", ["data=sample"])
    made: VOCDataModule = instantiate(cfg.data, root=str(tmp_path / "sample"), _convert_="all")
    made.prepare_scoring()
    made.prepare_scoring()
    (tmp_path / "sample" / "sample.json").write_text(json.dumps({**RECIPE, "version": 0}))
    before = contents(tmp_path / "sample")
    with pytest.raises(UserError, match=r"another version .* python -m segunet\.check_data data=sample data\.root="):
        made.prepare_scoring()
    assert contents(tmp_path / "sample") == before
    made.prepare_data()
    made.prepare_scoring()


@pytest.mark.usefixtures("small")
def test_a_folder_that_is_no_sample_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "mine" / "JPEGImages" / "precious.jpg").touch()
    with pytest.raises(UserError, match=str(tmp_path / "mine")):
        write(the_sample(), tmp_path / "mine")
    assert list(contents(tmp_path / "mine")) == ["JPEGImages/precious.jpg"]
    (tmp_path / "mine" / "sample.json").write_text("{}")  # as an older sample has it, but beside a user's files
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match=str(tmp_path / "mine")):
        write(the_sample(), tmp_path / "mine")
    assert set(contents(tmp_path / "mine")) == {"JPEGImages/precious.jpg", "sample.json", "notes.txt"}


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.root=.*file/sample: the built-in sample .* cannot be written there"):
        write(the_sample(), tmp_path / "file" / "sample")


@pytest.mark.usefixtures("small")
def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def late(draft: Path, root: Path) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            write(the_sample(), root)
        return replace(draft, root)

    monkeypatch.setattr(Path, "replace", late)
    write(the_sample(), tmp_path / "sample")
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    assert len(list_pairs(tmp_path / "sample", "train")) == 6


@pytest.mark.usefixtures("small")
def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    write(the_sample(), tmp_path / "sample")
    assert len(list_pairs(tmp_path / "sample", "train")) == 6


@pytest.mark.parametrize("key", ["version", "seed", "size", "train", "val"])
def test_every_value_of_the_recipe_counts(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**RECIPE, "train": 2, "val": 2}
    monkeypatch.setattr(sample, "RECIPE", small)
    write(the_sample(), tmp_path / "sample")
    monkeypatch.setattr(sample, "RECIPE", {**small, key: small[key] + 1})
    write(the_sample(), tmp_path / "sample")
    assert json.loads((tmp_path / "sample" / "sample.json").read_text())[key] == small[key] + 1


@pytest.mark.usefixtures("small")
def test_it_is_the_same_wherever_and_whenever_it_is_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(the_sample(), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_first_images_do_not_depend_on_how_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("few", 2), ("more", 4)):
        monkeypatch.setattr(sample, "RECIPE", {**RECIPE, "train": count, "val": 2})
        write(the_sample(), tmp_path / name)
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert {name for name in few if few[name] == more[name]} >= {name for name in few if "_0" in name}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_a_writing_that_is_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4, error)
        with pytest.raises(UserError if error is OSError else error):
            write(the_sample(), tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []
    write(the_sample(), tmp_path / "sample")
    assert len(list_pairs(tmp_path / "sample", "train")) == 6


@pytest.mark.usefixtures("small")
def test_a_rewriting_that_is_cut_short_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(the_sample(), tmp_path / "sample")
    (tmp_path / "sample" / "sample.json").write_text("{}")
    before = contents(tmp_path / "sample")
    stop_after(monkeypatch, 4, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        write(the_sample(), tmp_path / "sample")
    assert contents(tmp_path / "sample") == before
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def stop_after(monkeypatch: pytest.MonkeyPatch, images: int, error: type[BaseException]) -> None:
    """Raise ``error`` instead of drawing the next image after so many."""
    drawn: list[Any] = []

    def draw_or_stop(rng: np.random.Generator) -> Any:
        if len(drawn) == images:
            raise error
        drawn.append(draw_example(rng))
        return drawn[-1]

    monkeypatch.setattr(sample, "draw_example", draw_or_stop)


# --- drawing ---


def test_a_drawing_is_a_function_of_its_generator() -> None:
    first, again, other = (draw_example(default_rng(seed)) for seed in (1, 1, 2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()
    assert first[0].shape == (SIZE, SIZE, 3)
    assert first[1].shape == (SIZE, SIZE)
    assert first[0].dtype == first[1].dtype == np.uint8


def test_the_class_names_are_those_of_the_config() -> None:
    config = OmegaConf.load(CONF_DIR / "data" / "sample.yaml")
    assert ["background", *(name for name, _ in _SHAPES)] == list(config.class_names)
    assert config.ignore_index == IGNORE_INDEX


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_is_there_and_every_object_has_an_ignored_border(full: dict[str, Split], split: str) -> None:
    images, masks = full[split]
    assert len(images) == RECIPE[split]
    shares = np.bincount(masks.ravel(), minlength=256) / masks.size
    assert set(np.flatnonzero(shares)) == {*range(NUM_CLASSES), IGNORE_INDEX}
    assert shares[1:NUM_CLASSES].min() > 0.005
    assert 0.01 < shares[IGNORE_INDEX] < 0.2
    for mask in masks:
        assert not touches(mask)


def touches(mask: NDArray[np.uint8]) -> bool:
    """Whether two classes lie beside each other with no ignored pixel between them."""
    pairs = [(mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])]
    return any(((a != b) & (a != IGNORE_INDEX) & (b != IGNORE_INDEX)).any() for a, b in pairs)


def test_no_validation_image_is_a_training_image(full: dict[str, Split]) -> None:
    train, val = ({image.tobytes() for image in full[split][0]} for split in ("train", "val"))
    assert not train & val
    assert len(train) == RECIPE["train"]


# --- what the sample must not give away ---


def score(prediction: NDArray[Any], truth: NDArray[np.uint8]) -> Scores:
    valid = truth != IGNORE_INDEX
    flat = np.bincount(NUM_CLASSES * truth[valid].astype(int) + prediction[valid], minlength=NUM_CLASSES**2)
    return scores_from_confusion(flat.reshape(NUM_CLASSES, NUM_CLASSES), len(truth))


def quantised(images: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
    """One number a pixel for its colour, (N, S, S), with so many bits a channel."""
    red, green, blue = np.moveaxis(images.astype(np.int64) >> (8 - bits), -1, 0)
    return np.asarray((red << 2 * bits) | (green << bits) | blue)


def test_always_background_scores_below_a_fifth(full: dict[str, Split]) -> None:
    masks = full["val"][1]
    assert score(np.zeros(masks.shape, dtype=int), masks).miou < 0.2


@pytest.mark.parametrize("bits", [3, 4, 5])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_best_class_of_each_colour_scores_below_two_fifths(
    full: dict[str, Split], bits: int, balanced: bool
) -> None:
    images, masks = full["train"]
    valid = masks != IGNORE_INDEX
    cell = quantised(images, bits)[valid] * NUM_CLASSES + masks[valid]
    counts = np.bincount(cell, minlength=NUM_CLASSES << 3 * bits).reshape(-1, NUM_CLASSES).astype(float)
    if balanced:
        counts /= counts.sum(axis=0)
    images, masks = full["val"]
    scores = score(counts.argmax(axis=1)[quantised(images, bits)], masks)
    assert 1 / NUM_CLASSES / 2 < scores.miou < 0.4  # it does see something
