"""Rasters: TIFF files of any number of bands, read by rasterio (the extra ``segunet[rasters]``).

And the place on the earth of any TIFF, which a mask of it keeps.
"""

import logging
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.files import is_file
from segunet.images.integrity import WARNINGS, check_size, tiff_pages
from segunet.images.levels import Range, eight_bits, levels_of, loses_levels

SUFFIXES = (".tif", ".tiff")
_ROWS = 256  # that are read at a time
_PLACE = {33550, 33922, 34264}  # GeoTIFF's tags of scale, tie points and transformation
# No file besides the TIFF itself is used: no other driver, and no .aux.xml or .ovr beside it.
_OPTIONS: dict[str, Any] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
_OPTIONS["GDAL_CACHEMAX"] = 2**27  # bytes; by default a twentieth of the memory
logger = logging.getLogger(__name__)
logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what fails is raised too


class Raster:
    """An open raster.

    Attributes:
        bands: number of its bands.
        size: its (height, width).
    """

    def __init__(self, source: Any, path: Path, bands: int, image_range: Range) -> None:
        self._source, self._path, self._levels, self.bands = source, path, levels_of(image_range, bands), bands
        self.size: tuple[int, int] = (source.height, source.width)

    def values(self, top: int, bottom: int) -> NDArray[Any]:
        """Return rows as they are stored, (bottom - top, W, bands)."""
        with _readable(self._path):
            values = self._source.read(window=((top, bottom), (0, self.size[1])))
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))

    def pixels(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Return rows as uint8 (bottom - top, W, bands); pixels without data are 0."""
        return self._as_eight_bits(self.values(top, bottom))

    def reduced(self, long_side: int) -> NDArray[np.uint8]:
        """Return the whole raster as uint8 (h, w, bands), with that many pixels on its long side; some are left out."""
        factor = long_side / max(self.size)
        height, width = (max(round(side * factor), 1) for side in self.size)
        with _readable(self._path):
            values = self._source.read(out_shape=(self.bands, height, width))
        return self._as_eight_bits(np.ascontiguousarray(np.moveaxis(values, 0, -1)))

    def _as_eight_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        made, nothing = np.empty(values.shape, dtype=np.uint8), self.is_nothing(values)
        for band, levels in enumerate(self._levels):
            try:
                made[..., band] = eight_bits(values[..., band], levels)
            except ValueError as error:
                raise UserError(
                    f"{self._path}: {error}",
                    "Set which values become black and white: data.image_range=[LOW,HIGH], or a pair for each band.",
                ) from error
        made[nothing] = 0
        return made

    def is_nothing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where rows of :meth:`values` hold no data: NaN, or the value that the file names."""
        nothing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
        for band, value in enumerate(self._source.nodatavals):
            if value is not None:
                nothing[..., band] |= values[..., band] == value
        return nothing


@contextmanager
def opened_raster(path: Path, bands: int, image_range: Range = None) -> Iterator[Raster]:
    """Open a TIFF of that many ``bands``; ``image_range`` are the values that become 0 and 255.

    Raises:
        UserError: no or another file, another number of bands, values that are no real numbers, too many pixels, or no
            rasterio.
    """
    with _opened(path) as source:
        check_size(source.width, source.height, str(path))
        if source.count != bands:
            raise UserError(f"{path} has {source.count} bands, wanted {bands}", "Set data.bands, or convert the file.")
        if any("complex" in each for each in source.dtypes):
            raise UserError(f"{path} holds complex numbers", "Write their size or phase to a file of its own.")
        yield Raster(source, path, bands, image_range)


def read_raster(path: Path, bands: int, image_range: Range = None) -> NDArray[np.uint8]:
    """Read a raster as uint8 (H, W, bands), a few rows at a time; raises as :func:`opened_raster`."""
    with opened_raster(path, bands, image_range) as raster:
        pixels = np.empty((*raster.size, bands), dtype=np.uint8)
        for top in range(0, len(pixels), _ROWS):
            rows = raster.pixels(top, min(top + _ROWS, len(pixels)))
            pixels[top : top + len(rows)] = rows
    return pixels


def bands_lose_levels(path: Path, bands: int, image_range: Range = None) -> bool:
    """Return whether a band of a raster of 16 bits keeps few of its levels in 8, by its rows in the middle."""
    with opened_raster(path, bands, image_range) as raster:
        top = max(raster.size[0] - _ROWS, 0) // 2
        values = raster.values(top, min(top + _ROWS, raster.size[0]))
    each = zip(np.moveaxis(values, -1, 0), levels_of(image_range, bands), strict=True)
    return any(loses_levels(band, levels) for band, levels in each)


def count_bands(path: Path) -> tuple[int, str]:
    """Return the number of a TIFF's bands, and the type of their values; raises as :func:`opened_raster`."""
    with _opened(path) as source:
        return source.count, str(np.result_type(*source.dtypes))


def georeferenced_among(paths: Iterable[Path]) -> frozenset[Path]:
    """Return the TIFFs that say where on the earth they lie; none, with a warning, without rasterio."""
    found = frozenset(path for path in paths if path.suffix.lower() in SUFFIXES and _is_georeferenced(path))
    if found and find_spec("rasterio") is None:
        logger.warning("%s is georeferenced: pip install 'segunet[rasters]' writes masks as GeoTIFFs too", min(found))
        return frozenset()
    return found


def _is_georeferenced(path: Path) -> bool:
    try:
        with path.open("rb") as file, WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("error")
            return any(_PLACE & page.keys() for page in tiff_pages(file))
    except (OSError, ValueError, SyntaxError, struct.error, KeyError, TypeError, Warning):
        return False  # reported when it is read


def save_georeferenced(mask: NDArray[np.uint8], palette: NDArray[np.uint8], like: Path, file: IO[bytes]) -> None:
    """Write a mask uint8 (H, W) as a GeoTIFF that lies where the TIFF ``like`` does.

    Args:
        mask: of the size of that file.
        palette: uint8 (256, 3), the colour of each value.
        like: the file whose reference system and position are taken.
        file: what to write to.

    Raises:
        UserError: ``like`` cannot be read, or no rasterio.
    """
    rasterio = import_extra("rasterio", "rasters")
    with _opened(like) as source:
        if mask.shape != source.shape:
            raise UserError(f"{like} is rotated by its orientation tag", "Save it upright for a GeoTIFF of its mask.")
        (gcps, gcp_crs), place = source.gcps, {"crs": source.crs, "transform": source.transform}
    if gcps:
        place = {"crs": gcp_crs, "gcps": gcps}
    height, width = mask.shape
    form = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8", "compress": "deflate"}
    with rasterio.Env(**_OPTIONS), rasterio.MemoryFile() as memory:
        with memory.open(**form, **place) as written:
            written.write(mask, 1)
            written.write_colormap(1, {value: tuple(colour) for value, colour in enumerate(palette.tolist())})
        file.write(memory.read())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a TIFF with rasterio."""
    rasterio = import_extra("rasterio", "rasters")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is not a TIFF", "With data.bands images are rasters, .tif files: convert it to one.")
    if not is_file(path):
        raise UserError(f"There is no image {path.absolute()}.")
    with rasterio.Env(**_OPTIONS):
        with _readable(path), WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(path.absolute(), driver="GTiff")
        with source:
            yield source


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert rasterio's errors for a damaged file into a UserError that names the file."""
    errors = import_extra("rasterio.errors", "rasters")
    try:
        yield
    except (errors.RasterioError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).replace(str(path.absolute()), path.name)
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a raster: {reason}",
            "It may be damaged or of another format: copy it again from its source, or remove it.",
        ) from error
