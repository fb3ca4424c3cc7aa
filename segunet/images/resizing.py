"""Resize images and masks, both sampled at pixel centres."""

from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from segunet.base.validation import Pixels, check

Integer = TypeVar("Integer", bound=np.integer[Any])


def check_inference_size(inference_size: object) -> None:
    """Raise a UserError unless ``inference_size`` is None or a number of pixels above 0."""
    check("inference_size", inference_size, Pixels | None)


def resize_long_side(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """Resize an image uint8 (H, W, C) so that its longer side has ``long_side`` pixels."""
    return resize(image, size_with_long_side(image, long_side))


def size_with_long_side(image: NDArray[np.uint8], long_side: int) -> tuple[int, int]:
    """Return (width, height) with the aspect ratio of ``image`` (H, W, C) and ``long_side`` as the longer side."""
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    return max(round(width * factor), 1), max(round(height * factor), 1)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image uint8 (H, W, C) to ``size`` (width, height): by area averaging to shrink, else bilinearly."""
    interpolation = cv2.INTER_AREA if shrinks(image, size) else cv2.INTER_LINEAR
    return in_fours(image, lambda part: cv2.resize(part, size, interpolation=interpolation))


def in_fours(image: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], Any]) -> NDArray[np.uint8]:
    """Apply one of OpenCV's functions to an image (H, W, C); many take four channels at most, and drop a single one."""
    count = image.shape[2]
    if 1 < count <= 4:
        return np.asarray(change(image))
    parts = (np.ascontiguousarray(image[..., first : first + 4]) for first in range(0, count, 4))
    return np.dstack([change(part) for part in parts])


def shrinks(image: NDArray[np.uint8], size: tuple[int, int]) -> bool:
    """Return whether an image (H, W, C) has more pixels than ``size`` (width, height)."""
    return bool(size[0] * size[1] < image.shape[0] * image.shape[1])


def resize_mask(mask: NDArray[Integer], size: tuple[int, int]) -> NDArray[Integer]:
    """Resize a mask or object map (H, W) to ``size`` (width, height): the value nearest to each new pixel's centre.

    OpenCV's INTER_NEAREST samples at pixel corners, half a pixel off the image.
    """
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT))
