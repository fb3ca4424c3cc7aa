"""A VOC folder and its lists: what is read, and what is refused."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from segunet.base.errors import UserError
from segunet.data.voc import Pair, find_voc_folder, list_pairs
from tests.pixels import colours


@pytest.mark.parametrize("below", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_the_folder_is_found_below_three_roots(tmp_path: Path, below: str) -> None:
    (tmp_path / below / "ImageSets" / "Segmentation").mkdir(parents=True)
    assert find_voc_folder(tmp_path) == tmp_path / below


def test_a_root_without_lists_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.root is {tmp_path}, which has no ImageSets/Segmentation"):
        find_voc_folder(tmp_path)
    with pytest.raises(UserError, match=rf"data\.root is {tmp_path}/nowhere, which does not exist"):
        find_voc_folder(tmp_path / "nowhere")


def test_the_pairs_are_in_the_list_s_order(voc_folder: Path) -> None:
    names = ["train_3", "train_0", "train_5"]
    (voc_folder / "ImageSets/Segmentation/some.txt").write_text("\n".join(names))
    pairs = list_pairs(voc_folder, "some")
    assert pairs == [
        Pair(name, voc_folder / f"JPEGImages/{name}.jpg", voc_folder / f"SegmentationClass/{name}.png")
        for name in names
    ]


def test_blank_lines_and_line_ends_of_windows_do_not_matter(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/some.txt").write_bytes(b"train_3\r\n\r\n  train_0 \r\n")
    assert [pair.name for pair in list_pairs(voc_folder, "some")] == ["train_3", "train_0"]


def test_images_of_every_suffix_are_found_in_small_and_in_capital_letters(voc_folder: Path) -> None:
    image = voc_folder / "JPEGImages" / "val_0.jpg"
    for suffix in (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"):
        for spelt in (suffix, suffix.upper()):
            image = image.rename(image.with_suffix(spelt))
            assert list_pairs(voc_folder, "val")[0].image == image


def test_masks_and_object_maps_of_every_suffix_are_found(voc_folder: Path) -> None:
    mask, objects = (voc_folder / folder / "val_0.png" for folder in ("SegmentationClass", "SegmentationObject"))
    objects.parent.mkdir()
    shutil.copytree(mask.parent, objects.parent, dirs_exist_ok=True)
    for suffix in (".png", ".tif", ".tiff", ".PNG", ".TIF", ".TIFF"):
        mask, objects = (file.rename(file.with_suffix(suffix)) for file in (mask, objects))
        assert list_pairs(voc_folder, "val", objects=True)[0][2:] == (mask, objects)
    shutil.copy(mask, mask.with_suffix(".png"))
    assert list_pairs(voc_folder, "val")[0].mask == mask.with_suffix(".png")


def test_trainaug_takes_its_masks_from_the_other_folder(voc_folder: Path) -> None:
    (voc_folder / "SegmentationClass").rename(voc_folder / "SegmentationClassAug")
    (voc_folder / "ImageSets/Segmentation/val.txt").rename(voc_folder / "ImageSets/Segmentation/trainaug.txt")
    assert list_pairs(voc_folder, "trainaug")[0].mask == voc_folder / "SegmentationClassAug" / "val_0.png"


def test_a_missing_list_is_refused_with_those_that_are_there(voc_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no list .*/unknown\.txt\. Lists there: train, val\."):
        list_pairs(voc_folder, "unknown")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_is_refused(voc_folder: Path, text: str) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").write_text(text)
    with pytest.raises(UserError, match=r"/val\.txt is empty"):
        list_pairs(voc_folder, "val")


def test_a_name_twice_is_refused(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").write_text("val_0\nval_1\nval_2\nval_1\n")
    with pytest.raises(UserError, match=r"/val\.txt names 'val_1' more than once"):
        list_pairs(voc_folder, "val")


@pytest.mark.parametrize(("kind", "file"), [("image", "JPEGImages/val_2.jpg"), ("mask", "SegmentationClass/val_2.png")])
def test_a_missing_file_is_refused_by_name(voc_folder: Path, kind: str, file: str) -> None:
    (voc_folder / file).unlink()
    with pytest.raises(UserError, match=rf"/val\.txt names 4 examples, but 1 .* no {kind}; .* {voc_folder}/{file}"):
        list_pairs(voc_folder, "val")


def test_a_list_that_is_no_text_is_refused_by_name(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfev\x00a\x00l\x00")
    with pytest.raises(UserError, match=r"/val\.txt"):
        list_pairs(voc_folder, "val")


def test_names_that_leave_the_folder_are_refused(voc_folder: Path) -> None:
    for name in ("/etc/x", "../x", "a/../../x", "..", ".", "a//b", "a/", "./a", "a\\b", "a\0b"):
        (voc_folder / "ImageSets/Segmentation/val.txt").write_text(f"val_0\n{name}\n")
        with pytest.raises(UserError, match=rf"/val\.txt names {re.escape(repr(name))}, which does not stay within"):
            list_pairs(voc_folder, "val")


def test_a_name_on_a_list_is_a_whole_line(tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    for folder in (lists, tmp_path / "JPEGImages", tmp_path / "SegmentationClass"):
        folder.mkdir(parents=True)
    (lists / "val.txt").write_text("an image\r\n\n  b \n")
    for name in ("an image", "b"):
        Image.fromarray(colours()).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(colours()[..., 0]).save(tmp_path / "SegmentationClass" / f"{name}.png")
    assert [pair.name for pair in list_pairs(tmp_path, "val")] == ["an image", "b"]
