"""What all masks of a list hold: counted, refused, remembered while no file has changed, and not believed blindly."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segunet import train
from segunet.base.errors import UserError
from segunet.data import labels
from segunet.data.labels import absent_classes, check_learnable, label_facts, survey
from segunet.data.masks import MaskFormat
from segunet.data.voc import Pair, list_pairs
from segunet.images.palette import IGNORE_INDEX, voc_palette
from tests.commands import TINY, Command

FORM = MaskFormat(3, IGNORE_INDEX, voc_palette())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(labels, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def pairs_of(folder: Path, *masks: list[int]) -> list[Pair]:
    """Write a mask of one row for each list of values, and its image."""
    pairs = []
    for number, values in enumerate(masks):
        pair = Pair(str(number), folder / f"{number}.png", folder / f"{number}_mask.png")
        Image.fromarray(np.zeros((1, len(values), 3), dtype=np.uint8)).save(pair.image)
        Image.fromarray(np.array([values], dtype=np.uint8)).save(pair.mask)
        pairs.append(pair)
    return pairs


def test_every_pixel_and_mask_is_counted(tmp_path: Path) -> None:
    for threads in (1, 3):
        facts = survey(pairs_of(tmp_path, [0, 0, 2, 255], [0, 255, 255, 255]), FORM, threads)
        assert {value: (facts.pixels[value], facts.images[value]) for value in facts.values} == {
            0: (3, 2),
            2: (1, 1),
            255: (4, 2),
        }
    assert absent_classes(facts, FORM, ["a", "b", "c"]) == ["b"]
    assert absent_classes(facts, MaskFormat(3, 1, voc_palette()), ["a", "b", "c"]) == []  # b is ignored
    assert survey([], FORM, 1).pixels.tolist() == [0] * 256


def test_lists_of_0_and_255_or_255_alone_are_refused(tmp_path: Path) -> None:
    for masks, refused in (
        ([[0, 0]] * 20 + [[0, 255]], True),
        ([[255, 255]], True),
        ([[0, 0]], False),
        ([[0, 255]] * 20 + [[0, 1]], False),
    ):
        facts = survey(pairs_of(tmp_path, *masks), FORM, 1)
        if refused:
            with pytest.raises(UserError, match=r"All masks of list .val. hold only .* 1 of them hold 255"):
                check_learnable(facts, FORM, "val")
        else:
            check_learnable(facts, FORM, "val")


def test_facts_are_remembered_while_no_file_has_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(tmp_path, [0, 1], [0, 2])
    first = label_facts(pairs, FORM)
    with monkeypatch.context() as patch:
        patch.setattr(labels, "survey", lambda *_: pytest.fail("read again"))
        again = label_facts(pairs, FORM)
    assert (again.pixels == first.pixels).all()
    assert (again.images == first.images).all()
    with pytest.raises(UserError, match="values that are not classes"):
        label_facts(pairs, MaskFormat(2, IGNORE_INDEX, voc_palette()))
    os.utime(pairs[1].mask, (1, 1))
    Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).save(pairs[1].mask)
    assert label_facts(pairs, FORM).pixels[:3].tolist() == [2, 2, 0]
    assert len(list(cache.iterdir())) == 1
    pairs[1].mask.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"1_mask\.png"):
        label_facts(pairs, FORM)


def test_what_is_remembered_is_not_believed_blindly(tmp_path: Path, cache: Path) -> None:
    pairs = pairs_of(tmp_path, [0, 1])
    label_facts(pairs, FORM)
    (path,) = cache.iterdir()
    good = path.read_text()
    content = json.loads(good)
    wrong: list[Any] = [None, 3, [1] * 255, [1.5] * 256, ["1"] * 256, [True] * 256, [-1] * 256, [2**70] * 256, {}]
    for damaged in (
        "",
        "[" * 100_000,
        "7",
        good[:-9],
        good + " " * (labels._MAX_CACHE_BYTES + labels._MAX_BYTES_OF_MASK),
        *(json.dumps({**content, "pixels": value}) for value in wrong),
        *(json.dumps({**content, "found": value}) for value in (None, [], [[0], [1]], [["0"]], [[256]])),
        json.dumps({**content, "stamp": "another", "pixels": [9] * 256}),
    ):
        path.write_text(damaged)
        assert label_facts(pairs, FORM).pixels[:3].tolist() == [1, 1, 0], damaged[:80]
        assert path.read_text() == good


def test_facts_are_there_without_a_place_to_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(labels, "CACHE", tmp_path / "file")
    assert label_facts(pairs_of(tmp_path, [0, 1]), FORM).pixels[:3].tolist() == [1, 1, 0]


def test_a_training_says_what_is_wrong_with_any_mask_before_its_first_step(
    run: Command, voc_folder: Path, tmp_path: Path
) -> None:
    start = [*TINY, f"data.root={voc_folder}", "trainer.max_steps=1", "data.class_names=[background,disc,square,cross]"]
    result = run(train, *start, f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    for split, so in (("train", "cannot be learned"), ("val", "cannot be scored")):
        assert f"no mask of list {split} has cross: these classes {so}" in result.output
    mask = list_pairs(voc_folder, "val")[-1].mask
    with Image.open(mask) as image:
        pixels = np.array(image)
    pixels[0, 0] = 9
    Image.fromarray(pixels).save(mask)
    result = run(train, *start, f"run_dir={tmp_path / 'bad'}")
    assert result.status == 1
    assert f"{mask} has values that are not classes: 9 (1 pixel)" in result.error
    assert not (tmp_path / "bad").exists()


def test_the_masks_with_each_class_are_known_again(tmp_path: Path, cache: Path) -> None:
    pairs = pairs_of(tmp_path, [0, 1], [0, 255], [2, 2])
    for _ in range(2):  # read, and remembered
        facts = label_facts(pairs, FORM)
        assert facts.found == [[0, 1], [0, 255], [2]]
        with_each = {value: indices.tolist() for value, indices in facts.with_each().items()}
        assert with_each == {0: [0, 1], 1: [0], 2: [2], 255: [1]}
        assert facts.images[[0, 1, 2, 255]].tolist() == [2, 1, 1, 1]
    (path,) = cache.iterdir()
    shorter = path.read_text().replace("[[0,1],[0,255],[2]]", "[[0,1],[0,255]]")
    assert shorter != path.read_text()
    path.write_text(shorter)
    assert len(label_facts(pairs, FORM).found) == 3
