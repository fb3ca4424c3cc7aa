"""The U-Net's story in one image, for the README: cells, classes, and a denoiser at work.

Run: python -m tests.story_image CELLS_ROOT SAMPLE_ROOT SAMPLE.ckpt DENOISER.ckpt OUTPUT.png
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import segunet
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.voc import list_pairs
from segunet.images.drawing import ImageArray, colour_mask, labelled_grid, overlay
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import read_image
from segunet.losses.weight_map import BorderWeights
from tests.cells_image import coloured, heat, read_cells

SIDE = 128  # pixels of a panel
PROMPT = "square"


def cells(root: Path) -> dict[str, ImageArray]:
    """Return the panels of 2015: a part of an image of cells, at its own size."""
    image, mask, objects = read_cells(root)
    panels = {
        "cells": image,
        "their class map": colour_mask(mask, voc_palette()),
        "each cell": coloured(image, objects),
        "border weights": heat(BorderWeights()(objects)),
    }
    return {label: panel[:SIDE, :SIDE] for label, panel in panels.items()}


def classes(root: Path, checkpoint: str, number: int) -> dict[str, ImageArray]:
    """Return the panels of semantic segmentation, of a validation image."""
    pair, palette, model = list_pairs(root, "val")[number], voc_palette(), segunet.load(checkpoint)
    image = read_image(pair.image)
    truth = read_mask(pair.mask, image.shape[:2], MaskFormat(len(model.class_names), IGNORE_INDEX, palette))
    prediction = model.predict(image)
    return {
        "image": image,
        "class map": colour_mask(truth, palette),
        "classes found": colour_mask(prediction, palette),
        "overlay": overlay(image, prediction, model.colours),
    }


def film(checkpoint: str, seed: int) -> dict[str, ImageArray]:
    """Return the panels of an image that comes out of noise."""
    model = segunet.load(checkpoint)
    model.generate(PROMPT, seed=seed)
    steps, frames = model.film.steps, model.film.frames
    labels = ["noise", *(f"step {step}" for step in steps[1:-1]), f'"{PROMPT}"']
    return dict(zip(labels, frames, strict=True))


def main() -> None:
    """Write the image."""
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    cells_root, sample_root, segmentation, denoiser, output = sys.argv[1:]
    panels = cells(Path(cells_root)) | classes(Path(sample_root), segmentation, 0) | film(denoiser, 0)
    same_size = [
        np.asarray(cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
        for each in panels.values()
    ]
    Image.fromarray(labelled_grid(same_size, list(panels), columns=8)).save(output)


if __name__ == "__main__":
    main()
