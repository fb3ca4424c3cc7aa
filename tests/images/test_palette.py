"""VOC's names and colours against the published ones."""

import numpy as np
import pytest

from segunet.images.palette import IGNORE_INDEX, ClassColours, background_of, voc_palette

VOC_COLOURS = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "diningtable": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}
VOC_NAMES = tuple(VOC_COLOURS)


def test_the_names_and_colours_are_voc_s_in_its_order() -> None:
    assert [tuple(colour) for colour in voc_palette()[:21].tolist()] == list(VOC_COLOURS.values())


def test_the_ignored_border_is_cream_white() -> None:
    assert IGNORE_INDEX == 255
    assert voc_palette()[IGNORE_INDEX].tolist() == [224, 224, 192]


def test_every_index_has_a_colour_of_its_own() -> None:
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == 256


def test_each_call_gives_a_palette_of_its_own() -> None:
    voc_palette()[:] = 1
    assert voc_palette()[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("names", "given", "wanted"),
    [
        (["background", "cat"], None, 0),
        (["cat", "Background"], None, 1),
        (["_background_", "cat"], None, 0),  # labelme's
        (["sky", "road"], None, None),
        (["sky", "road"], "road", 1),
        (["background", "sky"], "sky", 1),
    ],
)
def test_the_background_is_the_class_of_that_name_or_the_given_one(
    names: list[str], given: str | None, wanted: int | None
) -> None:
    assert background_of(names, given) == wanted


def test_ignored_pixels_have_their_own_colour_unless_they_are_a_class() -> None:
    colours = ClassColours(["sky", "road"], voc_palette(), IGNORE_INDEX, None)
    grey = np.full(3, 9, dtype=np.uint8)
    outside, inside = colours.ignoring(11, grey), colours.ignoring(1, grey)
    assert outside.palette[11].tolist() == [9, 9, 9]
    assert outside.labels == {0: "sky", 1: "road", 11: "ignored"}
    assert inside.palette[1].tolist() == voc_palette()[1].tolist()
    assert inside.labels == {0: "sky", 1: "road (ignored)"}
    assert colours.palette[11].tolist() == voc_palette()[11].tolist()
