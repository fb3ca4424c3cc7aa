"""Means and standard deviations against NumPy's."""

import numpy as np
from numpy.random import default_rng

from segunet.data.check.moments import Moments


def test_the_sums_over_images_give_the_moments_of_all_their_pixels() -> None:
    rng = default_rng(0)
    images = [rng.integers(low, low + 100, (*size, 4), dtype=np.uint8) for low, size in ((0, (5, 7)), (150, (30, 2)))]
    moments = sum(map(Moments.of, images), Moments.none(4))
    pixels = np.concatenate([image.reshape(-1, 4) for image in images])
    np.testing.assert_allclose(moments.mean, pixels.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(moments.std, pixels.std(axis=0), atol=1e-3)


def test_one_can_divide_by_the_deviation_of_a_constant_channel() -> None:
    assert Moments.of(np.full((3, 4, 1), 200, dtype=np.uint8)).std == [1.0]
