"""Masks, predictions and confusion matrices as pictures. numpy in, numpy out.

Shapes: image uint8 (H, W, 3) RGB; mask (H, W), class index or the ignore index; palette uint8 (256, 3).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]


def colour_mask(mask: NDArray[np.integer[Any]], palette: Picture) -> Picture:
    """Return the mask in its classes' colours, (H, W, 3)."""
    return np.asarray(palette[mask])


def overlay(image: Picture, mask: NDArray[np.integer[Any]], palette: Picture, opacity: float = 0.6) -> Picture:
    """Return the image with every class but 0 laid over it in its colour, (H, W, 3)."""
    blended = (1 - opacity) * image + opacity * colour_mask(mask, palette)
    return np.where((mask > 0)[..., None], blended.round().astype(np.uint8), image)


def strip(
    image: Picture, truth: NDArray[np.integer[Any]], prediction: NDArray[np.integer[Any]], palette: Picture
) -> Picture:
    """Return image | truth | prediction side by side, (H, 3W + 2 gaps, 3), at the truth's size (H, W)."""
    height, width = truth.shape
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    gap = np.full((height, 4, 3), 255, dtype=np.uint8)
    return np.concatenate(
        [image, gap, overlay(image, truth, palette), gap, overlay(image, prediction, palette)], axis=1
    )


def stack(strips: Sequence[Picture]) -> Picture:
    """Put pictures of any size below each other on white, left-aligned."""
    canvas = np.full((sum(len(s) + 4 for s in strips), max(s.shape[1] for s in strips), 3), 255, dtype=np.uint8)
    top = 0
    for each in strips:
        canvas[top : top + len(each), : each.shape[1]] = each
        top += len(each) + 4
    return canvas


def palette_image(mask: NDArray[np.integer[Any]], palette: Picture) -> Image.Image:
    """Return the mask as an index image with the palette, as VOC's challenge server takes it."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(palette.tobytes())
    return picture


def confusion_picture(confusion: NDArray[np.integer[Any]], class_names: Sequence[str]) -> Picture:
    """Draw a confusion matrix (K, K): row = truth, column = prediction, each cell its share of the row in %."""
    cell, font = 34, ImageFont.load_default(size=13)
    names = _names_band(class_names, cell, font)
    left, size = names.width, names.height  # the matrix begins at (left, left)
    canvas = Image.new("RGB", (left + size + 10, left + size + 30), "white")
    canvas.paste(names, (0, left))
    canvas.paste(names.rotate(90, expand=True), (left, 0))
    draw = ImageDraw.Draw(canvas)
    caption = "row: truth; column: prediction; number: % of the row"
    draw.text((left + size, left + size + 8), caption, fill="black", font=font, anchor="ra")
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    for (row, column), share in np.ndenumerate(shares):
        x, y = left + column * cell, left + row * cell
        draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=_shade(share, bool(totals[row] > 0)))
        if share >= 0.005:
            ink = "white" if share > 0.5 else "black"
            draw.text((x + cell // 2, y + cell // 2), f"{100 * share:.0f}", fill=ink, font=font, anchor="mm")
    return np.asarray(canvas)


def _names_band(names: Sequence[str], cell: int, font: Any) -> Image.Image:
    """Write the names below each other, ``cell`` pixels apart."""
    width = int(max(font.getlength(name) for name in names)) + 20
    band = Image.new("RGB", (width, cell * len(names)), "white")
    draw = ImageDraw.Draw(band)
    for number, name in enumerate(names):
        draw.text((width - 8, number * cell + cell // 2), name, fill="black", font=font, anchor="rm")
    return band


def _shade(share: float, defined: bool) -> tuple[int, int, int]:
    """White to deep blue; grey for a class without pixels."""
    if not defined:
        return (225, 225, 225)
    return (round(247 - 239 * share), round(251 - 203 * share), round(255 - 148 * share))
