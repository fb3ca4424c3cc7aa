"""Draw masks, predictions and confusion matrices; NumPy arrays in and out.

Shapes: image uint8 (H, W, 3); mask (H, W), class index or the ignore index. Masks are drawn by one rule, that of
:class:`ClassColours`: every pixel in its value's colour, ignored ones too, but for the background's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segunet.images.levels import first_channels
from segunet.images.palette import ClassColours

ImageArray = NDArray[np.uint8]
_WRONG = (220, 20, 20)


def colour_mask(mask: NDArray[np.integer[Any]], palette: ImageArray) -> ImageArray:
    """Return the mask in its classes' colours, (H, W, 3); the palette is uint8 (256, 3)."""
    return np.asarray(palette[mask])


def overlay(
    image: ImageArray, mask: NDArray[np.integer[Any]], colours: ClassColours, opacity: float = 0.6
) -> ImageArray:
    """Return the image overlaid with the mask's colours, (H, W, 3)."""
    blended = cv2.addWeighted(image, 1 - opacity, colour_mask(mask, colours.drawn), opacity, 0)
    return np.where(colours.painted[mask][..., None], blended, image)


def differences(
    image: ImageArray, truth: NDArray[np.integer[Any]], prediction: NDArray[np.integer[Any]], colours: ClassColours
) -> ImageArray:
    """Return the image in pale grey, red where the prediction is wrong, in their colour where pixels are ignored."""
    pale = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2 + 100, cv2.COLOR_GRAY2RGB)
    red = cv2.addWeighted(pale, 0.35, np.full_like(pale, _WRONG), 0.65, 0)
    drawn = np.where((prediction != truth)[..., None], red, pale)
    drawn[truth == colours.ignore_index] = colours.drawn[colours.ignore_index]
    return drawn


def rgb_of(image: ImageArray, colours: ClassColours) -> ImageArray:
    """Return what is shown of an image or raster uint8 (H, W, C), uint8 (H, W, 3)."""
    channels = colours.channels or first_channels(image.shape[2])
    return image if channels == (*range(image.shape[2]),) else np.ascontiguousarray(image[..., channels])


def at_size_of(mask: NDArray[np.integer[Any]], image: ImageArray, colours: ClassColours) -> ImageArray:
    """Return what is shown of the image (h, w, C) at the mask's size, (H, W, 3), resized bilinearly if it differs."""
    height, width = mask.shape
    image = rgb_of(image, colours)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def strip(
    image: ImageArray, truth: NDArray[np.integer[Any]], prediction: NDArray[np.integer[Any]], colours: ClassColours
) -> ImageArray:
    """Return image | truth | prediction side by side, at the truth's size (H, W), above a legend of what is in them.

    (H + h, 3W + 2 gaps, 3), or wider if a name is long.
    """
    image = at_size_of(truth, image, colours)
    gap = np.full((len(truth), 4, 3), 255, dtype=np.uint8)
    row = np.concatenate([image, gap, overlay(image, truth, colours), gap, overlay(image, prediction, colours)], axis=1)
    names = _entries(colours)
    found = {int(index): names[index] for index in np.union1d(truth, prediction)}
    return stack([row, legend(found, colours, row.shape[1], text_size=11)])


def stack(strips: Sequence[ImageArray]) -> ImageArray:
    """Stack images of any size vertically on white, left-aligned."""
    canvas = np.full((sum(len(s) + 4 for s in strips), max(s.shape[1] for s in strips), 3), 255, dtype=np.uint8)
    top = 0
    for each in strips:
        canvas[top : top + len(each), : each.shape[1]] = each
        top += len(each) + 4
    return canvas


def legend(entries: Mapping[int, str], colours: ClassColours, width: int, text_size: int = 14) -> ImageArray:
    """Draw a legend of texts beside their colours, uint8 (h, width, 3).

    The background has an empty box, as :func:`overlay` does not paint it.

    Args:
        entries: text by mask value, in drawing order.
        colours: the classes' colours.
        width: minimum width in pixels; entries wrap to the next line, and the legend is at least as wide as its
            longest entry.
        text_size: in pixels.
    """
    font, line, box = ImageFont.load_default(size=text_size), 2 * text_size, text_size
    lengths = {index: box + text_size // 2 + int(font.getlength(text)) + text_size for index, text in entries.items()}
    width = max([width, *(text_size + length for length in lengths.values())])
    places, x, y = [], text_size, 0
    for index, text in entries.items():
        if x + lengths[index] > width:
            x, y = text_size, y + line
        places.append((x, y, index, text))
        x += lengths[index]
    canvas = Image.new("RGB", (width, y + line), "white")
    draw, painted, drawn = ImageDraw.Draw(canvas), colours.painted, colours.drawn
    for x, y, index, text in places:
        corners = (x, y + line // 2 - box // 2, x + box, y + line // 2 + box // 2)
        fill = tuple(drawn[index].tolist()) if painted[index] else "white"
        draw.rectangle(corners, fill=fill, outline="black")
        draw.text((x + box + text_size // 2, y + line // 2), text, fill="black", font=font, anchor="lm")
    return np.asarray(canvas)


def legend_of_shares(counts: NDArray[np.int64], colours: ClassColours, width: int, text_size: int = 14) -> ImageArray:
    """Return the :func:`legend` of the mask values found, with their shares of the pixels, the largest first.

    ``counts`` are the pixels of each value, int64 (256,); those that are neither a class nor ignored are left out.
    """
    names = _entries(colours)
    known = [index for index in names if counts[index]]
    total = counts[known].sum()
    found = sorted(known, key=lambda index: -counts[index])
    entries = {index: f"{names[index]} {_percent(counts[index] / total)}" for index in found}
    return legend(entries, colours, width, text_size)


def frame_legend(found: Sequence[int], colours: ClassColours, width: int) -> ImageArray:
    """Return the :func:`legend` of the classes ``found`` in a video frame: two lines, of the same size for all frames.

    It is as wide as the frame or as the longest name; entries that do not fit are omitted.
    """
    names = {index: text for index, text in _entries(colours).items() if index < len(colours.names)}
    width = legend(names, colours, width).shape[1]
    drawn = legend({index: names[index] for index in found}, colours, width)
    canvas = np.full((2 * len(legend({0: ""}, colours, width)), width, 3), 255, dtype=np.uint8)
    canvas[: len(drawn)] = drawn[: len(canvas)]
    return canvas


def _entries(colours: ClassColours) -> dict[int, str]:
    """Return the text of each mask value, as the font can draw it."""
    values, texts = zip(*colours.labels.items(), strict=True)
    return dict(zip(values, drawable(texts), strict=True))


def drawable(names: Sequence[str]) -> list[str]:
    """Return the class names, with "class 3" for one with letters that Pillow's font does not have."""
    absent = _absent_letters("".join(names))
    return [f"class {index}" if absent.intersection(name) else name for index, name in enumerate(names)]


def drawable_text(text: str) -> str:
    """Return a text with "?" for each letter that Pillow's font does not have."""
    return text.translate(dict.fromkeys(map(ord, _absent_letters(text)), "?"))


def _absent_letters(text: str) -> set[str]:
    font = ImageFont.load_default(size=14)
    box = bytes(font.getmask("\uffff"))  # drawn for a missing letter
    return {letter for letter in set(text) if bytes(font.getmask(letter)) == box}


def overlay_with_legend(image: ImageArray, mask: NDArray[np.uint8], colours: ClassColours) -> ImageArray:
    """Return :func:`overlay` above a :func:`legend` of the classes found, (H + h, W or more, 3)."""
    height, width = mask.shape
    text_size = max(13, min(max(height, width) // 60, width // 16))
    counts = np.bincount(mask.ravel(), minlength=256)
    below = legend_of_shares(counts, colours, width, text_size)
    return stack([overlay(image, mask, colours), below])


def palette_image(mask: NDArray[np.integer[Any]], palette: ImageArray) -> Image.Image:
    """Return the mask as an index image with the palette, as VOC's challenge server expects it."""
    indexed = Image.fromarray(mask.astype(np.uint8))
    indexed.putpalette(palette.tobytes())
    return indexed


def confusion_image(confusion: NDArray[np.integer[Any]], class_names: Sequence[str]) -> ImageArray:
    """Draw a confusion matrix (K, K): row = truth, column = prediction, each cell its share of the row in %."""
    cell, font = 34, ImageFont.load_default(size=13)
    rows, columns = (_labels(drawable(class_names), cell, font, right) for right in (True, False))
    left, size = rows.width, rows.height  # the matrix starts at (left, left)
    caption = "row: truth; column: prediction; number: % of the row"
    width = max(left + size + 10, int(font.getlength(caption)) + 20)
    canvas = Image.new("RGB", (width, left + size + 30), "white")
    canvas.paste(rows, (0, left))
    canvas.paste(columns.rotate(90, expand=True), (left, 0))  # their left ends, at the matrix
    draw = ImageDraw.Draw(canvas)
    draw.text((width - 10, left + size + 8), caption, fill="black", font=font, anchor="ra")
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    for (row, column), share in np.ndenumerate(shares):
        x, y = left + column * cell, left + row * cell
        draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=_shade(share, bool(totals[row] > 0)))
        if share >= 0.005:
            ink = "white" if share > 0.5 else "black"
            draw.text((x + cell // 2, y + cell // 2), f"{100 * share:.0f}", fill=ink, font=font, anchor="mm")
    return np.asarray(canvas)


def labelled_grid(
    images: Sequence[ImageArray], labels: Sequence[str], columns: int | None = None, least: int = 64
) -> ImageArray:
    """Draw images of one size in a grid on white, uint8 (h, w, 3), each enlarged to at least ``least`` pixels.

    Args:
        images: uint8 (H, W, 3).
        labels: a text below each image, or a single one, the title above the grid.
        columns: images in a row; None for a grid that is about as wide as high.
        least: shortest side of an image in the grid, in pixels.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    side = max(1, math.ceil(least / min(images[0].shape[:2])))  # how many times as large
    height, width = (side * length for length in images[0].shape[:2])
    gap, line, font = 4, 18, ImageFont.load_default(size=12)
    title = line if len(labels) == 1 else 0
    below = 0 if title else line
    texts = [drawable_text(label) for label in labels]
    rows = math.ceil(len(images) / columns)
    total = max(columns * (width + gap), int(font.getlength(texts[0])) + gap if title else 0) + gap
    canvas = Image.new("RGB", (total, title + rows * (height + below + gap) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((gap, 2), texts[0], fill="black", font=font)
    for number, image in enumerate(images):
        x, y = gap + number % columns * (width + gap), title + gap + number // columns * (height + below + gap)
        canvas.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (x, y))
        if below:
            draw.text((x + width // 2, y + height + 2), texts[number], fill="black", font=font, anchor="ma")
    return np.asarray(canvas)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"


def _labels(names: Sequence[str], cell: int, font: Any, right: bool) -> Image.Image:
    """Draw the names as rows, ``cell`` pixels apart, aligned at the right or at the left."""
    width = int(max(font.getlength(name) for name in names)) + 20
    band = Image.new("RGB", (width, cell * len(names)), "white")
    draw = ImageDraw.Draw(band)
    for number, name in enumerate(names):
        x, anchor = (width - 8, "rm") if right else (8, "lm")
        draw.text((x, number * cell + cell // 2), name, fill="black", font=font, anchor=anchor)
    return band


def _shade(share: float, defined: bool) -> tuple[int, int, int]:
    """White to deep blue; grey for a class without pixels."""
    if not defined:
        return (225, 225, 225)
    return (round(247 - 239 * share), round(251 - 203 * share), round(255 - 148 * share))
