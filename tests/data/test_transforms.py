"""Augmentation: a pure function of its key, with image and mask kept together."""

import math
import random
import tracemalloc
from typing import Any

import albumentations as A
import numpy as np
import pytest
from hydra.utils import instantiate
from numpy.typing import NDArray

from segunet.base.errors import UserError
from segunet.cli.overrides import composed
from segunet.data.transforms import TrainTransform, displaced, elastic_field, is_augmentation
from segunet.images.palette import IGNORE_INDEX, voc_palette

Pixels = NDArray[np.uint8]


def example(height: int = 60, width: int = 90, seed: int = 0) -> tuple[Pixels, Pixels]:
    """A mask of blocks of classes 0 to 20 and 255, and an image that shows it in its colours."""
    blocks = np.random.default_rng(seed).choice([*range(21), IGNORE_INDEX], (height // 10, width // 10))
    mask = np.kron(blocks, np.ones((10, 10))).astype(np.uint8)
    return voc_palette()[mask], mask


def transform(crop_size: int = 48, ignore_index: int = IGNORE_INDEX, **options: Any) -> TrainTransform:
    return TrainTransform(crop_size, ignore_index, **options)


def test_the_same_key_gives_the_same_pair_whatever_came_before() -> None:
    pair = example()
    first, second = transform(), transform()
    wanted = [first(*pair, (7, 1, index)) for index in range(6)]
    for index in (3, 0, 5, 3, 1):
        got = second(*pair, (7, 1, index))
        assert (got[0] == wanted[index][0]).all()
        assert (got[1] == wanted[index][1]).all()


def test_numpy_s_and_python_s_global_state_do_not_matter() -> None:
    results = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is tested
        results.append(transform()(*example(), (0, 0, 0)))
    assert (results[0][0] == results[1][0]).all()
    assert (results[0][1] == results[1][1]).all()


@pytest.mark.parametrize("changed", [(8, 1, 2), (7, 2, 2), (7, 1, 3), (1, 7, 2), (7, 2, 1)])
def test_another_seed_epoch_or_index_gives_another_image(changed: tuple[int, int, int]) -> None:
    first, second = (transform()(*example(), key)[0] for key in ((7, 1, 2), changed))
    assert (first != second).any()


def test_a_hundred_keys_give_a_hundred_images() -> None:
    drawn = {transform()(*example(), (0, epoch, index))[0].tobytes() for epoch in range(10) for index in range(10)}
    assert len(drawn) == 100


@pytest.mark.parametrize("size", [(10, 10), (40, 200), (200, 40), (48, 48), (30, 48), (150, 150)])
@pytest.mark.parametrize("base_size", [None, 20, 100])
def test_the_crop_has_its_size_whatever_the_image_s(size: tuple[int, int], base_size: int | None) -> None:
    draw = transform(base_size=base_size)
    for index in range(8):
        image, mask, _ = draw(*example(*size), (0, 0, index))
        assert image.shape == (48, 48, 3)
        assert mask.shape == (48, 48)
        assert image.dtype == mask.dtype == np.uint8


@pytest.mark.parametrize("ignore_index", [255, 7])
def test_the_padding_of_the_mask_is_ignored_and_that_of_the_image_black(ignore_index: int) -> None:
    image, mask = np.full((20, 30, 3), 200, dtype=np.uint8), np.ones((20, 30), dtype=np.uint8)
    draw = transform(64, ignore_index, scale=(1.0, 1.0), color_jitter=0.0)
    image, mask, _ = draw(image, mask, (0, 0, 0))
    inside = image[..., 0] == 200
    assert inside.sum() == 20 * 30
    assert (mask[inside] == 1).all()
    assert (mask[~inside] == ignore_index).all()
    assert not image[~inside].any()


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (47, 90), (48, 48), (200, 11), (150, 97)])
@pytest.mark.parametrize("base_size", [None, 30, 100])
def test_an_enlarged_image_fills_the_crop(size: tuple[int, int], base_size: int | None) -> None:
    padded, filled = (transform(base_size=base_size, fill_crop=fill) for fill in (False, True))
    image, mask = np.full((*size, 3), 200, dtype=np.uint8), np.ones(size, dtype=np.uint8)
    seen = {bool((padded(image, mask, (0, 0, index))[1] != 1).any()) for index in range(200)}
    assert padded.pads(size) == max(seen)
    assert not filled.pads(size)
    assert all((filled(image, mask, (0, 0, index))[1] == 1).all() for index in range(20))


def test_the_padding_goes_to_random_sides() -> None:
    draw = transform(64, scale=(1.0, 1.0))
    corners = set()
    for index in range(20):
        mask = draw(np.zeros((20, 30, 3), dtype=np.uint8), np.ones((20, 30), dtype=np.uint8), (0, 0, index))[1]
        corners.add(tuple(np.argwhere(mask == 1)[0]))
    assert len(corners) > 10


@pytest.mark.parametrize("base_size", [None, 31])
def test_the_mask_s_values_are_the_original_s_and_255(base_size: int | None) -> None:
    values = [3, 9, 18]
    image = np.zeros((50, 70, 3), dtype=np.uint8)
    mask = np.random.default_rng(0).choice(values, (50, 70)).astype(np.uint8)
    draw = transform(base_size=base_size, scale=(0.3, 3.0))
    for index in range(40):
        assert set(np.unique(draw(image, mask, (0, 0, index))[1])) <= {*values, IGNORE_INDEX}


def test_image_and_mask_keep_the_same_centre() -> None:
    """The image's brightness is its mask, so both have one centre of mass, to a hundredth of a pixel or two."""
    y, x = np.mgrid[:150, :200]
    # At a factor of 1/2 each new pixel's centre lies between two pixels, and either is nearest.
    for base_size, scale in [(None, 1.0), (None, 0.6), (None, 1.3), (None, 2.0), (90, 1.0), (90, 0.7), (90, 1.4)]:
        draw = transform(500, base_size=base_size, scale=(scale, scale), flip=0.0, color_jitter=0.0)
        offsets = []
        for index in range(40):
            rng = np.random.default_rng(index)
            disc = np.hypot(y - rng.uniform(60, 90), x - rng.uniform(80, 120)) < rng.uniform(30, 45)
            image = np.repeat(255 * disc[..., None], 3, axis=2).astype(np.uint8)
            image, mask, _ = draw(image, disc.astype(np.uint8), (0, 0, index))
            offsets.append(centre(mask == 1) - centre(image[..., 0]))
        offset = abs(np.mean(offsets, axis=0))
        assert (offset < 0.05).all(), f"base_size={base_size}, scale={scale}: {offset}"


def centre(weights: NDArray[Any]) -> NDArray[np.float64]:
    return np.array([np.average(axis, weights=weights) for axis in np.indices(weights.shape)])


def test_crops_of_a_scaled_part_keep_image_and_mask_together() -> None:
    for scale in (0.5, 2.0):
        draw = transform(scale=(scale, scale), color_jitter=0.0)
        for index in range(20):
            blocks = np.random.default_rng(index).integers(2, size=(10, 10))
            mask = np.kron(blocks, np.ones((24, 24))).astype(np.uint8)
            image, mask, _ = draw(np.repeat(255 * mask[..., None], 3, axis=2), mask, (0, 0, index))
            assert ((image[..., 0] > 127) == mask).mean() > 0.9


def test_every_place_is_cropped_equally_often() -> None:
    columns = np.tile(np.arange(20, dtype=np.uint8), (20, 1))
    draw = transform(16, scale=(1.0, 1.0), flip=0.0)
    starts = [int(draw(np.zeros((20, 20, 3), dtype=np.uint8), columns, (0, 0, n))[1][0, 0]) for n in range(500)]
    assert (abs(np.bincount(starts, minlength=5) - 100) < 40).all()


def test_an_example_costs_what_its_crop_costs() -> None:
    image, mask = np.zeros((2000, 3000, 3), dtype=np.uint8), np.zeros((2000, 3000), dtype=np.uint8)
    for base_size in (None, 4000):
        draw = transform(64, base_size=base_size)
        tracemalloc.start()
        for index in range(5):
            draw(image, mask, (0, 0, index))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1e6, f"{peak / 1e6:.1f} MB, the image has {image.nbytes / 1e6:.0f}"


@pytest.mark.parametrize(("flip", "wanted"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_flips_are_as_frequent_as_asked(flip: float, wanted: set[bool]) -> None:
    image, mask = example(40, 40)
    draw = transform(40, scale=(1.0, 1.0), flip=flip, color_jitter=0.0)
    flipped = set()
    for index in range(40):
        got, got_mask, _ = draw(image, mask, (0, 0, index))
        mirrored = bool((got == image[:, ::-1]).all())
        flipped.add(mirrored)
        assert (got == (image[:, ::-1] if mirrored else image)).all()
        assert (got_mask == (mask[:, ::-1] if mirrored else mask)).all()
    assert flipped == wanted


def test_a_scale_of_1_and_no_jitter_leave_an_image_of_the_crop_s_size_as_it_is() -> None:
    pair = example(60, 60)
    got = transform(60, scale=(1.0, 1.0), flip=0.0, color_jitter=0.0)(*pair, (0, 0, 0))
    assert (got[0] == pair[0]).all()
    assert (got[1] == pair[1]).all()


def test_the_scale_jitter_covers_its_range() -> None:
    """The side of a lone square of class 1, as it comes out, over many draws."""
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[10:30, 10:30] = 1
    draw = transform(96, scale=(0.5, 2.0))
    sides = [
        float(np.sqrt((draw(np.zeros((40, 40, 3), dtype=np.uint8), mask, (0, 0, index))[1] == 1).sum())) / 20
        for index in range(150)
    ]
    assert 0.45 <= min(sides) < 0.65
    assert 1.8 < max(sides) <= 2.05


@pytest.mark.parametrize("size", [(50, 100), (100, 50), (10, 20)])
def test_the_base_size_is_the_long_side_before_the_jitter(size: tuple[int, int]) -> None:
    image, mask = np.zeros((*size, 3), dtype=np.uint8), np.ones(size, dtype=np.uint8)
    got = transform(100, base_size=40, scale=(1.0, 1.0))(image, mask, (0, 0, 0))[1]
    rows, columns = (np.flatnonzero((got == 1).any(axis=axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == ((20, 40) if size[0] < size[1] else (40, 20))


def test_colour_jitter_changes_colours_and_never_the_mask() -> None:
    image, mask = example(50, 50)
    image = (image // 2 + 60).astype(np.uint8)
    draw = transform(50, scale=(1.0, 1.0), flip=0.0, color_jitter=0.3)
    got = [draw(image, mask, (0, 0, index)) for index in range(10)]
    assert len({each[0].tobytes() for each in got} | {image.tobytes()}) == 11
    assert all((each[1] == mask).all() for each in got)


def test_the_pair_handed_in_is_left_as_it_is() -> None:
    pair = example()
    transform()(*pair, (0, 0, 0))
    assert (pair[0] == example()[0]).all()
    assert (pair[1] == example()[1]).all()


def test_values_out_of_range_are_refused_by_name() -> None:
    for name, values in {
        "crop_size": (0, -1, 1.5, "abc", None, True),
        "base_size": (0, "abc"),
        "scale": ((0.0, 1.0), (2.0, 1.0), (1.0,), (0.5, 1.0, 2.0), (1.0, math.inf), (True, 2.0), 2, None),
        "flip": (1.5, -0.1, math.nan, "abc"),
        "color_jitter": (2.0, -0.5),
    }.items():
        for value in values:
            wrong: dict[str, Any] = {name: value}
            with pytest.raises(UserError, match=rf"^data\.transform\.{name}.* got "):
                transform(**wrong)
    with pytest.raises(UserError, match=r"^data\.ignore_index must be less than or equal to 255, got 256\.$"):
        transform(ignore_index=256)


@pytest.mark.parametrize("scale", [(0.01, 0.01), (0.001, 1.0)])
def test_a_scale_that_leaves_next_to_nothing_still_gives_a_crop(scale: tuple[float, float]) -> None:
    draw = transform(scale=scale)
    for index in range(20):
        assert draw(*example(), (0, 0, index))[0].shape == (48, 48, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_images_of_one_pixel_s_width_are_cropped_too(size: tuple[int, int]) -> None:
    image, mask = np.zeros((*size, 3), dtype=np.uint8), np.ones(size, dtype=np.uint8)
    for base_size in (None, 100):
        for index in range(10):
            assert transform(base_size=base_size)(image, mask, (0, 0, index))[1].shape == (48, 48)


def objects_of(mask: Pixels) -> NDArray[np.int32]:
    """As many objects as the mask has values, with large numbers."""
    return np.where(mask == IGNORE_INDEX, 0, 1000 * mask.astype(np.int32))


@pytest.mark.parametrize("elastic", [0.0, 6.0])
@pytest.mark.parametrize("size", [(60, 90), (30, 40)], ids=["cropped", "padded"])
def test_objects_move_with_their_mask(elastic: float, size: tuple[int, int]) -> None:
    draw, (image, mask) = transform(elastic=elastic), example(*size)
    for index in range(10):
        with_objects = draw(image, mask, (0, 0, index), objects_of(mask))
        without = draw(image, mask, (0, 0, index))
        assert without.objects is None
        assert (with_objects.image == without.image).all()
        assert (with_objects.mask == without.mask).all()
        assert with_objects.objects is not None
        assert (with_objects.objects == objects_of(with_objects.mask)).all()


def test_elastic_deformation_keeps_mask_and_image_together() -> None:
    draw, (image, mask) = transform(60, scale=(1.0, 1.0), color_jitter=0.0, elastic=5.0), example(60, 60)
    moved = 0.0
    for index in range(10):
        got, got_mask, _ = draw(image, mask, (0, 0, index))
        same = (got == voc_palette()[got_mask]).all(axis=2)
        assert same.mean() > 0.8  # all but the edges of the blocks, where colours are mixed
        moved += float((got_mask != mask).mean())
    assert moved > 1


@pytest.mark.parametrize("size", [48, 388])
def test_an_elastic_field_is_smooth_and_as_strong_as_asked(size: int) -> None:
    rng = np.random.default_rng(0)
    fields = np.stack([elastic_field(size, 10.0, rng) for _ in range(300)])  # (300, S, S, 2)
    nodes = fields[:, size // 6 :: size // 3, size // 6 :: size // 3][:, :3, :3]  # about the grid's nine nodes
    assert nodes.std() == pytest.approx(10, rel=0.05)
    assert abs(nodes.mean()) < 0.5
    assert abs(np.diff(fields, axis=1)).max() < 250 / size  # pixels per pixel: no jumps


def test_a_field_of_equal_displacements_shifts_the_example() -> None:
    draw, (image, mask) = transform(60, scale=(1.0, 1.0), flip=0.0, color_jitter=0.0), example(60, 60)
    plain = draw(image, mask, (0, 0, 0), objects_of(mask))
    field = np.full((60, 60, 2), [3, -2], dtype=np.float32)
    for values, shifted in zip(plain, displaced(plain, field), strict=True):
        assert values is not None
        assert shifted is not None
        assert (shifted[:-3, 2:] == values[3:, :-2]).all()
        assert (shifted[-3:, 2:] == values[-2:-5:-1, :-2]).all()  # mirrored below


@pytest.mark.parametrize(
    ("option", "moves"),
    [
        ({"vertical_flip": 1.0}, [lambda a: a[::-1]]),
        ({"quarter_turns": True}, [lambda a, n=n: np.rot90(a, n) for n in range(4)]),
        ({"flip": 1.0, "vertical_flip": 1.0}, [lambda a: a[::-1, ::-1]]),
    ],
    ids=["vertical", "turns", "both"],
)
def test_flips_and_turns_move_image_mask_and_objects_alike(option: dict[str, Any], moves: list[Any]) -> None:
    options: dict[str, Any] = {"scale": (1.0, 1.0), "flip": 0.0, "color_jitter": 0.0} | option
    draw, (image, mask) = transform(60, **options), example(60, 60)
    found = set()
    for index in range(20):
        got = draw(image, mask, (0, 0, index), objects_of(mask))
        (number,) = [n for n, move in enumerate(moves) if (move(mask) == got.mask).all()]
        assert (moves[number](image) == got.image).all()
        assert got.objects is not None
        assert (moves[number](objects_of(mask)) == got.objects).all()
        found.add(number)
    assert found == set(range(len(moves)))


def test_a_rotation_ignores_the_corners_and_keeps_image_and_mask_together() -> None:
    options: dict[str, Any] = {"scale": (1.0, 1.0), "flip": 0.0, "color_jitter": 0.0, "rotation": 30.0}
    draw, (image, mask) = transform(60, **options), example(60, 60)
    mask[mask == IGNORE_INDEX] = 1
    image = voc_palette()[mask]
    got = [draw(image, mask, (0, 0, index), objects_of(mask)) for index in range(20)]
    corners = [int(each.mask[0, 0]) == IGNORE_INDEX for each in got]
    assert sum(corners) > 10
    for each in got:
        known = each.mask != IGNORE_INDEX
        assert (each.image == voc_palette()[each.mask]).all(axis=2)[known].mean() > 0.5  # all but mixed edges
        assert set(np.unique(each.mask)) <= {*np.unique(mask), IGNORE_INDEX}
        assert each.objects is not None
        assert (each.objects == objects_of(each.mask)).all()


def test_more_transforms_come_last_by_the_key_alone() -> None:
    def noisy() -> TrainTransform:
        return transform(more=[A.GaussNoise(p=1.0), A.GridDropout(p=1.0, fill_mask=IGNORE_INDEX)])

    pair, draw = example(), noisy()
    first = [draw(*pair, (7, 1, index)) for index in range(4)]
    for index in (3, 0, 3):
        again = noisy()(*pair, (7, 1, index))
        assert (again.image == first[index].image).all()
        assert (again.mask == first[index].mask).all()
    plain = transform()(*pair, (7, 1, 0))
    assert (first[0].image != plain.image).any()
    assert (first[0].mask != plain.mask).any()


@pytest.mark.parametrize("ignore_index", [255, 0, 2])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (A.Rotate(60, p=0.1, fill_mask=7), "Rotate gives a mask of"),
        (A.Affine(rotate=40, mask_interpolation=1, p=0.1, border_mode=2), "Affine gives a mask of .* to 0"),
        (A.RandomCrop(16, 16), r"RandomCrop turns uint8 \(48, 48, 3\) into uint8 \(16, 16, 3\)"),
        (A.Normalize(), "Normalize turns uint8 .* into float32"),
        (A.RandomCrop(99, 99), "RandomCrop cannot be applied to a crop"),
    ],
    ids=["filled", "interpolated", "smaller", "float", "fails"],
)
def test_a_transform_that_breaks_the_rules_of_masks_is_refused(wrong: Any, said: str, ignore_index: int) -> None:
    chance = wrong.p
    with pytest.raises(UserError, match=rf"data\.transform\.more: {said}"):
        transform(ignore_index=ignore_index, more=[wrong])
    assert wrong.p == chance


@pytest.mark.parametrize("preset", ["basic", "light", "aerial", "cells", "strong"])
def test_every_preset_draws_valid_examples(preset: str) -> None:
    cfg = composed("train", ["data=custom", "data.root=.", "data.class_names=[a,b]", f"data/transform={preset}"])
    draw = instantiate(cfg.data, _convert_="all").transform
    image, mask = example(200, 300)
    for index in range(4):
        got = draw(image, mask, (0, 0, index))
        assert got.image.shape == (512, 512, 3)
        assert set(np.unique(got.mask)) <= {*np.unique(mask), IGNORE_INDEX}


def test_each_transform_has_random_numbers_of_its_own() -> None:
    options: dict[str, Any] = {"scale": (1.0, 1.0), "color_jitter": 0.0, "vertical_flip": 0.5, "quarter_turns": True}
    draw, (image, mask) = transform(60, **options), example(60, 60)
    symmetries = [turned for n in range(4) for turned in (np.rot90(mask, n), np.rot90(mask[:, ::-1], n))]
    drawn = [draw(image, mask, (0, 0, index)).mask for index in range(60)]
    found = [next(n for n, each in enumerate(symmetries) if (each == got).all()) for got in drawn]
    assert set(found) == set(range(8))
    black, dark = (
        A.CoarseDropout(p=0.5, fill=0, fill_mask=None),
        A.RandomBrightnessContrast((-0.6, -0.6), (0, 0), p=0.5),
    )
    draw = transform(60, scale=(1.0, 1.0), flip=0.0, color_jitter=0.0, more=[black, dark])
    white = np.full((60, 60, 3), 200, dtype=np.uint8)
    kinds = {((got := draw(white, mask, (0, 0, n)).image).min() == 0, got.max() < 100) for n in range(40)}
    assert len(kinds) == 4


def test_misspelt_settings_of_a_transform_are_refused() -> None:
    with pytest.warns(UserWarning, match="sigma"):
        wrong = A.GaussNoise(sigma=3)
    with pytest.raises(UserError, match=r"data\.transform\.more: GaussNoise has no setting sigma"):
        transform(more=[wrong])


def test_only_albumentations_transforms_are_named() -> None:
    assert is_augmentation("albumentations.GaussNoise")
    for name in ("albumentations.Compose", "albumentations.core.composition.Compose", "os.system", "GaussNoise", ""):
        assert not is_augmentation(name)


@pytest.mark.parametrize("bands", [1, 2, 5, 13])
def test_bands_are_moved_alike_and_only_brightened(bands: int) -> None:
    """With the same values in every band, every band stays the same; without jitter, each is as a colour is."""
    image, mask = example()
    options: dict[str, Any] = {"elastic": 5.0, "rotation": 20.0, "quarter_turns": True, "vertical_flip": 0.5}
    grey = np.repeat(image[..., :1], bands, axis=2)
    for index in range(8):
        made = transform(bands=bands, **options)(grey, mask, (0, 0, index))
        assert made.image.shape == (48, 48, bands)
        assert (made.image == made.image[..., :1]).all()
        still = transform(bands=bands, color_jitter=0.0, **options)(grey, mask, (0, 0, index))
        colours = transform(color_jitter=0.0, **options)(image, mask, (0, 0, index))
        assert (still.mask == colours.mask).all()
        difference = abs(still.image[..., 0].astype(int) - colours.image[..., 0])
        if bands == 2:  # which OpenCV interpolates with fewer digits
            assert difference.max() < 8
            assert difference.mean() < 0.25
        else:
            assert not difference.any()


def test_transforms_that_mean_nothing_for_bands_are_refused() -> None:
    for each in (A.ToGray(), A.HueSaturationValue()):
        with pytest.raises(UserError, match=f"{type(each).__name__} cannot be applied to a crop"):
            transform(bands=4, more=[each])
    transform(bands=4, more=[A.GaussianBlur()])
