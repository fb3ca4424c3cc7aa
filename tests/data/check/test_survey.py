"""A folder damaged in every way: what is found, and that a training stops at exactly the errors."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segunet.base.errors import UserError
from segunet.data import labels
from segunet.data.check.findings import KINDS
from segunet.data.check.survey import Survey, examine, read_split
from segunet.data.dataset import read_pair
from segunet.data.masks import MaskFormat
from segunet.data.voc import Pair, find_voc_folder, list_pairs
from segunet.images.palette import IGNORE_INDEX, ClassColours, voc_palette
from tests.conftest import VOC_SIZES
from tests.data.damage import (
    ERRORS,
    HARMLESS,
    IMAGE,
    LEAKS,
    MASK,
    TRAIN_LIST,
    VAL_LIST,
    convert,
    cut,
    save_mask,
)
from tests.data.test_datamodule import CLASS_NAMES, datamodule

FORM = MaskFormat(3, IGNORE_INDEX, voc_palette())


def survey_of(folder: Path, form: MaskFormat = FORM, train: str = "train") -> Survey:
    splits = [read_split(folder, "train", train), read_split(folder, "val", "val")]
    survey = Survey(folder, splits, form, ClassColours(CLASS_NAMES, form.palette, form.ignore_index, 0))
    for split in splits:
        for pair in split.pairs:
            survey.add(split, examine(pair, form))
    survey.conclude()
    return survey


def found_in(folder: Path) -> dict[str, list[str]]:
    """The files, below the folder, of each kind of finding."""
    found: dict[str, list[str]] = {}
    for finding in survey_of(folder).findings:
        found.setdefault(finding.kind, []).append(str(finding.file.relative_to(folder)))
    return found


def details_of(folder: Path, kind: str) -> list[str]:
    return [finding.detail for finding in survey_of(folder).findings if finding.kind == kind]


def stops_a_training(folder: Path) -> bool:
    """Read the whole data set as a training and its validation do."""
    try:
        made = datamodule(folder)
        made.check_labels()
        for pair in made.train_pairs + made.val_pairs:
            read_pair(pair, made.form)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("name", ERRORS)
def test_what_stops_a_training_is_found_and_is_an_error(voc_folder: Path, name: str) -> None:
    damage, wanted = ERRORS[name]
    damage(voc_folder)
    assert found_in(voc_folder) == wanted
    assert any(KINDS[kind].severity == "error" for kind in wanted)
    assert stops_a_training(voc_folder)


@pytest.mark.parametrize("name", LEAKS)
def test_what_spoils_the_scores_is_an_error(voc_folder: Path, name: str) -> None:
    damage, wanted = LEAKS[name]
    damage(voc_folder)
    assert found_in(voc_folder) == wanted
    assert any(KINDS[kind].severity == "error" for kind in wanted)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_training_reads_is_no_error(voc_folder: Path, name: str) -> None:
    damage, wanted = HARMLESS[name]
    damage(voc_folder)
    assert found_in(voc_folder) == wanted
    assert not any(KINDS[kind].severity == "error" for kind in wanted)
    assert not stops_a_training(voc_folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(("path", "kind"), [(IMAGE, "unreadable"), (MASK, "unreadable")])
def test_a_file_without_permission_is_an_error(voc_folder: Path, path: Path, kind: str) -> None:
    (voc_folder / path).chmod(0)
    assert found_in(voc_folder) == {kind: [str(path)]}
    assert stops_a_training(voc_folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_an_error(voc_folder: Path) -> None:
    (voc_folder / "JPEGImages").chmod(0)
    try:
        assert len(found_in(voc_folder)["missing"]) == 10
        assert "Permission denied" in details_of(voc_folder, "missing")[0]
        assert stops_a_training(voc_folder)
    finally:
        (voc_folder / "JPEGImages").chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("path", [Path(), VAL_LIST])
def test_a_root_or_a_list_without_permission_is_refused_by_name(voc_folder: Path, path: Path) -> None:
    mode = (voc_folder / path).stat().st_mode
    (voc_folder / path).chmod(0)
    try:
        with pytest.raises(UserError, match=rf"{voc_folder / path}.* Permission denied"):
            read_split(find_voc_folder(voc_folder), "val", "val")
        assert stops_a_training(voc_folder)
    finally:
        (voc_folder / path).chmod(mode)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfev\x00a\x00l\x00", None])
def test_a_list_that_cannot_be_read_is_refused_as_in_training(voc_folder: Path, content: bytes | None) -> None:
    (voc_folder / VAL_LIST).unlink()
    if content is not None:
        (voc_folder / VAL_LIST).write_bytes(content)
    with pytest.raises(UserError, match=r"/val\.txt") as in_training:
        list_pairs(voc_folder, "val")
    with pytest.raises(UserError) as here:
        read_split(voc_folder, "val", "val")
    assert str(here.value) == str(in_training.value)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("mask is .bmp", "missing", "is not there, but val_1.bmp is"),
        ("image is gone", "missing", "is not there"),
        ("image is a folder", "missing", "is a folder"),
        ("a name with its suffix", "missing", "is not there, but val_1.jpg is"),
        ("a name that no file can have", "missing", "File name too long"),
        ("a name twice", "faulty_list", "names 'val_0' 2 times"),
        ("mask of zero bytes", "unreadable", "(0 bytes) cannot be read as a mask"),
        ("mask of another size", "other_size", "is 10 x 20 pixels, its image 80 x 64"),
        ("image turned, mask not", "other_size", "is 80 x 64 pixels, its image 64 x 80"),
        ("mask of CMYK", "mask_values", "has the mode CMYK"),
        ("mask of other colours", "mask_values", "(255, 0, 0)"),
        ("16-bit mask of other values", "mask_values", "257 (2,560 pixels)"),
        ("all of a list is 0 and 255", "nothing_to_learn", "has only 0 and 255 in its masks"),
    ],
)
def test_the_detail_goes_on_from_the_file_s_name(voc_folder: Path, name: str, kind: str, words: str) -> None:
    ERRORS[name][0](voc_folder)
    detail = details_of(voc_folder, kind)[0]
    assert words in detail
    assert str(voc_folder) not in detail
    assert ". " not in detail  # no advice, which is given once a kind


def test_an_unreadable_image_does_not_hide_its_mask(voc_folder: Path) -> None:
    cut(voc_folder / IMAGE, 0)
    save_mask(voc_folder / MASK, 0, 9)
    assert found_in(voc_folder) == {"unreadable": [str(IMAGE)], "mask_values": [str(MASK)]}


def test_all_masks_decide_on_a_list_of_0_and_255_as_in_training(voc_folder: Path) -> None:
    for number in range(5):
        save_mask(voc_folder / f"SegmentationClass/train_{number}.png", 0, 255)
    assert "nothing_to_learn" not in found_in(voc_folder)  # train_5 has classes
    assert not stops_a_training(voc_folder)
    save_mask(voc_folder / "SegmentationClass/train_5.png", 0)
    assert details_of(voc_folder, "nothing_to_learn") == ["has only 0 and 255 in its masks"]
    assert stops_a_training(voc_folder)


def test_another_ignore_index_is_followed(voc_folder: Path) -> None:
    form = MaskFormat(3, 200, voc_palette())
    assert {finding.kind for finding in survey_of(voc_folder, form).findings} >= {"mask_values"}
    save_mask(voc_folder / MASK, 0, 200)
    assert "ignored_mask" in {finding.kind for finding in survey_of(voc_folder, form).findings}


def test_pixels_images_sizes_and_modes_are_counted(voc_folder: Path) -> None:
    convert(voc_folder / IMAGE, "L")
    survey = survey_of(voc_folder)
    for split, role in zip(survey.splits, ("train", "val"), strict=True):
        images = np.zeros(256, dtype=np.int64)
        for mask in (voc_folder / "SegmentationClass").glob(f"{role}_*"):
            with Image.open(mask) as image:
                images[np.unique(np.asarray(image))] += 1
        assert (split.images == images).all()
        assert (split.pixels[:3] == labels.survey(list_pairs(voc_folder, role), FORM, 1).pixels[:3]).all()
        assert split.pixels.sum() == sum(height * width for height, width in VOC_SIZES[role])
    assert sorted(survey.sizes.elements()) == sorted(VOC_SIZES["train"] + VOC_SIZES["val"])
    assert survey.image_modes == {"RGB": 9, "L": 1}
    assert survey.mask_modes == {"P": 10}


def test_trainaug_s_masks_are_those_of_its_own_folder(voc_folder: Path) -> None:
    (voc_folder / TRAIN_LIST).rename(voc_folder / TRAIN_LIST.with_stem("trainaug"))
    (voc_folder / "SegmentationClassAug").mkdir()
    for mask in (voc_folder / "SegmentationClass").glob("train_*"):
        mask.rename(voc_folder / "SegmentationClassAug" / mask.name)
    assert not survey_of(voc_folder, train="trainaug").findings
    (voc_folder / "SegmentationClassAug/stray.png").write_bytes((voc_folder / MASK).read_bytes())
    assert [finding.kind for finding in survey_of(voc_folder, train="trainaug").findings] == ["stray_file"]


def test_what_is_kept_of_an_example_is_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(noise[..., 0] % 3).save(tmp_path / "mask.png")
    seen = examine(Pair("a", tmp_path / "a.png", tmp_path / "mask.png"), FORM)
    arrays = [value for value in vars(seen).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 256 * 8
    assert all(array.base is None for array in arrays)
