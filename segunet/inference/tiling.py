"""Predict an image of any size in overlapping tiles, one row of tiles at a time, with blended seams."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.validation import check
from segunet.inference.logits import check_tta, class_scores, predict
from segunet.models.classic_unet import border_of

_MIN_TILE = 32  # pixels; one pixel of the encoder's coarsest map


class Rows(Protocol):
    """An image of which only some rows are in memory."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    def __call__(self, top: int, bottom: int) -> Tensor:
        """Return rows as uint8 (C, bottom - top, W), on the net's device."""


def check_tiles(tile: object, overlap: object) -> None:
    """Raise a UserError unless ``tile`` is None or at least 32, and ``overlap`` is in 0..0.9."""
    check("tile", tile, Annotated[int, Field(ge=_MIN_TILE)] | None)
    check("overlap", overlap, Annotated[float, Field(ge=0, le=0.9)])


def check_tile_alone(tile: int | None, inference_size: int | None) -> None:
    """Raise a UserError if both ``tile`` and ``inference_size`` are given."""
    if tile is not None and inference_size is not None:
        raise UserError(
            f"tile={tile} and inference_size={inference_size} cannot be combined: tiles are cut at the image's own "
            "size. Leave one of them out."
        )


@dataclass(frozen=True)
class Inference:
    """How images are predicted: whole or in tiles, with or without test-time augmentation.

    Attributes:
        tta: a key of ``inference.logits.TTA``.
        tile: side in pixels of the tiles that an image is cut into, at its own size; None for the whole image.
        overlap: minimum overlap of neighbouring tiles, as a share of a tile, 0..0.9.

    Raises:
        UserError: an unknown ``tta``, a ``tile`` or ``overlap`` out of range.
    """

    tta: str = "none"
    tile: int | None = None
    overlap: float = 0.25

    def __post_init__(self) -> None:
        check_tta(self.tta)
        check_tiles(self.tile, self.overlap)

    def predict(self, net: nn.Module, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the class of each pixel, int64 (N, *size).

        Args:
            net: in evaluation mode.
            images: uint8 (N, C, H, W), on the net's device; with tiles, of that ``size``.
            size: height and width of the prediction.
        """
        if self.tile is None:
            return predict(net, images, size, self.tta)
        rows = (predict_rows(net, image, self.tile, self.overlap, self.tta) for image in images)
        return torch.stack([torch.cat(list(each)) for each in rows])


def predict_rows(net: nn.Module, image: Tensor, tile: int, overlap: float, tta: str = "none") -> Iterator[Tensor]:
    """Yield the prediction from top to bottom, of :func:`score_rows`: int64 (h, W) for each row of tiles."""
    return (rows.argmax(dim=0) for rows in score_rows(net, image, tile, overlap, tta))


def score_rows(net: nn.Module, image: Tensor | Rows, tile: int, overlap: float, tta: str = "none") -> Iterator[Tensor]:
    """Yield the class scores from top to bottom: float (K, h, W) for each row of tiles, H rows in total.

    They are sums of probabilities, but an unpadded network's without test-time augmentation are logits. Each is valid
    until the next one is asked for.

    Where tiles overlap, their class probabilities are added with weights that decrease towards a tile's edge. Only
    one row of tiles is held in memory: K x tile x W floats. Unpadded networks use :func:`rows_in_context`.

    Args:
        net: in evaluation mode.
        image: uint8 (C, H, W), on the net's device.
        tile: side of the tiles in pixels; an image that is smaller in one direction has one tile there.
        overlap: minimum overlap of neighbouring tiles, as a share of a tile's side, 0..0.9.
        tta: a key of ``inference.logits.TTA``, for each tile.
    """
    if context_of(net):
        yield from rows_in_context(net, image, tile, tta)
        return
    height, width = image.shape[-2:]
    tops, lefts = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    size = (min(tile, height), min(tile, width))
    weights, band = _weights(size), torch.zeros(0)
    for top, next_top in zip(tops, [*tops[1:], height], strict=True):
        rows = _rows(image, top, top + size[0])
        for left in lefts:
            tiles = rows[None, ..., left : left + size[1]]
            scores = class_scores(net, tiles, size, tta)[0].float()  # (K, h, w)
            probabilities = scores.softmax(dim=0) if tta == "none" else scores
            if not band.numel():
                weights = weights.to(rows.device)
                band = torch.zeros(len(scores), size[0], width, device=rows.device)  # (K, h, W)
            band[:, :, left : left + size[1]] += weights * probabilities
        done = next_top - top
        yield band[:, :done]
        # Move the rows shared with the next tiles up.
        kept = size[0] - done
        band[:, :kept] = band[:, done:].clone()
        band[:, kept:] = 0


def context_of(net: nn.Module) -> int:
    """Return the number of pixels around a tile that an unpadded network needs, a multiple of its stride; else 0.

    It covers the pixels that a tile's scores depend on, and those that the network mirrors at the image's border.
    """
    border, stride = border_of(net), int(getattr(net, "stride", 1))
    return (border // stride + 2) * stride if border else 0


def _rows(image: Tensor | Rows, top: int, bottom: int) -> Tensor:
    return image[:, top:bottom] if isinstance(image, Tensor) else image(top, bottom)


def rows_in_context(net: nn.Module, image: Tensor | Rows, tile: int, tta: str = "none") -> Iterator[Tensor]:
    """Yield the class scores from top to bottom, float (K, h, W) for each row of tiles, by the overlap-tile strategy.

    Ronneberger et al. 2015, figure 2: each tile is predicted with its surroundings, and tiles do not overlap. The
    result equals the scores of the whole image, because tiles start at multiples of the network's stride.

    Args:
        net: an unpadded network with a ``border`` and a ``stride``, such as ``models.classic_unet.ClassicUNet``.
        image: uint8 (C, H, W), on the net's device.
        tile: side of the tiles in pixels, rounded down to a multiple of the stride.
        tta: a key of ``inference.logits.TTA``, for each tile.
    """
    context, stride = context_of(net), int(getattr(net, "stride"))  # noqa: B009
    step = max(tile // stride, 1) * stride
    for top, bottom, above, below in _with_context(image.shape[-2], step, context):
        row, rows = [], _rows(image, above, below)
        for left, right, before, behind in _with_context(image.shape[-1], step, context):
            tiles = rows[None, ..., before:behind]
            scores = class_scores(net, tiles, (below - above, behind - before), tta)[0]
            inner = scores[:, top - above : bottom - above, left - before : right - before]
            row.append(inner.clone())  # not to keep what is around it
        yield torch.cat(row, dim=2)


def _with_context(length: int, step: int, context: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the start and stop of each tile along a side, and the start and stop of the tile with its context."""
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield start, stop, max(start - context, 0), min(stop + context, length)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles start along a side of ``length`` pixels: evenly spaced, from end to end."""
    if length <= tile:
        return [0]
    step = max(int(tile * (1 - overlap)), 1)
    count = -((tile - length) // step) + 1
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _weights(size: tuple[int, int]) -> Tensor:
    """Return weights (h, w), highest at a tile's centre, above 0 everywhere."""
    vertical, horizontal = (torch.hann_window(side + 2, periodic=False)[1:-1].clamp(min=1e-3) for side in size)
    return vertical[:, None] * horizontal
