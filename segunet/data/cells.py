"""The built-in cells: grey images of touching cells with thin borders, as in the U-Net's first task (2015).

The borders between touching cells are faint, and cells have streaks inside that resemble them, so that a network that
only counts pixels merges or splits cells.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segunet.data.built_in import BuiltIn
from segunet.images.objects import connected_objects

# Any change to the images must change this, so that an older folder is rewritten.
RECIPE = {"version": 1, "seed": 2015, "size": 512, "cells": 56, "train": 30, "val": 20}
_SMALLEST = 50  # pixels of a cell
_GAP = 2.5  # width in pixels of the border between touching cells
_FAR = 10.0  # in radii of a cell, which end at 1
_TOUCHING = 0.85  # probability that a cell is put beside another one
_Map = NDArray[np.float32]


def the_cells() -> BuiltIn:
    """Return the data set, of the recipe above."""
    return BuiltIn("cells", RECIPE, draw_cells, megabytes=8)


def draw_cells(rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one grey image uint8 (S, S), its mask uint8 (S, S), 1 for cells, and the number of each pixel's cell."""
    size = RECIPE["size"]
    cells, to_border = _arrange(rng, size)
    faintness = rng.uniform(0.2, 1.0, RECIPE["cells"] + 1).astype(np.float32)  # of each cell's border
    brightness = rng.uniform(0.42, 0.58, RECIPE["cells"] + 1).astype(np.float32)
    inside = brightness[cells] + _smooth_noise(rng, size, 6, 0.05) + _streaks(rng, size)
    inside -= 0.22 * faintness[cells] * np.exp(-((to_border / 2) ** 2))
    drawn = np.where(cells > 0, inside, _background(rng, size) + 0.25 * _halo(cells))
    image = cv2.GaussianBlur(drawn, (0, 0), 1.0) + rng.normal(0, 0.035, drawn.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), (cells > 0).astype(np.uint8), cells


def _arrange(rng: Generator, size: int) -> tuple[NDArray[np.uint8], _Map]:
    """Place the cells.

    Returns:
        the number of each pixel's cell (S, S), 0 for none; the distance in pixels to its cell's border, about.
    """
    nearest, second = (np.full((size, size), _FAR, dtype=np.float32) for _ in range(2))
    owner, radius_of = np.zeros((size, size), dtype=np.uint8), np.ones(RECIPE["cells"] + 1, dtype=np.float32)
    centres: list[NDArray[np.float64]] = []
    for number in range(1, RECIPE["cells"] + 1):
        radius_of[number] = rng.uniform(20, 36)
        centres.append(_place(rng, size, centres, radius_of))
        window, distance = _egg(rng, size, centres[-1], float(radius_of[number]))
        first, closer = nearest[window], distance < nearest[window]
        second[window] = np.minimum(second[window], np.where(closer, first, distance))
        owner[window][closer], first[closer] = number, distance[closer]
    radius = radius_of[owner]
    # To the cell's own outline, and to the line between it and its neighbour.
    to_border = np.minimum((1 - nearest) * radius, (second - nearest) * radius / 2 - _GAP / 2)
    return _in_one_piece(np.where(to_border > 0, owner, 0).astype(np.uint8)), to_border.clip(0)


def _in_one_piece(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Keep only the largest region of each cell, (S, S) -> (S, S), and no cell that is nearly hidden."""
    regions = connected_objects(cells, ignore_index=0)
    kept = np.zeros_like(cells)
    for number in np.unique(cells)[1:]:
        pixels = np.bincount(regions[cells == number])
        if pixels.max() >= _SMALLEST:
            kept[regions == pixels.argmax()] = number
    return kept


def _place(rng: Generator, size: int, centres: list[NDArray[np.float64]], radius: _Map) -> NDArray[np.float64]:
    """Choose the centre (y, x) of the next cell: mostly beside one that is there, and not upon one if there is room."""
    for _ in range(50):
        centre = rng.uniform(0, size, 2)
        if centres and rng.uniform() < _TOUCHING:
            beside = int(rng.integers(len(centres)))
            angle, reach = rng.uniform(0, 2 * np.pi), radius[beside + 1] + radius[len(centres) + 1]
            centre = centres[beside] + 0.85 * reach * np.array([np.sin(angle), np.cos(angle)])
        apart = [np.hypot(*(centre - other)) for other in centres]
        near = 0.8 * (radius[1 : len(centres) + 1] + radius[len(centres) + 1])
        if (centre >= 0).all() and (centre < size).all() and (np.array(apart) > near).all():
            return centre
    return centre


def _egg(rng: Generator, size: int, centre: NDArray[np.float64], radius: float) -> tuple[tuple[slice, slice], _Map]:
    """Return the surroundings of a cell, as slices of the image, and the distance to its ``centre`` there.

    The distance is a share of the distance to a wavy outline in that direction.
    """
    top, left = np.maximum(centre - 1.6 * radius, 0).astype(int).tolist()
    bottom, right = np.minimum(centre + 1.6 * radius, size).astype(int).tolist()
    y, x = np.mgrid[top:bottom, left:right] - centre.reshape(2, 1, 1)
    angle = np.arctan2(y, x)
    waves = sum(rng.uniform(0, 0.12) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    return np.s_[top:bottom, left:right], np.asarray(np.hypot(y, x) / (radius * (1 + waves)), dtype=np.float32)


def _background(rng: Generator, size: int) -> _Map:
    return np.asarray(0.32 + _smooth_noise(rng, size, 4, 0.05), dtype=np.float32)


def _smooth_noise(rng: Generator, size: int, waves: int, deviation: float) -> _Map:
    """Return noise (S, S) around 0 that varies ``waves`` times across the image."""
    grid = rng.normal(0, deviation, (waves, waves)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC))


def _streaks(rng: Generator, size: int) -> _Map:
    """Return short dark lines and bright grains (S, S), which lie within cells and are no borders."""
    marks = np.zeros((size, size), dtype=np.float32)
    for _ in range(160):
        start = rng.integers(0, size, 2)
        end = start + rng.integers(-14, 15, 2)
        cv2.line(marks, start.tolist(), end.tolist(), -float(rng.uniform(0.04, 0.14)), int(rng.integers(1, 4)))
    for _ in range(250):
        centre, radius = rng.integers(0, size, 2), int(rng.integers(1, 4))
        cv2.circle(marks, centre.tolist(), radius, float(rng.uniform(0.05, 0.15)), -1)
    return marks


def _halo(cells: NDArray[np.uint8]) -> _Map:
    """Return the bright rim (S, S) that a phase-contrast microscope shows around cells, 0..1."""
    distance = cv2.distanceTransform((cells == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.exp(-distance / 4), dtype=np.float32)
