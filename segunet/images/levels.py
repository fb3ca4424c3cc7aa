"""Which values of an image become 0 and 255, where they are not 8 bits."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from segunet.base.errors import UserError
from segunet.base.validation import check

FEW_LEVELS = 32  # a 16-bit image with fewer levels left in 8 bits is reported
MOST_BANDS = 256
Bands = Annotated[int, Field(ge=1, le=MOST_BANDS)]
Levels = tuple[float, float]
Channels = tuple[int, int, int]  # drawn as red, green and blue
_COLOURS = 3
_ALL = (0.0, 65535.0)


def _check_shown(given: Any) -> Any:
    whole = isinstance(given, list | tuple) and all(type(band) is int and band > 0 for band in given)
    if not whole or len(given) not in (1, 3):
        raise ValueError("must be three bands for red, green and blue, such as [4,3,2], or one for grey, from 1")
    return given


ShownBands = Annotated[Sequence[Bands], BeforeValidator(_check_shown)]  # counted from 1, as programs for maps do


def channels_of(bands: int | None) -> int:
    """Return the number of channels of rasters of so many ``bands``, or, of None, of colour images."""
    return _COLOURS if bands is None else bands


def first_channels(bands: int) -> Channels:
    """Return the channels that are shown as red, green and blue unless others are named; of two bands the first."""
    return (0, 1, 2) if bands > 2 else (0, 0, 0)


def shown_channels(shown: Sequence[int] | None, bands: int | None) -> Channels | None:
    """Return the channels, from 0, that are red, green and blue where these bands are ``shown``; None for the first.

    Raises:
        UserError: a band that rasters do not have; any of colour images.
    """
    if shown is None:
        return None
    if bands is None:
        raise UserError("data.shown_bands is for rasters (data.bands). Leave it out: the images are no rasters.")
    if max(shown) > bands:
        raise UserError(f"data.shown_bands={list(shown)}: data.bands is {bands}. Give bands from 1 to {bands}.")
    red, green, blue = shown if len(shown) == 3 else [shown[0]] * 3
    return red - 1, green - 1, blue - 1


def _check_range(given: Sequence[Any]) -> tuple[Any, ...]:
    """Return (low, high), or one for each band."""
    pairs = given if given and all(isinstance(each, list | tuple) for each in given) else [given]
    if len(pairs) > MOST_BANDS or not all(_is_increasing(pair) for pair in pairs):
        raise ValueError(
            "must be null or [low, high], the values that become black and white, such as [0,4095] for 12 bits; or one "
            "such pair for each band"
        )
    levels = tuple((float(low), float(high)) for low, high in pairs)
    return levels if pairs is given else levels[0]


def _is_increasing(pair: Sequence[Any]) -> bool:
    if len(pair) != 2 or any(isinstance(each, bool) or not isinstance(each, int | float) for each in pair):
        return False
    return math.isfinite(pair[0]) and math.isfinite(pair[1]) and pair[0] < pair[1]


# The values that become 0 and 255, (low, high) or one for each band; None is 0 and 65535 of 16-bit images.
Range = Annotated[Sequence[Any], AfterValidator(_check_range)] | None


def check_image_range(name: str, value: object, bands: int | None) -> Range:
    """Return the setting ``name``: None, (low, high), or one for each of the ``bands`` of a raster.

    Raises:
        UserError: anything else.
    """
    levels: Range = check(name, value, Range)
    if levels is not None and isinstance(levels[0], Sequence) and len(levels) != bands:
        wanted = "one pair [low, high]: several are for data.bands" if bands is None else f"one, or data.bands={bands}"
        raise UserError(f"{name} has {len(levels)} pairs, wanted {wanted}.")
    if levels is not None and bands is None and not 0 <= levels[0] < levels[1] <= _ALL[1]:
        raise UserError(f"{name} must be within 0..65535, the values of 16-bit images, got {list(levels)}.")
    return levels


def levels_of(image_range: Range, bands: int) -> list[Levels | None]:
    """Return the (low, high) of each band."""
    if image_range is None:
        return [None] * bands
    pairs = image_range if isinstance(image_range[0], Sequence) else [image_range] * bands
    return [(low, high) for low, high in pairs]


def eight_bits(values: NDArray[Any], levels: Levels | None) -> NDArray[np.uint8]:
    """Return values of any real type as uint8: from low..high to 0..255, clipped and rounded down; NaN becomes 0.

    Without ``levels`` values of 8 bits stay as they are, and those of 16 bits are from 0..65535.

    Raises:
        ValueError: no levels, and the values are neither.
    """
    if levels is None and values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    if values.dtype == np.uint16:
        return np.asarray(_table(*(levels or _ALL))[values])
    if levels is None:
        raise ValueError(f"values of {values.dtype}, of which black and white are not given")
    low, high = levels
    with np.errstate(over="ignore"):  # infinity is clipped too
        scaled = np.clip((values.astype(np.float64) - low) * 255 / (high - low), 0, 255)
    return np.nan_to_num(scaled, nan=0.0).astype(np.uint8)


def few_levels(bands: int | None) -> str:
    """Say of an image that :func:`loses_levels`."""
    depth = "16" if bands is None else "more than 8"
    return f"has {depth} bits, but fewer than {FEW_LEVELS} levels are left in 8"


def loses_levels(values: NDArray[Any], levels: Levels | None) -> bool:
    """Return whether values of more than 8 bits keep fewer than ``FEW_LEVELS`` of their levels in 8 bits."""
    if values.dtype == np.uint8:
        return False
    if values.dtype == np.uint16:
        before = np.flatnonzero(np.bincount(values.ravel(), minlength=65536)).astype(np.uint16)
    else:
        before = np.unique(values[np.isfinite(values)])
    return len(np.unique(eight_bits(before, levels))) < FEW_LEVELS <= len(before)


@lru_cache(maxsize=MOST_BANDS)
def _table(low: float, high: float) -> NDArray[np.uint8]:
    """Return the 8-bit value of each 16-bit value, uint8 (65536,)."""
    levels: NDArray[np.uint8] = np.clip((np.arange(65536) - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    return levels
