"""The border weight map, against equation 2 computed by scipy object by object."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from segunet.base.errors import UserError
from segunet.losses.weight_map import BorderWeights

Objects = NDArray[np.int32]


def by_scipy(objects: Objects, w0: float, sigma: float) -> NDArray[np.float64]:
    """Equation 2's second term with the distance to every object."""
    numbers = [number for number in np.unique(objects) if number != 0]
    distances = np.full((max(len(numbers), 2), *objects.shape), np.inf)
    for row, number in enumerate(numbers):
        distances[row] = distance_transform_edt(objects != number)
    first, second = np.sort(distances, axis=0)[:2]
    return np.asarray(w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2)))


def boxes(size: tuple[int, int], *corners: tuple[int, int, int, int]) -> Objects:
    objects = np.zeros(size, dtype=np.int32)
    for number, (top, left, bottom, right) in enumerate(corners, start=1):
        objects[top:bottom, left:right] = number
    return objects


def random_objects(seed: int, size: tuple[int, int] = (97, 131), count: int = 14) -> Objects:
    """Overlapping rectangles, some hidden, cut by others or by the image's border, with gaps in the numbers."""
    rng = np.random.default_rng(seed)
    objects = np.zeros(size, dtype=np.int32)
    for number in rng.permutation(np.arange(1, 10 * count, 10))[:count]:
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        objects[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = number
    return objects


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("w0", "sigma"), [(10.0, 5.0), (3.0, 1.5), (25.0, 12.0)])
def test_it_equals_the_equation(seed: int, w0: float, sigma: float) -> None:
    objects = random_objects(seed)
    assert BorderWeights(w0, sigma)(objects) == pytest.approx(by_scipy(objects, w0, sigma), abs=2e-5)


def test_it_equals_the_equation_at_the_size_of_a_real_image() -> None:
    objects = random_objects(7, (388, 512), 60)
    assert BorderWeights()(objects) == pytest.approx(by_scipy(objects, 10.0, 5.0), abs=2e-5)


def test_a_case_by_hand() -> None:
    # Two columns of objects with one pixel between them: that pixel is at distance 1 from both.
    objects = boxes((1, 7), (0, 0, 1, 3), (0, 4, 1, 7))
    weights = BorderWeights(10.0, 5.0)(objects)[0]
    assert weights[3] == pytest.approx(10 * np.exp(-((1 + 1) ** 2) / 50))
    assert weights[2] == weights[4] == pytest.approx(10 * np.exp(-((0 + 2) ** 2) / 50))
    assert weights[0] == weights[6] == pytest.approx(10 * np.exp(-((0 + 4) ** 2) / 50))


@pytest.mark.parametrize(
    "objects",
    [
        np.zeros((9, 11), dtype=np.int32),
        boxes((9, 11), (2, 2, 5, 5)),
        np.ones((9, 11), dtype=np.int32),
        boxes((5, 200), (0, 0, 5, 5), (0, 195, 5, 200)),
    ],
    ids=["none", "one", "one that fills the image", "two far apart"],
)
def test_without_a_second_object_nearby_there_is_no_weight(objects: Objects) -> None:
    weights = BorderWeights()(objects)
    assert weights.dtype == np.float32
    assert (weights == 0).all()


def test_one_object_in_two_pieces_has_no_border_with_itself() -> None:
    objects = boxes((9, 21), (0, 0, 9, 10))
    objects[:, 11:] = 1
    assert (BorderWeights()(objects) == 0).all()


def test_a_large_number_costs_no_memory() -> None:
    objects = boxes((9, 21), (0, 0, 9, 10))
    objects[:, 11:] = 65535
    assert BorderWeights()(objects).max() > 9


def test_w0_of_zero_gives_zero() -> None:
    assert (BorderWeights(0.0)(random_objects(0)) == 0).all()


WRONG: dict[str, list[float | str]] = {"w0": [-1.0, 1e308, True, "10"], "sigma": [0.0, float("inf"), 1e200]}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_an_invalid_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"data\.border_weights\.{name}"):
        BorderWeights(**{name: value})
