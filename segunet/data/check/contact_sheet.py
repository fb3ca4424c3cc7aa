"""A contact sheet of examples of both lists, overlaid with their masks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import default_rng
from PIL import Image, ImageDraw, ImageFont

from segunet.base.errors import UserError
from segunet.data.check.findings import KINDS
from segunet.data.check.survey import Split, Survey
from segunet.data.masks import read_mask
from segunet.data.voc import Pair
from segunet.images.drawing import ImageArray, legend_of_shares, overlay, rgb_of, stack
from segunet.images.reading import read_image

_COLUMNS = 6
_WIDTH, _HEIGHT, _GAP, _LINE = 240, 200, 6, 18  # in pixels: a tile's image, the gap between tiles, a line of text
_NO_IMAGE = ("missing", "unreadable")
_FONT = ImageFont.load_default(size=13)


def contact_sheet(survey: Survey, count: int, seed: int) -> ImageArray:
    """Draw ``count`` examples of each list and the legend of all classes, uint8 (H, W, 3).

    Up to half of them are examples with an error or a warning, which is written below them in red.

    Args:
        survey: finished survey of the data set.
        count: examples per list.
        seed: determines which of the other examples are drawn.
    """
    rows = []
    for split in survey.splits:
        troubles = troubles_of(survey, split)
        pairs = chosen(split.pairs, troubles, count, seed)
        rows.append(_heading(f"{split.role}: {len(pairs)} of {len(split.pairs)} examples of {split.path.name}"))
        tiles = [_tile(pair, survey, troubles.get(pair.name)) for pair in pairs]
        rows += [np.concatenate(tiles[start : start + _COLUMNS], axis=1) for start in range(0, len(tiles), _COLUMNS)]
    pixels = np.sum([split.pixels for split in survey.splits], axis=0)
    if pixels.any():
        rows.append(_heading("classes and their shares of the pixels"))
        rows.append(legend_of_shares(pixels, survey.colours, rows[0].shape[1]))
    return stack(rows)


def troubles_of(survey: Survey, split: Split) -> dict[str, str]:
    """Return the names on the list with an error or a warning, and the kind of the first one of each."""
    serious = survey.of_severity("error") + survey.of_severity("warning")
    kinds = {each.file: each.kind for each in reversed(serious) if each.split == split.role}
    return {pair.name: kinds[path] for pair in split.pairs for path in (pair.mask, pair.image) if path in kinds}


def chosen(pairs: Sequence[Pair], troubles: Mapping[str, str], count: int, seed: int) -> list[Pair]:
    """Return ``count`` of the pairs, or all: first up to half of them with troubles, then others.

    The kinds of trouble take turns; within a turn, examples with a visible overlay come first, those without an image
    last.
    """
    turns: Counter[str] = Counter()
    troubled: list[tuple[int, bool, bool, Pair]] = []
    for pair in pairs:
        if kind := troubles.get(pair.name):
            turns[kind] += 1
            troubled.append((turns[kind], kind in _NO_IMAGE, KINDS[kind].severity == "error", pair))
    others = [pair for pair in pairs if pair.name not in troubles]
    shown = [pair for *_, pair in sorted(troubled)][: max(math.ceil(count / 2), count - len(others))]
    drawn = default_rng(seed).choice(len(others), min(len(others), count - len(shown)), replace=False)
    return shown + [others[index] for index in sorted(drawn.tolist())]


def _tile(pair: Pair, survey: Survey, trouble: str | None) -> ImageArray:
    """Draw an example with its name and its problem below."""
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT + 2 * _LINE), "white")
    draw = ImageDraw.Draw(canvas)
    image = _overlaid(pair, survey)
    if image is None:
        draw.rectangle((0, 0, _WIDTH - _GAP, _HEIGHT - 1), fill="lightgrey")
    else:
        height, width = image.shape[:2]
        scale = min((_WIDTH - _GAP) / width, _HEIGHT / height)
        small = Image.fromarray(image).resize((max(round(width * scale), 1), max(round(height * scale), 1)))
        canvas.paste(small, (0, _HEIGHT - small.height))
    draw.text((0, _HEIGHT), _shortened(pair.name), fill="black", font=_FONT)
    if trouble is not None:
        draw.text((0, _HEIGHT + _LINE), _shortened(KINDS[trouble].title), fill="red", font=_FONT)
    return np.asarray(canvas)


def _overlaid(pair: Pair, survey: Survey) -> ImageArray | None:
    """Return the image overlaid with its mask, the image alone if the mask is invalid, or None."""
    try:
        read = read_image(pair.image, survey.form.image_range, survey.form.bands)
        image = rgb_of(read, survey.colours)
    except UserError:
        return None
    try:
        return overlay(image, read_mask(pair.mask, image.shape[:2], survey.form), survey.colours)
    except UserError:
        return image


def _heading(text: str) -> ImageArray:
    canvas = Image.new("RGB", (_COLUMNS * _WIDTH, 2 * _LINE), "white")
    ImageDraw.Draw(canvas).text((0, _LINE), text, fill="black", font=_FONT, anchor="lm")
    return np.asarray(canvas)


def _shortened(text: str) -> str:
    """Cut the text to a tile's width."""
    fits = text
    while _FONT.getlength(fits) > _WIDTH - _GAP:
        fits = f"{fits[:-2]}\N{HORIZONTAL ELLIPSIS}"
    return fits
