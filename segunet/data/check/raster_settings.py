"""Propose the settings of rasters, from some of their rows."""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.data.check.moments import Moments
from segunet.images.levels import Levels
from segunet.images.rasters import SUFFIXES, count_bands, opened_raster
from segunet.images.reading import PEEK, read_stored

_MOST = 2**17  # values of each band and image
_ENDS = (0.5, 99.5)  # percentiles of a band that become black and white
_STEPS = 1000  # between them, to which they are rounded


def raster_settings(images: Sequence[Path]) -> dict[str, Any]:
    """Return ``bands``, ``image_range``, ``mean``, ``std`` of rasters; empty if of the first ``PEEK`` most are colours.

    Raises:
        UserError: they are rasters, but rasterio is missing.
    """
    first = [path for path in images if path.is_file()][:PEEK]
    colours = [path for path in first if _is_colour(path)]
    others = [path for path in first if path.suffix.lower() in SUFFIXES and path not in colours]
    if others and not colours:
        import_extra("rasterio", "rasters")
    readable = {path: counted for path in others if (counted := _counted(path))}
    if len(readable) <= len(colours):
        return {}
    bands, kind = next(iter(readable.values()))
    same = [path for path, counted in readable.items() if counted == (bands, kind)]
    levels = None if kind == "uint8" else _levels(same, bands)
    moments = Moments.none(bands)
    for path in same:
        with suppress(UserError), opened_raster(path, bands, levels) as raster:
            moments += Moments.of(raster.pixels(*raster.middle).values)
    if not moments.count:
        return {}
    found = {"bands": bands, "image_range": levels, "mean": moments.mean, "std": moments.std}
    return {name: value for name, value in found.items() if value is not None}


def _counted(path: Path) -> tuple[int, str] | None:
    """Return what :func:`count_bands` does; None of a file that cannot be read, which the check itself reports."""
    with suppress(UserError):
        return count_bands(path)
    return None


def _is_colour(path: Path) -> bool:
    """Return whether an image is grey or RGB; a last band that is marked as alpha, but has many values, is data.

    GDAL marks the fourth of four 8-bit bands as alpha unless it is told otherwise.
    """
    with suppress(UserError):
        values = read_stored(path).values
        return path.suffix.lower() not in SUFFIXES or values.shape[2] in (1, 3) or len(np.unique(values[..., -1])) <= 2
    return False


def _levels(images: Sequence[Path], bands: int) -> list[Levels]:
    """Return the (low, high) of each band."""
    samples: list[list[NDArray[Any]]] = [[np.empty(0)] for _ in range(bands)]
    for path in images:
        with suppress(UserError), opened_raster(path, bands) as raster:
            values = raster.values(*raster.middle)
            for band, seen in enumerate(samples):
                there = values[..., band][~raster.is_nothing(values[..., band], band)]
                there = there[np.isfinite(there)]
                seen.append(there[:: len(there) // _MOST + 1])
    return [levels_between(np.concatenate(seen)) for seen in samples]


def levels_between(values: NDArray[Any]) -> Levels:
    """Return what becomes black and white of the values of a band, rounded outwards."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(values, _ENDS))
    if low == high:
        return low, low + max(abs(low), 1.0)
    digits = math.ceil(math.log10(_STEPS / (high - low)))
    steps = math.floor(low * 10.0**digits), math.ceil(high * 10.0**digits)
    return round(steps[0] / 10.0**digits, digits), round(steps[1] / 10.0**digits, digits)
