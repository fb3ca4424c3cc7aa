"""Rasters: TIFF files of any number of bands, read by rasterio (the extra ``segunet[rasters]``).

And the place on the earth of any TIFF, which a mask of it keeps.
"""

import logging
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segunet.base.errors import UserError, counted
from segunet.base.extras import import_extra
from segunet.base.files import is_file
from segunet.images.integrity import WARNINGS, check_size, max_pixels, tiff_pages
from segunet.images.levels import Channels, Range, channels_of, eight_bits, first_channels, levels_of, loses_levels
from segunet.images.palette import ClassColours

logger = logging.getLogger(__name__)
SUFFIXES = (".tif", ".tiff")
_ROWS = 64  # that are read at a time
_LOOKED_AT = 256  # rows of a raster, in its middle, by which it is judged
_PLACE = {33550, 33922, 34264}  # GeoTIFF's tags of scale, tie points and transformation
_ORIENTATION = 274
# No file besides the TIFF itself is used: no other driver, and no .aux.xml or .ovr beside it.
_OPTIONS: dict[str, Any] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
_OPTIONS["GDAL_CACHEMAX"] = 2**27  # bytes; by default a twentieth of the memory


class Pixels(NamedTuple):
    """Rows of a raster.

    Attributes:
        values: uint8 (h, W, bands); where a band has no data, 0.
        empty: bool (h, W), where no band has data.
    """

    values: NDArray[np.uint8]
    empty: NDArray[np.bool_]


class Raster:
    """An open raster.

    Attributes:
        bands: number of its bands.
        dtype: type of their values.
        size: its (height, width).
    """

    def __init__(self, source: Any, path: Path, image_range: Range) -> None:
        self._source, self._path, self.bands, self.dtype = source, path, int(source.count), str(source.dtypes[0])
        self._levels = levels_of(image_range, self.bands)
        self.size: tuple[int, int] = (source.height, source.width)

    def values(self, top: int, bottom: int) -> NDArray[Any]:
        """Return rows as they are stored, (bottom - top, W, bands)."""
        with _readable(self._path):
            values = self._source.read(window=((top, bottom), (0, self.size[1])))
        return np.moveaxis(values, 0, -1)

    def pixels(self, top: int, bottom: int) -> Pixels:
        """Return rows, read a few at a time."""
        shape = bottom - top, self.size[1]
        made = Pixels(np.empty((*shape, self.bands), dtype=np.uint8), np.empty(shape, dtype=bool))
        for part, rows, nothing in self._parts(top, bottom):
            made.empty[part] = np.all(nothing, axis=0)
            for band in range(self.bands):
                made.values[part, :, band] = self._eight_bits(rows[..., band], band, nothing[band])
        return made

    def no_data(self) -> NDArray[np.bool_]:
        """Return where no band has data, bool (H, W)."""
        empty = np.empty(self.size, dtype=bool)
        for part, _, nothing in self._parts(0, len(empty)):
            empty[part] = np.all(nothing, axis=0)
        return empty

    def _parts(self, top: int, bottom: int) -> Iterator[tuple[slice, NDArray[Any], list[NDArray[np.bool_]]]]:
        """Yield a few rows at a time: which of those from ``top`` on, as stored, and where each band has no data."""
        for first in range(top, bottom, _ROWS):
            rows = self.values(first, min(first + _ROWS, bottom))
            nothing = [self.is_nothing(rows[..., band], band) for band in range(self.bands)]
            yield slice(first - top, first - top + len(rows)), rows, nothing

    def whole(self) -> Pixels:
        """Return all rows.

        Raises:
            UserError: all bands together are too large.
        """
        height, width = self.size
        if height * width * self.bands > channels_of(None) * max_pixels():
            check_size(width * self.bands, height, f"{self._path}, its {self.bands} bands side by side,")
        return self.pixels(0, height)

    @property
    def middle(self) -> tuple[int, int]:
        """The first and the last of the rows in the middle, by which it is judged."""
        top = max(self.size[0] - _LOOKED_AT, 0) // 2
        return top, min(top + _LOOKED_AT, self.size[0])

    def loses_levels(self) -> bool:
        """Return whether a band keeps few of its levels in 8 bits, by the rows in the middle.

        Raises:
            UserError: the range is missing.
        """
        self.pixels(0, 1)
        bands = np.moveaxis(self.values(*self.middle), -1, 0)
        return any(loses_levels(band, levels) for band, levels in zip(bands, self._levels, strict=True))

    def shown(self, long_side: int, channels: Channels | None = None) -> NDArray[np.uint8]:
        """Return what is shown, the ``channels`` or the first ones, as uint8 (h, w, 3), at most ``long_side`` long."""
        factor, bands = min(long_side / max(self.size), 1), channels or first_channels(self.bands)
        height, width = (max(round(side * factor), 1) for side in self.size)
        once = list(dict.fromkeys(bands))
        with _readable(self._path):
            values = self._source.read([band + 1 for band in once], out_shape=(len(once), height, width))
        stored = dict(zip(once, values, strict=True))
        drawn = {band: self._eight_bits(rows, band, self.is_nothing(rows, band)) for band, rows in stored.items()}
        return np.dstack([drawn[band] for band in bands])

    def is_nothing(self, values: NDArray[Any], band: int) -> NDArray[np.bool_]:
        """Return where values of a band hold no data: NaN, or the value that the file names."""
        nothing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
        named = self._source.nodatavals[band]
        return nothing if named is None else nothing | (values == named)

    def _eight_bits(self, values: NDArray[Any], band: int, nothing: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return values of a band as uint8; 0 where there is ``nothing``."""
        try:
            return np.where(nothing, np.uint8(0), eight_bits(values, self._levels[band]))
        except ValueError as error:
            raise UserError(
                f"{self._path} holds {error}",
                "Set which values become black and white: data.image_range=[LOW,HIGH], or a pair for each band; "
                "python -m segunet.check_data data.root=PATH alone proposes them.",
            ) from error


@contextmanager
def opened_raster(path: Path, bands: int | None, image_range: Range = None) -> Iterator[Raster]:
    """Open a TIFF.

    Args:
        path: the file.
        bands: number of bands that it must have; None for any.
        image_range: the values that become 0 and 255.

    Raises:
        UserError: no or another file, another number of bands, several pages, values that are no real numbers, too many
            pixels, or no rasterio.
    """
    with _opened(path) as source:
        check_size(source.width, source.height, str(path))
        if source.subdatasets:
            pages = counted(len(source.subdatasets), "page")
            raise UserError(f"{path} has {pages}, wanted a single image", "Write the page to use to a file of its own.")
        if "complex" in str(source.dtypes):
            raise UserError(f"{path} holds complex numbers", "Write their size or phase to a file of its own.")
        if bands not in (None, source.count):
            raise UserError(
                f"{path} has {counted(source.count, 'band')}, wanted {bands}",
                "A data set's files have as many as data.bands says; a network takes files like those of its training.",
            )
        yield Raster(source, path, image_range)


def read_raster(path: Path, bands: int, image_range: Range = None) -> Pixels:
    """Read a whole raster; raises as :func:`opened_raster`, also if all bands are too large."""
    with opened_raster(path, bands, image_range) as raster:
        return raster.whole()


def count_bands(path: Path) -> tuple[int, str]:
    """Return the number of a TIFF's bands, and the type of their values; raises as :func:`opened_raster`."""
    with opened_raster(path, None) as raster:
        return raster.bands, raster.dtype


def georeferenced_among(paths: Iterable[Path]) -> frozenset[Path]:
    """Return the TIFFs that say by tags where on the earth they lie; none, with a warning, without rasterio."""
    found = frozenset(path for path in paths if path.suffix.lower() in SUFFIXES and _is_georeferenced(path))
    if found:
        try:
            _rasterio()
        except UserError as error:
            logger.warning("%s is georeferenced, but its mask will not be. %s", min(found), error)
            return frozenset()
    return found


def _is_georeferenced(path: Path) -> bool:
    try:
        with path.open("rb") as file, WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("error")
            page: dict[Any, Any] = dict(next(tiff_pages(file)).items())
            found, upright = bool(_PLACE & page.keys()), page.get(_ORIENTATION, 1) == 1
    except (OSError, ValueError, SyntaxError, struct.error, LookupError, TypeError, StopIteration, Warning):
        return False  # reported when it is read
    if found and not upright:
        logger.warning("%s is rotated by its orientation tag: its mask will not be georeferenced", path)
    return found and upright


def save_georeferenced(mask: NDArray[np.uint8], colours: ClassColours, like: Path, file: IO[bytes]) -> None:
    """Write a mask uint8 (H, W) as a GeoTIFF that lies where the TIFF ``like`` does.

    Args:
        mask: of the size of that file.
        colours: of its values; those that are ignored are marked as no data.
        like: the file whose reference system and position are taken.
        file: what to write to.

    Raises:
        UserError: ``like`` cannot be read, or no rasterio.
    """
    rasterio, height, width = _rasterio(), *mask.shape
    form = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8", "compress": "deflate"}
    with _opened(like) as source, _readable(like):
        points, system = source.gcps
        place: dict[str, Any] = {"crs": source.crs or rasterio.CRS(), "transform": source.transform}
        if points:
            place = {"crs": system or rasterio.CRS(), "gcps": points}
        with rasterio.MemoryFile() as memory:
            with _without_warning(rasterio):
                target = memory.open(**form, nodata=colours.ignore_index, **place)
            with target as written:
                written.write(mask, 1)
                written.write_colormap(
                    1, {value: tuple(colour) for value, colour in enumerate(colours.palette.tolist())}
                )
            file.write(memory.read())


def _rasterio() -> Any:
    """Import rasterio; what fails in it is raised, and need not be logged too."""
    rasterio = import_extra("rasterio", "rasters")
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    return rasterio


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a TIFF with rasterio."""
    rasterio = _rasterio()
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is not a TIFF", "With data.bands images are rasters, .tif files: convert it to one.")
    if not is_file(path):
        raise UserError(f"There is no image {path.absolute()}.")
    with rasterio.Env(**_OPTIONS):
        with _readable(path), _without_warning(rasterio):
            source = rasterio.open(path.absolute(), driver="GTiff")
        with source:
            yield source


@contextmanager
def _without_warning(rasterio: Any) -> Iterator[None]:
    """Open a file that has no place on the earth, or only control points, without rasterio's warning."""
    with WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert rasterio's errors for a damaged file into a UserError that names the file."""
    errors = import_extra("rasterio.errors", "rasters")
    try:
        yield
    except (errors.RasterioError, OSError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).replace(str(path.absolute()), path.name)
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a raster: {reason.rstrip('.')}",
            "It may be damaged or of another format: copy it again from its source, or remove it.",
        ) from error
