"""Masks, predictions and confusion matrices as images."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from segunet.images.drawing import (
    at_size_of,
    colour_mask,
    confusion_image,
    differences,
    drawable,
    drawable_text,
    frame_legend,
    labelled_grid,
    legend,
    legend_of_shares,
    overlay,
    overlay_with_legend,
    palette_image,
    rgb_of,
    stack,
    strip,
)
from segunet.images.palette import IGNORE_INDEX, ClassColours, background_of, voc_palette
from tests.images.test_palette import VOC_NAMES

PALETTE = voc_palette()
VOC = ClassColours(VOC_NAMES, PALETTE, IGNORE_INDEX, 0)


def colours_of(names: Sequence[str]) -> ClassColours:
    return ClassColours(names, PALETTE, IGNORE_INDEX, background_of(names))


def counts_of(*counts: int) -> NDArray[np.int64]:
    return np.array([*counts, *[0] * (256 - len(counts))])


def example(height: int = 6, width: int = 9) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.choice([0, 1, 15, 20, IGNORE_INDEX], (height, width))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_a_mask_s_pixels_take_their_classes_colours(dtype: type[np.integer]) -> None:
    mask = example()[1].astype(dtype)
    coloured = colour_mask(mask, PALETTE)
    assert coloured.dtype == np.uint8
    assert all((coloured[place] == PALETTE[index]).all() for place, index in np.ndenumerate(mask))


@pytest.mark.parametrize("opacity", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize(("ignore_index", "background"), [(255, 0), (255, 15), (255, None), (15, 0), (0, 0)])
def test_an_overlay_blends_every_class_but_the_background(
    opacity: float, ignore_index: int, background: int | None
) -> None:
    image, mask = example()
    before = image.copy()
    got = overlay(image, mask, ClassColours(VOC_NAMES, PALETTE, ignore_index, background), opacity)
    assert got.dtype == np.uint8
    for (y, x), index in np.ndenumerate(mask):
        colour = PALETTE[index] if index else np.full(3, 255)  # black would look like a shadow
        blended = (1 - opacity) * image[y, x] + opacity * colour
        bare = index == background and index != ignore_index  # ignored pixels are always painted
        assert got[y, x] == pytest.approx(image[y, x] if bare else blended, abs=0.51)
    assert (image == before).all()


def test_a_strip_is_image_truth_and_prediction_side_by_side() -> None:
    image, truth = example()
    prediction = np.full_like(truth, 3)
    whole = strip(image, truth, prediction, VOC)
    assert whole.dtype == np.uint8
    got = whole[:6, : 3 * 9 + 2 * 4]
    assert (got[:, :9] == image).all()
    assert (got[:, 13:22] == overlay(image, truth, VOC)).all()
    assert (got[:, 26:] == overlay(image, prediction, VOC)).all()
    assert (got[:, 9:13] == 255).all()
    assert (got[:, 22:26] == 255).all()
    found = {index: VOC_NAMES[index] for index in (0, 1, 3, 15, 20)} | {IGNORE_INDEX: "ignored"}
    below = legend(found, VOC, 3 * 9 + 2 * 4, text_size=11)
    assert (whole[10 : 10 + len(below)] == below).all()


def test_of_a_raster_the_bands_that_are_named_are_drawn() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 5), dtype=np.uint8)
    for channels, drawn in ((None, (0, 1, 2)), ((3, 2, 1), (3, 2, 1)), ((4, 4, 4), (4, 4, 4))):
        assert (rgb_of(image, replace(VOC, channels=channels)) == image[..., drawn]).all()
    reversed_colours = replace(VOC, channels=(2, 1, 0))  # of an image with no further bands
    assert (rgb_of(image[..., :3], reversed_colours) == image[..., 2::-1]).all()
    assert rgb_of(image[..., :2], VOC).tolist() == image[..., [0, 0, 0]].tolist()
    mask = np.zeros((9, 7), dtype=np.uint8)
    row = strip(image[..., :3], mask, mask, reversed_colours)
    assert (row[:9, :7] == image[..., 2::-1]).all()  # turned round once, not twice


def test_an_image_is_brought_to_its_mask_s_size() -> None:
    image, mask = np.full((20, 30, 3), 90, dtype=np.uint8), np.zeros((40, 50), dtype=np.int64)
    assert at_size_of(mask, image, VOC).shape == (40, 50, 3)
    assert at_size_of(mask[:20, :30], image, VOC) is image


def test_a_strip_of_a_resized_image_has_the_truth_s_size() -> None:
    truth = np.zeros((40, 60), dtype=np.int64)
    image = np.full((20, 30, 3), 90, dtype=np.uint8)
    got = strip(image, truth, truth, VOC)
    assert got.shape == (40 + 4 + 22 + 4, 3 * 60 + 8, 3)
    assert (got[:40, :60] == 90).all()


def test_differences_are_red_the_rest_grey_and_what_is_ignored_in_its_colour() -> None:
    image, truth = example(height=12, width=15)
    prediction = np.random.default_rng(1).choice([0, 1, 15, 20], truth.shape)
    before = image.copy()
    got = differences(image, truth, prediction, VOC).astype(int)
    red, green, blue = np.moveaxis(got, -1, 0)
    ignored, wrong = truth == IGNORE_INDEX, (truth != prediction) & (truth != IGNORE_INDEX)
    assert min(ignored.sum(), wrong.sum(), (~ignored & ~wrong).sum()) > 10
    assert (red - green)[wrong].min() > 100
    assert (green == blue)[~ignored].all()
    assert (red == green)[~wrong].all()
    assert (got[ignored] == PALETTE[IGNORE_INDEX]).all()
    assert len(np.unique(red[~ignored & ~wrong])) > 10  # the image can be seen
    assert (image == before).all()


def test_a_stack_puts_images_of_any_size_below_each_other() -> None:
    first, second = np.full((3, 5, 3), 10, dtype=np.uint8), np.full((2, 8, 3), 20, dtype=np.uint8)
    got = stack([first, second])
    assert (got[:3, :5] == first).all()
    places = [top for top in range(len(got) - 1) if (got[top : top + 2, :8] == second).all()]
    assert len(places) == 1
    assert places[0] >= 3
    assert (got == 255).all(axis=2).sum() == got.shape[0] * got.shape[1] - 3 * 5 - 2 * 8
    assert got.shape[1] == 8


def test_a_stack_of_one_holds_it() -> None:
    image = np.full((3, 5, 3), 10, dtype=np.uint8)
    assert (stack([image])[:3] == image).all()


def test_an_index_image_survives_a_png_with_its_palette() -> None:
    mask = np.arange(256).reshape(16, 16)
    file = io.BytesIO()
    palette_image(mask, PALETTE).save(file, format="PNG")
    with Image.open(file) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == mask).all()
        assert image.getpalette() == PALETTE.ravel().tolist()


@pytest.mark.parametrize("num_classes", [1, 2, 7, 21])
def test_a_confusion_image_has_room_for_every_class(num_classes: int) -> None:
    names = VOC_NAMES[:num_classes]
    image = confusion_image(np.eye(num_classes, dtype=np.int64) * 5, names)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert min(image.shape[:2]) > 34 * num_classes
    assert (image != 255).any()


def test_a_confusion_image_shows_rows_as_truth() -> None:
    names = ["a", "b", "c"]
    empty = confusion_image(np.zeros((3, 3), dtype=np.int64), names).astype(int)
    for row in range(3):
        matrix = np.zeros((3, 3), dtype=np.int64)
        matrix[row, 1] = 7
        changed = np.argwhere((confusion_image(matrix, names) != empty).any(axis=2))
        # The row's three cells change, its own column to blue, and no other row does.
        assert np.ptp(changed[:, 0]) < 34
        assert 2 * 34 < np.ptp(changed[:, 1]) < 3 * 34
        top, left = changed.min(axis=0)
        image = confusion_image(matrix, names).astype(int)
        cells = [image[top + 2, left + 34 * column + 2] for column in range(3)]
        assert cells[1][2] - cells[1][0] > 80
        assert all(cells[column].min() > 240 for column in (0, 2))


def test_a_confusion_image_s_labels_are_beside_the_matrix_and_its_caption_is_whole() -> None:
    font, name = ImageFont.load_default(size=13), "a" * 20
    image = confusion_image(np.eye(2, dtype=np.int64), [name, "bb"])
    left = int(font.getlength(name)) + 20
    assert (image[left - 30 : left, left + 34 : left + 68] < 128).any()  # above the second column
    assert (image[left + 34 : left + 68, left - 30 : left] < 128).any()  # beside the second row
    small = confusion_image(np.eye(2, dtype=np.int64), ["a", "b"])
    assert (small[:, :8] > 128).all()


def test_a_confusion_image_shows_shares_of_the_row_not_counts() -> None:
    few, many = (confusion_image(np.array([[3, 1], [0, 2]]) * factor, ["a", "b"]) for factor in (1, 10**9))
    assert (few == many).all()


def test_long_class_names_fit() -> None:
    short, long = (confusion_image(np.eye(2, dtype=np.int64), [name, "b"]) for name in ("a", "a" * 40))
    assert long.shape[0] > short.shape[0] + 100  # the width is that of the caption, at least


@pytest.mark.parametrize("longest", ["pottedplant", "swimming pool, natatorium, and what belongs to it"])
def test_a_legend_is_as_wide_as_its_image_or_its_longest_entry(longest: str) -> None:
    names = ["background", longest]
    for height, width in ((64, 64), (6000, 120), (300, 2000), (40, 1)):
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[: height // 2] = 1
        drawn = overlay_with_legend(np.zeros((height, width, 3), dtype=np.uint8), mask, colours_of(names))
        below = drawn[height + 4 :]
        assert drawn.shape[1] >= width
        assert drawn.shape[1] == width or (below[:, -30:] == 0).any()
        assert (below[:, -4:] == 255).all()  # no text is cut off at the right
        assert (below == 0).any()  # but there is some


def test_a_frame_s_legend_has_the_same_size_whatever_is_in_it() -> None:
    names = [f"class number {index}" for index in range(30)]
    colours = colours_of(names)
    for width in (30, 400, 3000):
        drawn = [frame_legend(found, colours, width) for found in ([7], range(30))]
        assert drawn[0].shape == drawn[1].shape
        assert drawn[0].shape[0] == 56
        assert drawn[0].shape[1] >= width
        alone = legend({7: names[7]}, colours, drawn[0].shape[1])
        np.testing.assert_array_equal(drawn[0][:28], alone)
        assert (drawn[0][28:] == 255).all()
        every = legend(dict(enumerate(names)), colours, drawn[0].shape[1])
        np.testing.assert_array_equal(drawn[1][: len(every)], every[:56])


def test_names_that_the_font_cannot_write_are_told_apart() -> None:
    assert drawable(["background", "道路", "建物", "forêt", "l'eau (2)"])[1:] == [
        "class 1",
        "class 2",
        "class 3",
        "l'eau (2)",
    ]
    colours = colours_of(["background", "道路", "建物"])
    drawn = legend_of_shares(counts_of(0, 5, 5), colours, 400)
    np.testing.assert_array_equal(drawn, legend({1: "class 1 50 %", 2: "class 2 50 %"}, colours, 400))
    assert drawable_text("道路, l'eau") == "??, l'eau"
    confusion = np.eye(2, dtype=np.int64)
    assert (confusion_image(confusion, ["道路", "路道"]) != confusion_image(confusion, ["道路", "b"])).any()


def test_a_legend_names_the_classes_that_have_a_share_the_largest_first() -> None:
    colours = colours_of(["nothing", "few", "none", "most"])
    drawn = legend_of_shares(counts_of(0, 2, 0, 8), colours, 400)
    np.testing.assert_array_equal(drawn, legend({3: "most 80 %", 1: "few 20 %"}, colours, 400))


@pytest.mark.parametrize(
    ("names", "ignore_index", "labels"),
    [
        (["sky", "road"], 255, {0: "sky 40 %", 255: "ignored 40 %", 1: "road 20 %"}),  # all classes are painted
        (["sky", "road"], 11, {0: "sky 67 %", 1: "road 33 %"}),  # values that mean nothing are left out
        (["void", "road"], 0, {0: "void (ignored) 67 %", 1: "road 33 %"}),
    ],
)
def test_a_legend_has_an_entry_for_ignored_pixels(names: list[str], ignore_index: int, labels: dict[int, str]) -> None:
    colours = ClassColours(names, PALETTE, ignore_index, background_of(names))
    counts = counts_of(4, 2)
    counts[255] = 4
    drawn = legend_of_shares(counts, colours, 400)
    np.testing.assert_array_equal(drawn, legend(labels, colours, 400))
    for index in labels:
        colour = PALETTE[index] if index else np.full(3, 255)
        assert (drawn == colour).all(axis=2).sum() > 100


def test_the_background_has_an_empty_box() -> None:
    drawn = legend({0: "", 1: ""}, VOC, 100)
    assert (drawn == PALETTE[1]).all(axis=2).any()
    assert (drawn == 255).all(axis=2).sum() > drawn[..., 0].size - 14 * 14 - 200  # frames and one box


def test_a_grid_shows_every_image_enlarged() -> None:
    images = [np.full((32, 32, 3), 40 * number, dtype=np.uint8) for number in range(5)]
    for labels, columns in ((["a title"], None), ([str(number) for number in range(5)], 5)):
        grid = labelled_grid(images, labels, columns)
        for image in images:
            assert (grid == image[0, 0]).all(axis=-1).sum() >= 64 * 64, labels
    assert labelled_grid(images, list("abcde"), columns=5).shape[1] == 5 * 68 + 4
    assert labelled_grid(images[:1], ["a title that is much longer than the image is wide"]).shape[1] > 200
