"""The built-in sample: a folder in VOC's layout with synthetic images, generated once from a seed.

Each class is a shape. Colour and texture are hints only (an object has its class's hue with probability
``OWN_HUE`` and its texture with ``OWN_TEXTURE``, otherwise random ones); objects overlap, vary in size and
rotation, and lie among background clutter of the same colours.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segunet.data.built_in import BuiltIn
from segunet.images.palette import IGNORE_INDEX

# Any change to the images must change this, so that an older folder is rewritten.
RECIPE = {"version": 1, "seed": 2012, "size": 64, "train": 1600, "val": 160}
OWN_HUE = 0.5
OWN_TEXTURE = 0.75
_OVERSAMPLING = 3  # drawn this many times larger, then averaged
_MAX_OBJECTS = 2


def the_sample() -> BuiltIn:
    """Return the data set, of the recipe above."""
    return BuiltIn("sample", RECIPE, draw_example, megabytes=15)


def draw_example(rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image uint8 (S, S, 3) RGB and its mask uint8 (S, S), S = RECIPE["size"]."""
    size = RECIPE["size"]
    large = size * _OVERSAMPLING
    canvas = _background(rng, large)
    mask = np.zeros((large, large), dtype=np.uint8)
    for _ in range(rng.integers(4, 10)):
        _draw_clutter(rng, canvas)
    for _ in range(rng.integers(1, _MAX_OBJECTS + 1)):
        _draw_object(rng, canvas, mask)
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    image = image + rng.normal(0, 0.02, image.shape)
    small = mask[_OVERSAMPLING // 2 :: _OVERSAMPLING, _OVERSAMPLING // 2 :: _OVERSAMPLING].copy()
    small[_border(small)] = IGNORE_INDEX
    return (image.clip(0, 1) * 255).round().astype(np.uint8), small


def _colour(rng: Generator, hue: float) -> NDArray[np.float64]:
    """Return a float RGB triple in 0..1 of that hue (1 is a full circle), with random saturation and value."""
    hsv = np.array([[[hue % 1 * 360, rng.uniform(0.35, 0.9), rng.uniform(0.45, 0.95)]]], dtype=np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], dtype=np.float64)


def _background(rng: Generator, size: int) -> NDArray[np.float64]:
    """Blend four random corner colours, (size, size, 3) in 0..1."""
    corners = np.stack([_colour(rng, rng.uniform()) * 0.6 + 0.2 for _ in range(4)]).reshape(2, 2, 3)
    return np.asarray(cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR))


def _draw_clutter(rng: Generator, canvas: NDArray[np.float64]) -> None:
    """Draw a line or a small ragged patch that belongs to the background."""
    size = len(canvas)
    colour = tuple(_colour(rng, rng.uniform()))
    start = rng.integers(0, size, 2)
    if rng.uniform() < 0.5:
        end = start + rng.integers(-size // 3, size // 3, 2)
        cv2.line(canvas, start.tolist(), end.tolist(), colour, int(rng.integers(3, 10)))
    else:
        patch = start + rng.integers(-size // 14, size // 14, (6, 2))
        cv2.fillPoly(canvas, [patch.astype(np.int32)], colour)


def _draw_object(rng: Generator, canvas: NDArray[np.float64], mask: NDArray[np.uint8]) -> None:
    """Draw one object on top, on the canvas (S, S, 3) and the mask (S, S)."""
    size = len(canvas)
    index = int(rng.integers(len(_SHAPES)))
    turn = rng.uniform(-0.3, 0.3)  # radians
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    radius = size * rng.uniform(0.26, 0.45)
    centre = rng.uniform(0.25, 0.75, 2) * size
    outlines = [(points @ rotation.T * radius + centre).astype(np.int32) for points in _SHAPES[index][1]]
    inside = np.zeros((size, size), dtype=np.uint8)
    cv2.fillPoly(inside, outlines, 1)
    hue = (index + rng.uniform(0.0, 0.8)) / len(_SHAPES) if rng.uniform() < OWN_HUE else rng.uniform()
    kind = index if rng.uniform() < OWN_TEXTURE else int(rng.integers(len(_SHAPES)))
    y, x = np.nonzero(inside)
    canvas[y, x] = _colour(rng, hue) + _texture(rng, size, kind, y, x)[:, None]
    mask[y, x] = index + 1


def _texture(rng: Generator, size: int, kind: int, y: NDArray[np.int_], x: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return a faint pattern around 0 at the pixels (y, x): one of six, of random phase and width."""
    per_pixel, phase = 2 * np.pi / (size * rng.uniform(0.08, 0.16)), rng.uniform(0, 6)
    v, u = y * per_pixel + phase, x * per_pixel + phase
    waves = (
        lambda: np.zeros_like(u),
        lambda: np.sin(u),
        lambda: np.sin(v),
        lambda: np.sin(u + v),
        lambda: np.sin(u) * np.sin(v),
        lambda: np.sin(u - v),
    )
    return np.asarray(0.15 * waves[kind]())


def _border(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark the pixels (S, S) with another class among their neighbours."""
    kernel = np.ones((3, 3), dtype=np.uint8)
    return np.asarray(cv2.dilate(mask, kernel) != cv2.erode(mask, kernel))


def _polygon(*radii: float, phase: float = 0.0) -> NDArray[np.float64]:
    """Return corners (n, 2) around the origin, one per radius, the first one at the top."""
    angles = phase - np.pi / 2 + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(np.asarray(radii)[:, None] * directions)


def _cross() -> NDArray[np.float64]:
    arm, side = 1.1, 0.33
    quarter = np.array([[-side, -arm], [side, -arm], [side, -side]])
    turns = [np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), number) for number in range(4)]
    return np.concatenate([quarter @ turn.T for turn in turns])


# Name and outlines (unit radius; a second outline is a hole), in the order of the class indices 1, 2, ...
_SHAPES = [
    ("disc", [_polygon(*[0.95] * 60)]),
    ("square", [_polygon(*[1.1] * 4, phase=np.pi / 4)]),
    ("triangle", [_polygon(*[1.25] * 3)]),
    ("star", [_polygon(*[1.25, 0.5] * 5)]),
    ("ring", [_polygon(*[1.0] * 60), _polygon(*[0.5] * 60)]),
    ("cross", [_cross()]),
]
