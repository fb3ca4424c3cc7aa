"""Rasters are read as rasterio's values say, scaled by hand; and masks lie where their rasters do."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.random import default_rng
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from segunet.base.errors import UserError
from segunet.images.palette import IGNORE_INDEX, ClassColours, voc_palette
from segunet.images.rasters import count_bands, georeferenced_among, opened_raster, read_raster, save_georeferenced
from segunet.images.reading import first_to_lose_levels, read_image, read_size
from tests.rasters import PLACE, write_raster

RNG = default_rng(0)
COLOURS = ClassColours([f"class {index}" for index in range(21)], voc_palette(), IGNORE_INDEX, None)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13])
def test_every_number_of_bands_is_read(tmp_path: Path, bands: int) -> None:
    values = RNG.integers(0, 256, (bands, 300, 21), dtype=np.uint8)  # more rows than are read at a time
    path = write_raster(tmp_path / "image.tif", values)
    assert (read_image(path, bands=bands) == values.transpose(1, 2, 0)).all()
    assert read_size(path, bands) == (300, 21)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_the_levels_of_each_type_become_0_and_255(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(0, 120, 40 * 25).reshape(2, 20, 25).astype(dtype)
    path = write_raster(tmp_path / "image.tif", values)
    wanted = [np.clip((values[band].astype(float) - low) * 255 / (high - low), 0, 255).astype(np.uint8)
              for band, (low, high) in enumerate([(10, 90), (-5, 200)])]  # fmt: skip
    assert (read_raster(path, 2, [[10, 90], [-5, 200]]).values == np.dstack(wanted)).all()
    assert (read_raster(path, 2, [10, 90]).values[..., 0] == wanted[0]).all()


def test_without_levels_only_unsigned_values_of_8_and_16_bits_are_clear(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65_536, (2, 8, 9), dtype=np.uint16)
    path = write_raster(tmp_path / "deep.tif", deep)
    assert (read_raster(path, 2).values == (deep * (255 / 65_535)).astype(np.uint8).transpose(1, 2, 0)).all()
    for dtype in ("int16", "float32"):
        path = write_raster(tmp_path / "image.tif", np.zeros((2, 8, 9), dtype=dtype))
        wanted = rf"image\.tif holds values of {dtype}, of which black and white are not given\. Set .*image_range=\["
        with pytest.raises(UserError, match=wanted):
            read_raster(path, 2)


def test_pixels_without_data_are_0(tmp_path: Path) -> None:
    values = np.full((2, 4, 5), 50, dtype=np.float32)
    values[0, 1, 2], values[1, 3, 3], values[0, 0, 0], values[1, 0, 0] = np.nan, -9999, np.inf, -np.inf
    path = write_raster(tmp_path / "image.tif", values, nodata=-9999)
    read, empty = read_raster(path, 2, [-20_000, 100])
    assert read[1, 2, 0] == read[3, 3, 1] == 0  # not 127, where -9999 lies in that range
    assert (read[0, 0, 0], read[0, 0, 1]) == (255, 0)
    assert (read[2] == int(20_050 * 255 / 20_100)).all()
    assert not empty.any()  # the other band has data there


def test_pixels_without_data_in_any_band_are_empty(tmp_path: Path) -> None:
    values = np.full((3, 70, 5), 50, dtype=np.int16)
    values[:, 66, 2], values[:2, 66, 3] = -1, -1
    with opened_raster(write_raster(tmp_path / "image.tif", values, nodata=-1), 3, [0, 100]) as raster:
        assert np.argwhere(raster.pixels(0, 70).empty).tolist() == [[66, 2]]


def test_rows_and_a_reduced_raster_are_parts_of_the_whole(tmp_path: Path) -> None:
    values = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (5, 200, 100)).copy()
    with opened_raster(write_raster(tmp_path / "image.tif", values), 5) as raster:
        assert (raster.pixels(40, 47).values == values[:, 40:47].transpose(1, 2, 0)).all()
        small, own = raster.shown(20), raster.shown(4096)
    assert (small.shape, own.shape) == ((20, 10, 3), (200, 100, 3))  # never larger than it is
    assert abs(small[:, 0, 0].astype(int) - np.arange(5, 200, 10)).max() <= 5


@pytest.mark.parametrize(
    ("name", "bands", "message"),
    [
        ("image.tif", 4, r"image\.tif has 5 bands, wanted 4\. A data set's files have as many as data\.bands says"),
        ("image.png", 5, r"image\.png is not a TIFF\. With data\.bands images are rasters"),
        ("none.tif", 5, r"There is no image .*none\.tif"),
        ("text.tif", 5, r"text\.tif \(5 bytes\) cannot be read as a raster"),
        ("cut.tif", 5, r"cut\.tif \(\d+ bytes\) cannot be read as a raster: .*copy it again"),
        ("complex.tif", 5, r"complex\.tif holds complex numbers"),
        ("other.tif", 5, r"other\.tif .*cannot be read as a raster"),
    ],
)
def test_what_is_no_such_raster_is_refused(tmp_path: Path, name: str, bands: int, message: str) -> None:
    path = write_raster(tmp_path / "image.tif", RNG.integers(0, 256, (5, 64, 64), dtype=np.uint8))
    (tmp_path / "image.png").touch()
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "cut.tif").write_bytes(path.read_bytes()[:9000])
    write_raster(tmp_path / "complex.tif", np.zeros((5, 8, 8), dtype=np.complex64))
    # A virtual raster reads other files, and could read addresses.
    (tmp_path / "other.tif").write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(UserError, match=message):
        read_raster(tmp_path / name, bands)


def test_a_file_beside_the_raster_changes_nothing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "image.tif", np.full((2, 4, 4), 7, dtype=np.uint8))
    bands = "".join(f'<PAMRasterBand band="{band}"><NoDataValue>7</NoDataValue></PAMRasterBand>' for band in (1, 2))
    (tmp_path / "image.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    assert (read_raster(path, 2).values == 7).all()


def test_the_pages_of_a_stack_are_not_bands(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((8, 9), value, dtype=np.uint8)) for value in (1, 2, 3)]
    pages[0].save(path := tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"stack\.tif has 3 pages, wanted a single image"):
        read_raster(path, 1)


def test_complex_integers_are_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "radar.tif"
    options = {"driver": "GTiff", "count": 1, "height": 8, "width": 8, "dtype": "complex_int16", **PLACE}
    with rasterio.open(path, "w", **options):
        pass
    for read in (lambda: read_raster(path, 1), lambda: count_bands(path)):
        with pytest.raises(UserError, match=r"radar\.tif holds complex numbers"):
            read()


def test_many_bands_together_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "image.tif", np.zeros((13, 100, 100), dtype=np.uint8))
    monkeypatch.setenv("SEGUNET_MAX_PIXELS", "30000")
    with pytest.raises(UserError, match=r"image\.tif, its 13 bands side by side, is 1300 x 100 pixels"):
        read_raster(path, 13)
    with opened_raster(path, 13) as raster:
        assert raster.pixels(10, 12).values.shape == (2, 100, 13)  # a part is not too large


def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "image.tif", np.zeros((2, 100, 101), dtype=np.uint8))
    monkeypatch.setenv("SEGUNET_MAX_PIXELS", "10000")
    with pytest.raises(UserError, match="101 x 100 pixels, 10,100; at most 10,000 are read"):
        read_raster(path, 2)


def test_a_raster_that_loses_its_levels_is_found(tmp_path: Path) -> None:
    values = np.zeros((4, 40, 50), dtype=np.uint16)
    values[2] = np.arange(2000).reshape(40, 50)
    path = write_raster(tmp_path / "image.tif", values)
    assert first_to_lose_levels([path], None, 4) == path
    assert first_to_lose_levels([path], [0, 2000], 4) is None
    path = write_raster(tmp_path / "share.tif", values.astype(np.float32) / 2000)
    assert first_to_lose_levels([path], [0, 10_000], 4) == path
    assert first_to_lose_levels([path], [0, 1], 4) is None


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_a_mask_lies_where_its_image_does(tmp_path: Path, bands: int) -> None:
    image = write_raster(tmp_path / "image.tif", np.zeros((bands, 7, 9), dtype=np.uint8), **PLACE)
    mask = RNG.integers(0, 21, (7, 9), dtype=np.uint8)
    assert georeferenced_among([image]) == {image}
    with (tmp_path / "mask.tif").open("wb") as file:
        save_georeferenced(mask, COLOURS, image, file)
    with rasterio.open(tmp_path / "mask.tif") as written:
        assert (written.crs.to_epsg(), written.transform) == (32632, Affine(10, 0, 500_000, 0, -10, 5_000_000))
        assert (written.read(1) == mask).all()
        assert written.colormap(1)[15][:3] == (192, 128, 128)
        assert written.nodata == IGNORE_INDEX
    assert (np.asarray(Image.open(tmp_path / "mask.tif")) == mask).all()


def test_a_place_without_a_reference_system_is_kept(tmp_path: Path) -> None:
    points = [GroundControlPoint(row, col, x=10 + col, y=50 - row) for row, col in ((0, 0), (0, 9), (7, 0), (7, 9))]
    for name, place in (("points", {"gcps": points, "crs": CRS()}), ("transform", {"transform": PLACE["transform"]})):
        image = write_raster(tmp_path / f"{name}.tif", np.zeros((2, 7, 9), dtype=np.uint8), **place)
        assert georeferenced_among([image]) == {image}
        file = io.BytesIO()
        save_georeferenced(np.ones((7, 9), dtype=np.uint8), COLOURS, image, file)
        with rasterio.MemoryFile(file.getvalue()) as memory, memory.open() as written, rasterio.open(image) as given:
            assert (written.crs, written.transform) == (given.crs, given.transform)
            assert len(written.gcps[0]) == len(given.gcps[0])


def test_a_mask_of_a_rotated_image_has_no_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its mask is upright, but what the tags say is of the file as it is stored."""
    path = tmp_path / "image.tif"
    place = {33550: (10.0, 10.0, 0.0), 33922: (0.0, 0.0, 0.0, 5e5, 5e6, 0.0)}
    for orientation, found in ((1, {path}), (3, set())):
        Image.new("RGB", (9, 9)).save(path, tiffinfo={**place, 274: orientation})
        assert georeferenced_among([path]) == found
    assert "image.tif is rotated by its orientation tag" in caplog.text


def test_control_points_are_kept_too(tmp_path: Path) -> None:
    points = [GroundControlPoint(row, col, x=10 + col, y=50 - row) for row, col in ((0, 0), (0, 9), (7, 0), (7, 9))]
    image = write_raster(tmp_path / "image.tif", np.zeros((2, 7, 9), dtype=np.uint8), gcps=points, crs="EPSG:4326")
    assert georeferenced_among([image]) == {image}
    file = io.BytesIO()
    save_georeferenced(np.zeros((7, 9), dtype=np.uint8), COLOURS, image, file)
    with rasterio.MemoryFile(file.getvalue()) as memory, memory.open() as written:
        got, crs = written.gcps
    assert crs.to_epsg() == 4326
    assert [(each.row, each.col, each.x, each.y) for each in got] == [(p.row, p.col, p.x, p.y) for p in points]


def test_other_files_are_not_georeferenced(tmp_path: Path) -> None:
    plain = write_raster(tmp_path / "plain.tif", np.zeros((2, 7, 9), dtype=np.uint8))
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "short.tif").write_bytes(b"II*\0\x08\0\0\0\xff\xff")
    others = [tmp_path / name for name in ("text.tif", "short.tif", "none.tif", "image.png")]
    assert georeferenced_among([plain, *others]) == frozenset()


def test_without_rasterio_masks_have_no_place_but_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = write_raster(tmp_path / "image.tif", np.zeros((3, 7, 9), dtype=np.uint8), **PLACE)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert georeferenced_among([image]) == frozenset()
    assert "image.tif is georeferenced, but its mask will not be. This needs the package rasterio" in caplog.text
    with pytest.raises(UserError, match=r"the extra segunet\[rasters\]"):
        read_raster(image, 3)
