"""The built-in sample: a folder in VOC's layout with synthetic images, generated once from a seed.

Each class is a shape. Colour and texture are hints only (an object has its class's hue with probability
``OWN_HUE`` and its texture with ``OWN_TEXTURE``, otherwise random ones); objects overlap, vary in size and
rotation, and lie among background clutter of the same colours.
"""

import json
import logging
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image

from segunet.base.errors import UserError
from segunet.base.terminal import setting
from segunet.images.palette import IGNORE_INDEX, voc_palette

logger = logging.getLogger(__name__)

# Any change to the images must change this, so that an older folder is rewritten.
RECIPE = {"version": 1, "seed": 2012, "size": 64, "train": 1600, "val": 160}
OWN_HUE = 0.5
OWN_TEXTURE = 0.75
_OVERSAMPLING = 3  # drawn this many times larger, then averaged
_MAX_OBJECTS = 2
_OWN = {"JPEGImages", "SegmentationClass", "ImageSets", "sample.json"}  # contents of the sample's folder


def write_sample(root: Path) -> None:
    """Write the sample into ``root``, unless it exists already; a killed call leaves no partial sample.

    Args:
        root: folder for JPEGImages, SegmentationClass and ImageSets.

    Raises:
        UserError: ``root`` holds other files, or is not writable.
    """
    if _is_current(root):
        return
    try:
        _write_sample(root)
    except OSError as error:
        raise UserError(
            f"data.root={root}: the built-in sample (15 MB) cannot be written there: {error.strerror or error}. Free "
            "some space, or give another folder."
        ) from error


def check_sample(root: Path) -> None:
    """Raise a UserError if ``root`` holds another version of the sample, which :func:`write_sample` replaces."""
    if (root / "sample.json").exists() and not _is_current(root):
        raise UserError(
            f"data.root={root} holds another version of the built-in sample, and data to score are never "
            "overwritten. To score the checkpoint's own data, leave data=sample out; to use this "
            f"version's: python -m segunet.check_data data=sample {setting('data.root', root)}, or another data.root."
        )


def _write_sample(root: Path) -> None:
    root = root.resolve()  # keeps a link
    there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if there and not ("sample.json" in there and there <= _OWN):
        raise UserError(
            f"data.root={root} is for the built-in sample, but contains other files. "
            "They were not changed. Choose data=voc2012 or data=custom for a folder of your own."
        )
    if (root / "sample.json").is_file():
        logger.info("the sample in %s is of another version and is rewritten", root)
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (draft / folder).mkdir(parents=True)
        for split in ("train", "val"):
            _write_split(draft, split)
        (draft / "sample.json").write_text(json.dumps(RECIPE))
        _move_into_place(draft, root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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


def _is_current(root: Path) -> bool:
    try:
        return bool(json.loads((root / "sample.json").read_text()) == RECIPE)
    except (OSError, ValueError):
        return False


def _move_into_place(draft: Path, root: Path) -> None:
    """Move ``draft`` to ``root``, unless another process was faster."""
    draft.chmod(0o755)
    outdated = draft.with_name(f"{draft.name}-outdated")
    try:
        if root.exists() and not _is_current(root):
            root.replace(outdated)
        draft.replace(root)
    except OSError:
        if not _is_current(root):
            raise
    finally:
        shutil.rmtree(outdated, ignore_errors=True)


def _write_split(root: Path, split: str) -> None:
    count = RECIPE[split]
    names = [f"{split}_{number:04d}" for number in range(count)]
    palette = voc_palette().tobytes()
    for number, name in enumerate(names):
        image, mask = draw_example(default_rng([RECIPE["seed"], split == "val", number]))
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        indexed = Image.fromarray(mask)
        indexed.putpalette(palette)
        indexed.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")


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
    where = inside > 0
    canvas[where] = (_colour(rng, hue) + _texture(rng, size, kind)[..., None])[where]
    mask[where] = index + 1


def _texture(rng: Generator, size: int, kind: int) -> NDArray[np.float64]:
    """Return a faint pattern (size, size) around 0: one of six, of random phase and width."""
    y, x = np.mgrid[:size, :size] * (2 * np.pi / (size * rng.uniform(0.08, 0.16))) + rng.uniform(0, 6)
    waves = (np.zeros_like(x), np.sin(x), np.sin(y), np.sin(x + y), np.sin(x) * np.sin(y), np.sin(x - y))
    return np.asarray(0.15 * waves[kind])


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
