"""The objects of an image: from its file in SegmentationObject, else the connected regions of its mask."""

from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segunet.base.ahead import map_ahead
from segunet.base.environment import cores
from segunet.base.errors import UserError
from segunet.base.terminal import progress_bar
from segunet.data.masks import MaskFormat, check_size, index_values, read_mask
from segunet.data.voc import Pair
from segunet.images.objects import connected_objects
from segunet.images.reading import opened, read_size

_VOID = 255  # in 8 bits, as in VOC: the outline of an object
_MOST = 2**16 - 1  # the largest number of 16 bits
_WAITING = 64  # maps to read ahead


def read_objects(pair: Pair, mask: NDArray[np.uint8], ignore_index: int) -> NDArray[np.int32]:
    """Return the object of each pixel, int32 (H, W): a number above 0, or 0 for background and ignored pixels.

    Args:
        pair: the example.
        mask: its mask (H, W).
        ignore_index: value of the mask's ignored pixels.

    Raises:
        UserError: the file cannot be read, has another size than the mask, has no number per pixel, or numbers no
            object although the mask has some.
    """
    if pair.objects is None:
        return connected_objects(mask, ignore_index)
    objects = np.where(mask == ignore_index, 0, read_object_map(pair.objects, mask.shape))
    if not objects.any() and np.isin(mask, (0, ignore_index), invert=True).any():
        raise UserError(
            f"{pair.objects} numbers no object, but {pair.mask.name} has classes other than 0",
            "Number the objects of the image 1, 2, ...; in 8 bits, 255 is their outline.",
        )
    return objects


def check_object_maps(pairs: Sequence[Pair], form: MaskFormat) -> None:
    """Read the object map and mask of each of the ``pairs`` that has a map; raises as :func:`read_objects`."""
    with_maps = [pair for pair in pairs if pair.objects is not None]
    if with_maps:
        with progress_bar() as bar:
            reading = map_ahead(partial(check_object_map, form=form), with_maps, cores(), _WAITING)
            deque(bar.track(reading, total=len(with_maps), description="reading the object maps"), maxlen=0)


def check_object_map(pair: Pair, form: MaskFormat) -> None:
    """Read the object map and the mask of ``pair``; raises as :func:`read_objects` and ``read_mask``."""
    read_objects(pair, read_mask(pair.mask, read_size(pair.image, form.bands), form), form.ignore_index)


def read_object_map(path: Path, size: tuple[int, ...]) -> NDArray[np.int32]:
    """Return the object numbers int32 (H, W) in the file of an image of that ``size``; void pixels are 0.

    Raises:
        UserError: as :func:`read_objects`.
    """
    with opened(path, "object map") as (image, _):
        numbers = index_values(path, image)
    check_size(path, numbers, (size[0], size[1]))
    if numbers.min() < 0 or numbers.max() > _MOST:
        raise UserError(
            f"{path} holds object numbers from {numbers.min()} to {numbers.max()}",
            f"Number the objects of an image 1, 2, ..., at most {_MOST}; 0 is background.",
        )
    void = numbers == _VOID if image.mode in ("L", "P") else False
    return np.where(void, 0, numbers).astype(np.int32)
