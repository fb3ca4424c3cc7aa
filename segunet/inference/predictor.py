"""A checkpoint ready to predict, used by ``python -m segunet.predict`` and in notebooks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segunet.base.environment import memory
from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.extras import import_extra
from segunet.base.failures import enough_memory
from segunet.formats.interface import AnyImages, Interface, check_gives_scores
from segunet.images.drawing import ImageArray, overlay_with_legend, rgb_of
from segunet.images.levels import Range, check_image_range, eight_bits, levels_of
from segunet.images.rasters import Raster, opened_raster, read_raster
from segunet.images.reading import as_rgb, read_image, readable
from segunet.images.resizing import check_inference_size, resize_long_side
from segunet.inference.checkpoint import FROM_CHECKPOINT, Checkpoint, check_augmentation
from segunet.inference.logits import TTA, as_probabilities, check_tta, class_scores
from segunet.inference.precision import fabric_from_settings, precision_for
from segunet.inference.tiling import check_tile_alone, check_tiles, context_of, score_rows

Source = str | Path | Image.Image | NDArray[np.uint8]
Sources = list[Source] | tuple[Source, ...]
Advance = Callable[[float], object]

# At least this many per pixel entering the network, in float32; unet_resnet50 took 458, article 800.
_BYTES_PER_PIXEL = 400

# How many copies of all class scores, float32, are held at most, without and with test-time augmentation.
# With these, 12 ways of predicting by unet_resnet50 (21 classes) took 0.8 to 1.4 times the estimate.
_COPIES, _COPIES_OF_TTA = 1, 4


class RasterRows:
    """The rows of an open raster, read when they are predicted."""

    def __init__(self, raster: Raster, device: torch.device) -> None:
        self._raster, self._device = raster, device
        self.shape = (raster.bands, *raster.size)
        self.empty = np.zeros(raster.size, dtype=bool)  # where no band has data, of the rows read so far

    def __call__(self, top: int, bottom: int) -> Tensor:
        """Return rows as uint8 (C, bottom - top, W), on the device."""
        pixels = self._raster.pixels(top, bottom)
        self.empty[top:bottom] = pixels.empty
        return as_tensor(pixels.values).to(self._device)


class Predictor:
    """A trained network that takes images of any size.

    Created by :func:`segunet.load`, which documents the settings. Attributes: ``class_names``, K names; ``palette``,
    uint8 (256, 3), the classes' colours; ``colours``, both of them and the class that is not painted.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        tta: str,
        tile: int | None,
        overlap: float,
        inference_size: int | Literal["checkpoint"] | None,
        image_range: Range | Literal["checkpoint"],
        accelerator: str,
        precision: str,
    ) -> None:
        check_tta(tta)
        check_tiles(tile, overlap)
        self.class_names, self.palette = checkpoint.class_names, checkpoint.colours.palette
        self.colours = checkpoint.colours
        self.tta, self.tile, self.overlap = tta, tile, overlap
        check_tile_alone(tile, None if inference_size == FROM_CHECKPOINT else inference_size)
        self.inference_size = checkpoint.inference_size if inference_size == FROM_CHECKPOINT else inference_size
        check_inference_size(self.inference_size)
        given = checkpoint.data.image_range if image_range == FROM_CHECKPOINT else image_range
        self.bands = checkpoint.data.bands
        if self.bands is not None:
            import_extra("rasterio", "rasters")
        self.image_range = check_image_range("image_range", given, self.bands)
        check_augmentation(checkpoint, tta)
        self.fabric = fabric_from_settings(accelerator, precision_for(checkpoint.net, precision))
        self.net = self.fabric.setup_module(checkpoint.net).eval()

    def __repr__(self) -> str:
        names, tiles = abbreviated(self.class_names), f", in tiles of {self.tile}" if self.tile else ""
        return (
            f"<segunet.Predictor of {len(self.class_names)} classes ({names}) on {self.fabric.device}{tiles}: "
            "predict(image), scores(image), show(image)>"
        )

    @overload
    def predict(self, image: Source, advance: Advance = ...) -> NDArray[np.uint8]: ...

    @overload
    def predict(self, image: Sources, advance: Advance = ...) -> list[NDArray[np.uint8]]: ...

    def predict(self, image: Source | Sources, advance: Advance = lambda _: None) -> Any:
        """Return the class of each pixel, uint8 (H, W), at the image's own size; of a list of images, a list.

        Args:
            image: a path, a PIL image, or uint8 (H, W, 3) RGB or (H, W) grey; or a list of them. For a network of
                rasters, a path or (H, W, bands), uint8 as the network gets it or of another type as in a file; pixels
                of a file without data have the ignored value.
            advance: called with the share of an image's pixels, 0..1, done since the last call.

        Raises:
            UserError: not a readable image, or out of memory.
        """
        if isinstance(image, list | tuple):
            return [self.predict(each, advance) for each in image]
        return self._predicted(image, advance, with_scores=False)[0]

    def scores(self, image: Source) -> NDArray[np.float32]:
        """Return the probability of each class at each pixel, float32 (K, H, W), at the image's own size.

        With test-time augmentation or tiles, their means. Raises as :meth:`predict`.
        """
        return self.predict_with_scores(image)[1]

    def predict_with_scores(
        self, image: Source, advance: Advance = lambda _: None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return what :meth:`predict` and :meth:`scores` do, at once."""
        check_gives_scores(self.net, "scores")
        mask, probabilities = self._predicted(image, advance, with_scores=True)
        assert probabilities is not None
        return mask, probabilities

    def show(self, image: Source) -> Image.Image:
        """Return the image overlaid with its prediction, with a legend of the classes found; raises as ``predict``.

        Notebooks display it; elsewhere use ``.save(PATH)`` or ``.show()``.
        """
        pixels = as_image(image, self.image_range, self.bands)
        drawn = overlay_with_legend(rgb_of(pixels, self.colours), self.predict(pixels), self.colours)
        return Image.fromarray(drawn)

    def _predicted(
        self, image: Source, advance: Advance, with_scores: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Return the mask uint8 (H, W) and, if wanted, the probabilities float32 (K, H, W)."""
        if self.bands is None or not isinstance(image, str | Path):
            pixels = as_image(image, self.image_range, self.bands)
            return self._predicted_at(pixels.shape[:2], pixels, advance, with_scores)
        path = Path(image).expanduser()
        if self.tile:
            with opened_raster(path, self.bands, self.image_range) as raster:
                rows = RasterRows(raster, self.fabric.device)
                mask, scores = self._predicted_at(raster.size, rows, advance, with_scores)
                mask[rows.empty] = self.colours.ignore_index
        else:
            values, empty = read_raster(path, self.bands, self.image_range)
            mask, scores = self._predicted_at(empty.shape, values, advance, with_scores)
            mask[empty] = self.colours.ignore_index
        return mask, scores

    def _predicted_at(
        self, size: tuple[int, int], image: ImageArray | RasterRows, advance: Advance, with_scores: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Return :meth:`_predicted` of an image of that ``size`` (H, W)."""
        height, width = size
        what, kept = f"for an image of {width} x {height} pixels at once", height * width if with_scores else 0
        with enough_memory(what, self._advice()), torch.inference_mode():
            scores = (
                self._whole(image, kept)
                if isinstance(image, np.ndarray) and not self.tile
                else self._tiled(image, kept)
            )
            mask = np.empty((height, width), dtype=np.uint8)
            probabilities = np.empty((len(self.class_names), height, width), np.float32) if with_scores else None
            are_logits = self.tta == "none" and (not self.tile or context_of(self.net) > 0)
            top = 0
            for rows in scores:  # (K, h, W)
                below = slice(top, top := top + rows.shape[1])
                mask[below] = rows.argmax(dim=0).to(torch.uint8).cpu().numpy()
                if probabilities is not None:
                    probabilities[:, below] = as_probabilities(rows, are_logits).cpu().numpy()
                advance(rows.shape[1] / height)
        return mask, probabilities

    def _whole(self, image: ImageArray, kept: int) -> Iterator[Tensor]:
        """Return the class scores of the whole image, as one row of tiles."""
        height, width = image.shape[:2]
        if self.inference_size is not None:
            image = resize_long_side(image, self.inference_size)
        self._check_memory("The whole image", image.shape[0] * image.shape[1], height * width, kept)
        yield class_scores(self.net, self._on_device(image)[None], (height, width), self.tta)[0]

    def _tiled(self, image: ImageArray | RasterRows, kept: int) -> Iterator[Tensor]:
        """Return the class scores of each row of tiles."""
        assert self.tile is not None
        whole = self._on_device(image) if isinstance(image, np.ndarray) else image
        height, width = (min(self.tile + 2 * context_of(self.net), side) for side in whole.shape[-2:])
        self._check_memory("A tile", height * width, height * width, kept, band=height * whole.shape[-1])
        yield from score_rows(self.net, whole, self.tile, self.overlap, self.tta)

    def _check_memory(self, what: str, entering: int, predicted: int, kept: int, band: int = 0) -> None:
        """Raise a UserError if memory would not suffice: the system overcommits and would kill the process.

        Args:
            what: name of what goes through the network at once.
            entering: number of its pixels as it enters the network.
            predicted: number of its predicted pixels.
            kept: number of pixels whose probabilities are returned.
            band: number of pixels in the row of tiles held in memory.
        """
        entering = round(entering * max(TTA[self.tta], default=1.0) ** 2)
        entering = max([each.pixels(entering) for each in self._interfaces()], default=entering)
        scores = 4 * len(self.class_names)  # bytes per pixel
        copies = _COPIES_OF_TTA if TTA[self.tta] else _COPIES
        # The classes are int64; two bands are held at a time.
        needed = _BYTES_PER_PIXEL * entering + (copies * scores + 8) * predicted + scores * (2 * band + kept)
        there = memory()
        if self.fabric.device.type == "cpu" and needed > there:
            raise UserError(
                f"{what} ({entering / 1e6:.3g} million pixels as it enters the network) would need about "
                f"{needed / 1e9:.2g} GB of memory at once, {there / 1e9:.2g} GB are free. {self._advice()}"
            )

    def _interfaces(self) -> list[Interface]:
        """Return those of exported networks of one number or size of images, or of masks."""
        return [each.interface for each in self.net.modules() if isinstance(each, AnyImages)]

    def _advice(self) -> str:
        return (
            f"Use smaller tiles than {self.tile}." if self.tile else "Predict it in tiles: tile=512, or smaller ones."
        )

    def _on_device(self, image: ImageArray) -> Tensor:
        return as_tensor(image).to(self.fabric.device)


def as_tensor(image: ImageArray) -> Tensor:
    """Return an image (H, W, C) as (C, H, W), a copy that torch can write to."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def as_image(image: Source, image_range: Range = None, bands: int | None = None) -> ImageArray:
    """Return an image as uint8 (H, W, 3) RGB, upright, or (H, W, bands); settings as in ``read_image``.

    Raises:
        UserError: unreadable, or an array of another shape or dtype.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image).expanduser(), image_range, bands)
    if isinstance(image, Image.Image) and bands is None:
        name = getattr(image, "filename", "") or "the image"
        with readable(Path(name), "image"):
            return as_rgb(image, name, image_range)
    if isinstance(image, np.ndarray) and bands is not None and image.ndim == 3 and image.shape[2] == bands:
        return _scaled(image, image_range)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 2 and bands is None:
            return np.repeat(image[..., None], 3, axis=2)
        if image.ndim == 3 and image.shape[2] == 3 and bands is None:
            return np.ascontiguousarray(image)
    got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    if bands is not None:
        wanted = f"the path of a raster of {counted(bands, 'band')}, or an array (H, W, {bands}) of its values"
        raise UserError(f"Wanted {wanted}, got {got}. Of an array (bands, H, W) give numpy.moveaxis(array, 0, -1).")
    raise UserError(f"Wanted a path, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W) grey, got {got}.")


def _scaled(image: NDArray[Any], image_range: Range) -> ImageArray:
    """Return values (H, W, bands) as uint8, unless they are that already."""
    levels = [None] * image.shape[2] if image.dtype == np.uint8 else levels_of(image_range, image.shape[2])
    try:
        return np.dstack([eight_bits(image[..., band], each) for band, each in enumerate(levels)])
    except (ValueError, TypeError) as error:
        raise UserError(f"The image is an array of {error}: give load(..., image_range=[LOW, HIGH]).") from error
