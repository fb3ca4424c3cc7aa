"""Built-in data sets: synthetic images in VOC's layout, drawn once from a seed."""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image

from segunet.base.errors import UserError
from segunet.base.terminal import setting
from segunet.data.voc import IMAGE_FOLDER, OBJECT_FOLDER, list_path, mask_folder
from segunet.images.palette import voc_palette

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltIn:
    """A built-in data set.

    Attributes:
        name: as in ``data=NAME``.
        recipe: everything that determines the images, with at least "seed" and the numbers of images "train" and
            "val". Saved beside them, so that a folder of another version is recognised.
        draw: draws an example: an image uint8 (H, W, 3) or (H, W), its mask uint8 (H, W) and, if the data set has
            them, the number of each pixel's object, uint8 (H, W).
        megabytes: size of the folder.
    """

    name: str
    recipe: Mapping[str, int]
    draw: Callable[[Generator], Sequence[NDArray[np.uint8]]]
    megabytes: int

    @property
    def marker(self) -> str:
        """Name of the file that holds the recipe."""
        return f"{self.name}.json"

    def is_in(self, root: Path) -> bool:
        """Return whether ``root`` holds this version."""
        try:
            return bool(json.loads((root / self.marker).read_text()) == self.recipe)
        except (OSError, ValueError):
            return False


def write(data: BuiltIn, root: Path) -> None:
    """Write ``data`` into ``root``, unless it is there already; a killed call leaves no partial data set.

    Args:
        data: the data set.
        root: folder for JPEGImages, SegmentationClass and ImageSets.

    Raises:
        UserError: ``root`` holds other files, or is not writable.
    """
    if data.is_in(root):
        return
    try:
        _write(data, root)
    except OSError as error:
        raise UserError(
            f"data.root={root}: the built-in {data.name} ({data.megabytes} MB) cannot be written there: "
            f"{error.strerror or error}. Free some space, or give another folder."
        ) from error


def check(data: BuiltIn, root: Path) -> None:
    """Raise a UserError if ``root`` holds another version of ``data``, which :func:`write` replaces."""
    if (root / data.marker).exists() and not data.is_in(root):
        raise UserError(
            f"data.root={root} holds another version of the built-in {data.name}, and data to score are never "
            f"overwritten. To score the checkpoint's own data, leave data={data.name} out; to use this version's: "
            f"python -m segunet.check_data data={data.name} {setting('data.root', root)}, or another data.root."
        )


def _write(data: BuiltIn, root: Path) -> None:
    root = root.resolve()  # keeps a link
    there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    own = {IMAGE_FOLDER, "SegmentationClass", OBJECT_FOLDER, "ImageSets", data.marker}
    if there and not (data.marker in there and there <= own):
        raise UserError(
            f"data.root={root} is for the built-in {data.name}, but contains other files. "
            "They were not changed. Choose data=voc2012 or data=custom for a folder of your own."
        )
    if (root / data.marker).is_file():
        logger.info("the %s in %s is of another version and is rewritten", data.name, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for split in ("train", "val"):
            _write_split(data, draft, split)
        (draft / data.marker).write_text(json.dumps(data.recipe))
        _move_into_place(data, draft, root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_split(data: BuiltIn, root: Path, split: str) -> None:
    names = [f"{split}_{number:04d}" for number in range(data.recipe[split])]
    for number, name in enumerate(names):
        image, *maps = data.draw(default_rng([data.recipe["seed"], split == "val", number]))
        _save(Image.fromarray(image), root / IMAGE_FOLDER / f"{name}.jpg", quality=95)
        for folder, values in zip((mask_folder(root, split), root / OBJECT_FOLDER), maps, strict=False):
            indexed = Image.fromarray(values)
            indexed.putpalette(voc_palette().tobytes())
            _save(indexed, folder / f"{name}.png")
    path = list_path(root, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def _move_into_place(data: BuiltIn, draft: Path, root: Path) -> None:
    """Move ``draft`` to ``root``, unless another process was faster."""
    draft.chmod(0o755)
    outdated = draft.with_name(f"{draft.name}-outdated")
    try:
        if root.exists() and not data.is_in(root):
            root.replace(outdated)
        draft.replace(root)
    except OSError:
        if not data.is_in(root):
            raise
    finally:
        shutil.rmtree(outdated, ignore_errors=True)
