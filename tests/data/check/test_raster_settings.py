"""What is proposed for rasters."""

from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

from segunet.data.check.raster_settings import levels_between, raster_settings
from tests.rasters import write_raster


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.linspace(0, 4000, 10_001), (20, 3980)),
        (np.linspace(0, 1, 10_001), (0.005, 0.995)),
        (np.repeat([12_345, 12_346, 12_347, 12_348], 50), (12_345, 12_348)),
        (np.linspace(-25.5, 3.25, 10_001), (-25.36, 3.11)),
        (np.full(9, 7), (7, 14)),
        (np.full(9, 0), (0, 1)),
        (np.empty(0), (0, 1)),
    ],
)
def test_levels_are_the_ends_rounded_outwards(values: np.ndarray, wanted: tuple[float, float]) -> None:
    low, high = levels_between(values)
    assert (low, high) == pytest.approx(wanted, abs=(wanted[1] - wanted[0]) / 500)
    if values.size:
        assert low <= np.percentile(values, 0.5)
        assert high >= np.percentile(values, 99.5)


def test_what_is_no_number_or_no_data_does_not_count(tmp_path: Path) -> None:
    values = default_rng(0).uniform(0, 1, (2, 50, 60)).astype(np.float32)
    values[:, :5], values[0, 20, :], values[1, 30, :] = np.nan, np.inf, -9999
    settings = raster_settings([write_raster(tmp_path / "image.tif", values, nodata=-9999)])
    assert settings["bands"] == 2
    assert settings["image_range"] == [pytest.approx((0, 1), abs=0.02)] * 2
    assert all(80 < mean < 140 for mean in settings["mean"])


def test_what_is_missing_or_damaged_is_left_out(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "image.tif", default_rng(0).integers(0, 4000, (5, 50, 60), dtype=np.uint16))
    (tmp_path / "damaged.tif").write_bytes(raster.read_bytes()[:500])
    missing = [tmp_path / f"{number}.tif" for number in range(20)]
    assert raster_settings([*missing, tmp_path / "damaged.tif", raster])["bands"] == 5
    assert raster_settings(missing) == {}
    assert raster_settings([tmp_path / "damaged.tif"]) == {}
    Image.new("RGB", (9, 9)).save(tmp_path / "colour.tif")
    assert raster_settings([tmp_path / "damaged.tif", tmp_path / "colour.tif"]) == {}
