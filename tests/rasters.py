"""Rasters and a data set of them, for tests."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

PLACE = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}


def write_raster(path: Path, values: NDArray[Any], **options: Any) -> Path:
    """Write values (C, H, W) as a GeoTIFF; with ``options`` of rasterio's own, such as PLACE."""
    count, height, width = values.shape
    form = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **form, **options) as file:
            file.write(values)
    return path


def write_raster_folder(root: Path, dtype: str, bands: int) -> Path:
    """Write 6 training and 3 validation rasters with a square, which the last band alone shows, in VOC's layout."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, (split, count) in enumerate((("train", 6), ("val", 3))):
        for number in range(count):
            rng, name = default_rng([seed, number]), f"{split}_{number}"
            mask = np.zeros((64, 64 + 8 * number), dtype=np.uint8)
            top, left = rng.integers(8, 40, 2)
            mask[top : top + 16, left : left + 16] = 1
            values = rng.normal(0.3, 0.03, (bands, *mask.shape))
            values[-1] += 0.3 * mask
            scale = {"uint8": 255, "uint16": 10_000, "float32": 1}[dtype]
            write_raster(root / "JPEGImages" / f"{name}.tif", (values * scale).astype(dtype), **PLACE)
            if dtype == "uint8":
                Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
            else:  # as programs for maps write them
                write_raster(root / "SegmentationClass" / f"{name}.tif", mask[None], **PLACE)
        names = [f"{split}_{number}\n" for number in range(count)]
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(names))
    return root
