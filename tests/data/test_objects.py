"""The objects of an image: from a file, and from its mask where there is none."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from segunet.base.errors import UserError
from segunet.data.masks import MaskFormat
from segunet.data.objects import check_object_maps, read_objects
from segunet.data.voc import Pair, list_pairs
from segunet.images.palette import IGNORE_INDEX, voc_palette
from tests.pixels import Pixels, colours, indices, save_mask

MASK = indices(0, 1, 1, 2, IGNORE_INDEX)
FORM = MaskFormat(3, IGNORE_INDEX, voc_palette())


def pair(folder: Path, objects: bool = True) -> Pair:
    Image.fromarray(colours()).save(folder / "a.png")
    save_mask(folder / "mask.png", MASK)
    return Pair("a", folder / "a.png", folder / "mask.png", folder / "objects.png" if objects else None)


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_numbers_are_those_of_the_file_but_0_where_the_mask_is_ignored(tmp_path: Path, mode: str) -> None:
    numbers = indices(0, 7, 8, 9, 10)
    if mode == "P":
        save_mask(tmp_path / "objects.png", numbers)
    else:
        Image.fromarray(numbers.astype(np.uint16 if mode == "I;16" else np.uint8)).save(tmp_path / "objects.png")
    objects = read_objects(pair(tmp_path), MASK, IGNORE_INDEX)
    assert objects.dtype == np.int32
    assert (objects == np.where(MASK == IGNORE_INDEX, 0, numbers)).all()


def test_255_is_an_outline_in_8_bits_and_an_object_in_16(tmp_path: Path) -> None:
    numbers, mask = indices(0, 1, 255), indices(0, 1, 1)
    save_mask(tmp_path / "objects.png", numbers)
    assert (read_objects(pair(tmp_path), mask, IGNORE_INDEX) == indices(0, 1, 0)).all()
    Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / "objects.png")
    assert (read_objects(pair(tmp_path), mask, IGNORE_INDEX) == numbers).all()


def test_without_a_file_they_are_the_mask_s_regions(tmp_path: Path) -> None:
    mask = np.array([[1, 1, 0, 1, 2, 255, 2]], dtype=np.uint8)
    assert read_objects(pair(tmp_path, objects=False), mask, IGNORE_INDEX).tolist() == [[1, 1, 0, 2, 3, 0, 4]]


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (Image.fromarray(colours()), "has the mode RGB, wanted an index PNG"),
        (Image.fromarray(indices(0, 1, height=20)), "is 40 x 20 pixels, its image 40 x 24"),
        (Image.fromarray(np.full((24, 40), -1, dtype=np.int32)), "object numbers from -1 to -1"),
        (Image.fromarray(np.full((24, 40), 2**20, dtype=np.int32)), "at most 65535"),
    ],
    ids=["colours", "size", "negative", "large"],
)
def test_what_is_no_object_map_is_refused(tmp_path: Path, image: Image.Image, text: str) -> None:
    image.save(tmp_path / "objects.tiff")
    one = pair(tmp_path)._replace(objects=tmp_path / "objects.tiff")
    for read in (lambda: read_objects(one, MASK, IGNORE_INDEX), lambda: check_object_maps([one], FORM)):
        with pytest.raises(UserError, match=text) as caught:
            read()
        assert "objects.tiff" in str(caught.value)


def test_a_damaged_or_turned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "objects.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"objects\.png"):
        check_object_maps([pair(tmp_path)], FORM)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(indices(0, 1)).save(tmp_path / "objects.png", exif=exif)
    with pytest.raises(UserError, match="EXIF orientation 6"):
        check_object_maps([pair(tmp_path)], FORM)


def test_pairs_have_object_maps_where_there_is_a_folder_and_they_are_wanted(voc_folder: Path) -> None:
    assert list_pairs(voc_folder, "val", objects=True)[0].objects is None
    (voc_folder / "SegmentationObject").mkdir()
    for path in (voc_folder / "SegmentationClass").iterdir():
        shutil.copy(path, voc_folder / "SegmentationObject")
    assert list_pairs(voc_folder, "val")[0].objects is None
    wanted = [voc_folder / "SegmentationObject" / f"val_{number}.png" for number in range(4)]
    assert [each.objects for each in list_pairs(voc_folder, "val", objects=True)] == wanted
    wanted[2].unlink()
    with pytest.raises(UserError, match=r"1 of them have no object map; the first one missing is .*val_2\.png"):
        list_pairs(voc_folder, "val", objects=True)
    assert len(list_pairs(voc_folder, "val")) == 4


@pytest.mark.parametrize("numbers", [indices(0), indices(0, 255, 255, 255)], ids=["nothing", "all of it an outline"])
def test_a_map_without_objects_is_refused_where_the_mask_has_some(tmp_path: Path, numbers: Pixels) -> None:
    save_mask(tmp_path / "objects.png", numbers)
    with pytest.raises(UserError, match=r"objects\.png numbers no object, but mask\.png has classes other than 0"):
        check_object_maps([pair(tmp_path)], FORM)
    empty = np.zeros_like(MASK)
    assert not read_objects(pair(tmp_path), empty, IGNORE_INDEX).any()
