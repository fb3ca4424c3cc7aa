"""Show what the border weight map does, for the README: image | cells | weights | found without them | with them.

Run: python -m tests.cells_image DATA_ROOT WITHOUT.ckpt WITH.ckpt OUTPUT.png
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import segunet
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.objects import read_objects
from segunet.data.voc import list_pairs
from segunet.images.drawing import ImageArray
from segunet.images.objects import connected_objects
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import read_image
from segunet.losses.weight_map import BorderWeights

SIDE = 256  # pixels, from the top left


def show(root: Path, checkpoints: list[str], output: Path) -> None:
    """Write the row of panels for the first validation image of the cells in ``root``."""
    image, _, objects = read_cells(root)
    found = [connected_objects(segunet.load(path).predict(image), IGNORE_INDEX) for path in checkpoints]
    panels = [
        image,
        coloured(image, objects),
        heat(BorderWeights()(objects)),
        *(coloured(image, each) for each in found),
    ]
    gap = np.full((SIDE, 6, 3), 255, dtype=np.uint8)
    row = [part for panel in panels for part in (gap, panel[:SIDE, :SIDE])][1:]
    Image.fromarray(np.concatenate(row, axis=1)).save(output)


def read_cells(root: Path) -> tuple[ImageArray, NDArray[np.uint8], NDArray[np.int32]]:
    """Return the first validation image (H, W, 3) of the cells in ``root``, its mask (H, W) and its objects (H, W)."""
    pair = list_pairs(root, "val", objects=True)[0]
    image = read_image(pair.image)
    mask = read_mask(pair.mask, image.shape[:2], MaskFormat(2, IGNORE_INDEX, voc_palette()))
    return image, mask, read_objects(pair, mask, IGNORE_INDEX)


def coloured(image: ImageArray, objects: NDArray[np.int32]) -> ImageArray:
    """Return the image (H, W, 3) with each object in a colour of its own."""
    hues = (objects * 67 % 180).astype(np.uint8)  # neighbours' numbers get hues far apart
    hsv = np.stack([hues, np.full_like(hues, 190), np.full_like(hues, 230)], axis=2)
    blended = cv2.addWeighted(image, 0.35, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0.65, 0)
    return np.where((objects > 0)[..., None], blended, image)


def heat(weights: NDArray[np.float32]) -> ImageArray:
    """Return the weights (H, W), 0..10, from black to white."""
    return np.asarray(cv2.cvtColor((25.5 * weights).astype(np.uint8), cv2.COLOR_GRAY2RGB))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: python -m tests.cells_image DATA_ROOT WITHOUT.ckpt WITH.ckpt OUTPUT.png")
    show(Path(sys.argv[1]), sys.argv[2:4], Path(sys.argv[4]))
