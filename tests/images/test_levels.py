"""The levels of images that are not 8 bits."""

import numpy as np
import pytest

from segunet.base.errors import UserError
from segunet.images.levels import check_image_range, eight_bits, levels_of


def test_a_range_is_one_pair_or_one_for_each_band() -> None:
    assert check_image_range("data.image_range", None, None) is None
    assert check_image_range("data.image_range", [0, 4095], None) == (0, 4095)
    assert check_image_range("data.image_range", [[-1, 1], [0, 5.5]], 2) == ((-1, 1), (0, 5.5))
    assert levels_of((0, 4095), 3) == [(0, 4095)] * 3
    assert levels_of(((-1, 1), (0, 5.5)), 2) == [(-1, 1), (0, 5.5)]
    assert levels_of(None, 2) == [None, None]


@pytest.mark.parametrize(
    "given",
    [[], [1], [2, 1], [1, 1], [0, float("inf")], [float("nan"), 1], [[0, 1], [1, 0]], [[0, 1], 2], ["0", "1"], "01", 5,
     [True, 2], [[0, 1]] * 300, {0: 1}],
)  # fmt: skip
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(UserError, match=r"data\.image_range"):
        check_image_range("data.image_range", given, 2)


def test_several_pairs_are_for_as_many_bands() -> None:
    with pytest.raises(UserError, match=r"data\.image_range has 3 pairs, wanted one, or data\.bands=2"):
        check_image_range("data.image_range", [[0, 1]] * 3, 2)
    with pytest.raises(UserError, match=r"has 3 pairs, wanted one pair \[low, high\]: several are for data\.bands"):
        check_image_range("data.image_range", [[0, 1]] * 3, None)


def test_numbers_that_are_not_finite_are_at_the_ends() -> None:
    values = np.array([np.nan, np.inf, -np.inf, -1.7e308, 1.7e308, 5.0])
    assert eight_bits(values, (0, 10)).tolist() == [0, 255, 0, 0, 255, 127]


def test_integers_and_floats_of_the_same_values_become_the_same() -> None:
    values = np.arange(0, 65_536, 7)
    by_table = eight_bits(values.astype(np.uint16), (300, 50_000))
    assert (by_table == eight_bits(values.astype(np.float64), (300, 50_000))).all()
    assert (by_table == eight_bits(values.astype(np.int32), (300, 50_000))).all()
