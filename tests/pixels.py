"""Images and masks to read, made for the tests."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segunet.images.palette import voc_palette

Pixels = NDArray[np.uint8]


def colours(height: int = 24, width: int = 40, seed: int = 0) -> Pixels:
    """A smooth image (H, W, 3), different in its four corners, that JPEG keeps to a few levels."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def indices(*values: int, height: int = 24, width: int = 40) -> Pixels:
    """A mask (H, W) that takes the values in turn."""
    return np.resize(np.array(values, dtype=np.uint8), (height, width))


def save_mask(path: Path, mask: NDArray[np.integer]) -> Path:
    """Save as VOC does: an index PNG with the palette."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(voc_palette().tobytes())
    image.save(path)
    return path
