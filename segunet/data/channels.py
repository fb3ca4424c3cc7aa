"""Check that the settings of an image's channels fit each other, and the files."""

from collections.abc import Sequence
from pathlib import Path

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.data.masks import MaskFormat
from segunet.data.transforms import TrainTransform
from segunet.images.levels import Range, channels_of, check_image_range
from segunet.images.rasters import opened_raster


def check_channel_settings(
    bands: int | None,
    image_range: Range,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    transform: TrainTransform | None,
) -> None:
    """Raise a UserError unless the settings of the images' channels fit each other, and what reads rasters is there."""
    check_image_range("data.image_range", image_range, bands)
    if bands is not None:
        import_extra("rasterio", "rasters")
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is not None and len(numbers) != (wanted := channels_of(bands)):
            raise UserError(f"data.{name} must have {wanted} numbers, one per channel; got {len(numbers)}.")
    if transform is not None and transform.bands != bands:
        raise UserError(f"data.transform.bands={transform.bands}: data.bands is {bands}. Set both to the same.")


def check_rasters(images: Sequence[Path], form: MaskFormat) -> None:
    """Raise a UserError if the values of the first raster have no black and white, or if it has other bands."""
    first = next((path for path in images if path.is_file()), None)
    if form.bands is not None and first is not None:
        with opened_raster(first, form.bands, form.image_range) as raster:
            raster.pixels(0, 1)
