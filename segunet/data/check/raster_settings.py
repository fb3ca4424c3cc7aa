"""Propose the settings of rasters, from some of their rows."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segunet.base.errors import UserError
from segunet.data.check.moments import Moments
from segunet.images.levels import Levels, Range
from segunet.images.rasters import SUFFIXES, Raster, count_bands, opened_raster
from segunet.images.reading import PEEK, read_stored

_ROWS = 256  # of each image, in its middle
_DIGITS = 4  # of the levels
_ENDS = (0.5, 99.5)  # percentiles of a band that become black and white


def raster_settings(images: Sequence[Path]) -> dict[str, Any]:
    """Return ``bands``, ``image_range``, ``mean`` and ``std`` for the first ``PEEK`` images; empty if they are colours.

    Raises:
        UserError: they are rasters, and one cannot be read, or rasterio is missing.
    """
    first = next((path for path in images if path.is_file()), None)
    if first is None or first.suffix.lower() not in SUFFIXES or _is_colour(first):
        return {}
    bands, kind = count_bands(first)
    levels = None if kind == "uint8" else _levels(images, bands)
    moments = sum((Moments.of(pixels) for pixels in _pixels(images, bands, levels)), Moments.none(bands))
    found = {"bands": bands, "image_range": levels, "mean": moments.mean, "std": moments.std}
    return {name: value for name, value in found.items() if value is not None}


def _is_colour(path: Path) -> bool:
    """Return whether a TIFF is grey or RGB; a last band that is marked as alpha, but has more than two values, is data.

    GDAL marks the fourth of four 8-bit bands as alpha unless it is told otherwise.
    """
    with suppress(UserError):
        values = read_stored(path).values
        return values.shape[2] in (1, 3) or len(np.unique(values[..., -1])) <= 2
    return False


def _levels(images: Sequence[Path], bands: int) -> list[Levels]:
    """Return the (low, high) of each band."""
    samples: list[list[NDArray[Any]]] = [[] for _ in range(bands)]
    for raster, top, bottom in _rasters(images, bands, None):
        values = raster.values(top, bottom)
        there = ~raster.is_nothing(values)
        for band, seen in enumerate(samples):
            seen.append(values[..., band][there[..., band]])
    return [_ends_of(np.concatenate(seen)) for seen in samples]


def _ends_of(values: NDArray[Any]) -> Levels:
    """Return what becomes black and white of the values of a band."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(f"{end:.{_DIGITS}g}") for end in np.percentile(values, _ENDS))
    return low, high if low < high else low + 1


def _pixels(images: Sequence[Path], bands: int, levels: Range) -> Iterator[NDArray[np.uint8]]:
    for raster, top, bottom in _rasters(images, bands, levels):
        yield raster.pixels(top, bottom)


def _rasters(images: Sequence[Path], bands: int, levels: Range) -> Iterator[tuple[Raster, int, int]]:
    """Yield each of the first images, and which of its rows to look at."""
    for path in images[:PEEK]:
        if path.is_file():
            with opened_raster(path, bands, levels) as raster:
                top = max(raster.size[0] - _ROWS, 0) // 2
                yield raster, top, min(top + _ROWS, raster.size[0])
