"""The colours of classes: PASCAL VOC's palette and ignore index, and what is drawn of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segunet.images.levels import Channels

IGNORE_INDEX = 255
_BACKGROUND = "background"


def voc_palette() -> NDArray[np.uint8]:
    """Return VOC's colour map, uint8 (256, 3) RGB; entry 255, the ignored border, is cream white.

    The bits of the class index are distributed over R, G and B, three at a time, from the highest colour
    bit down (VOC2012 development kit, ``VOClabelcolormap``).
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = index >> (3 * level + channel) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


@dataclass(frozen=True)
class ClassColours:
    """How masks are drawn: every pixel in the colour of its value, but for the background, which is not painted.

    Attributes:
        names: K names.
        palette: uint8 (256, 3), the colour of each mask value; ignored pixels have their own.
        ignore_index: mask value of ignored pixels, a class or not.
        background: index of the class that is not painted; None if all are. Ignored pixels are always painted.
        channels: those of an image that are drawn as red, green and blue; None for the first ones.
    """

    names: Sequence[str]
    palette: NDArray[np.uint8]
    ignore_index: int
    background: int | None
    channels: Channels | None = None

    def ignoring(self, index: int, colour: NDArray[np.uint8]) -> Self:
        """Return these colours for masks in which ignored pixels are ``index``, drawn in ``colour``, uint8 (3,)."""
        palette = self.palette.copy()
        if index >= len(self.names):
            palette[index] = colour
        return replace(self, palette=palette, ignore_index=index)

    @property
    def painted(self) -> NDArray[np.bool_]:
        """Whether each mask value is painted, bool (256,)."""
        bare = -1 if self.background in (None, self.ignore_index) else self.background
        return np.asarray(np.arange(256) != bare, dtype=np.bool_)

    @property
    def drawn(self) -> NDArray[np.uint8]:
        """The palette of overlays and legends: what would be painted black, which looks like a shadow, is white."""
        drawn = self.palette.copy()
        drawn[(drawn == 0).all(axis=1) & self.painted] = 255
        return drawn

    @property
    def labels(self) -> dict[int, str]:
        """The text in a legend of each mask value: the class's name, or "ignored"."""
        labels = dict(enumerate(self.names))
        name = labels.get(self.ignore_index)
        return labels | {self.ignore_index: "ignored" if name is None else f"{name} (ignored)"}


def background_of(names: Sequence[str], given: str | None = None) -> int | None:
    """Return the index of the class that is not painted: the ``given`` one, else the one called background, if any."""
    if given is not None:
        return list(names).index(given)
    plain = [name.strip("_ ").casefold() for name in names]  # labelme calls it _background_
    return plain.index(_BACKGROUND) if _BACKGROUND in plain else None
