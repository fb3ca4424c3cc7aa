"""Images resized."""

import numpy as np
import pytest

from segunet.images.resizing import resize_long_side
from tests.pixels import colours


@pytest.mark.parametrize(
    ("size", "long_side", "wanted"),
    [
        ((50, 100), 40, (20, 40)),
        ((100, 50), 40, (40, 20)),
        ((30, 30), 40, (40, 40)),
        ((333, 500), 224, (149, 224)),
        ((1, 500), 10, (1, 10)),
    ],
)
def test_resizing_by_the_long_side_keeps_the_shape(
    size: tuple[int, int], long_side: int, wanted: tuple[int, int]
) -> None:
    got = resize_long_side(np.full((*size, 3), 77, dtype=np.uint8), long_side)
    assert got.shape == (*wanted, 3)
    assert got.dtype == np.uint8
    assert (got == 77).all()


def test_resizing_to_its_own_size_changes_nothing() -> None:
    image = colours(60, 90)
    assert (resize_long_side(image, 90) == image).all()
