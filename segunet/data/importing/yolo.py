"""YOLO's segmentation labels: a text file an image, a line ``class x y x y ...`` a polygon, in shares of the sides."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from segunet.base.errors import UserError
from segunet.base.files import is_file, read_whole
from segunet.base.validation import Text, explained
from segunet.data.importing.regions import Bits, Draw, Region, is_polygon, polygons
from segunet.data.importing.source import (
    TRAIN,
    VAL,
    AnnotatedImage,
    LabelSource,
    first_folder,
    image_name,
    images_below,
    source_of_regions,
)

_IMAGES, _LABELS = "images", "labels"  # folders of the same structure
_UP = "../"
_MAX_BYTES = 10_000_000


class _Data(BaseModel):
    """A data.yaml."""

    path: str = "."
    train: str | list[str]
    val: str | list[str] = Field(validation_alias=AliasChoices("val", "validation"), default=[])
    names: list[Text] | dict[int, Text]


def read_yolo(source: Path, images: Path | None, wanted: Sequence[str] | None) -> LabelSource:
    """Read the data set that a ``data.yaml`` describes, with its own training and validation images.

    Smaller objects hide larger ones, as YOLO has no order.

    Args:
        source: the file, or the folder that holds it.
        images: None, as the file says where they are.
        wanted: as in :func:`source_of_regions`.

    Raises:
        UserError: no such file, or one that is not YOLO's; a label that is neither a polygon nor a box.
    """
    if images is not None:
        raise UserError("images: YOLO's data.yaml says where the images are. Leave it out.")
    file = source / "data.yaml" if source.is_dir() else source
    content = _read(file)
    names = _names(content.names, file)
    root = first_folder(file.parent / content.path, file.parent)
    left_out: Counter[str] = Counter()
    annotated = [
        AnnotatedImage(_name(path, root), path, list(_regions(_label_file(path), names, left_out)), split=split)
        for split, listed in ((TRAIN, content.train), (VAL, content.val))
        for path in _listed([listed] if isinstance(listed, str) else listed, root, file)
    ]
    if not any(is_file(_label_file(each.image)) for each in annotated):
        example = f", such as {_label_file(annotated[0].image)}" if annotated else ""
        raise UserError(f"{file}: none of its {len(annotated)} images has a file of labels{example}.")
    return source_of_regions(annotated, names, wanted, left_out, by_area=True)


def _read(file: Path) -> _Data:
    try:
        return _Data.model_validate(yaml.safe_load(_text(file)))
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{file} is no YAML file: {' '.join(str(error).split())[:200]}.") from error
    except ValidationError as error:
        raise UserError(f"{file} is not YOLO's, which has train, val and names: {explained(error)}") from error


def _text(file: Path) -> str:
    try:
        return read_whole(file, _MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _names(given: Sequence[str] | dict[int, str], file: Path) -> list[str]:
    """Return the names of class 0, 1, ...: a list, or a mapping of numbers."""
    names = [given[index] for index in sorted(given)] if isinstance(given, dict) else list(given)
    numbered = set(given) == set(range(len(given))) if isinstance(given, dict) else True
    if not numbered or not names or len(set(names)) < len(names):
        raise UserError(f"{file}: names must list the class names, or give each number from 0 on its own.")
    return names


def _listed(entries: Sequence[str], root: Path, file: Path) -> Iterator[Path]:
    """Yield the images of a list: those of folders, or of text files with a path a line."""
    for entry in entries:
        path = root / entry
        if not path.exists() and entry.startswith(_UP):  # as some exports have it, beside the folder that is meant
            path = root / entry.removeprefix(_UP)
        if path.is_dir():
            yield from images_below(path)
        elif path.suffix == ".txt" and is_file(path):
            lines = (line.strip() for line in _text(path).splitlines())
            yield from (path.parent / line if line.startswith("./") else root / line for line in lines if line)
        else:
            raise UserError(f"{file} names {path}, which is neither a folder nor a list. Correct its path.")


def _name(path: Path, root: Path) -> str:
    """Return the image's name: its path below the last folder called images, else below the root."""
    folders = [folder for folder in path.parents if folder.name == _IMAGES]
    return image_name(path, folders[0] if folders and folders[0].parent == root else root)


def _label_file(image: Path) -> Path:
    """Return the label file of an image: in its path, the last folder called images is labels."""
    parts = list(image.with_suffix(".txt").parts)
    if _IMAGES in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index(_IMAGES)] = _LABELS
    return Path(*parts)


def _regions(file: Path, names: Sequence[str], left_out: Counter[str]) -> Iterator[Region]:
    """Yield the regions in a label file; an image without one has none."""
    for number, line in enumerate(_text(file).splitlines() if is_file(file) else (), start=1):
        if not line.strip():
            continue
        try:
            index, *numbers = line.split()
            name, part = names[_index(index)], [float(each) for each in numbers]
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{file}, line {number}: wanted a class, 0..{len(names) - 1}, and numbers, got {line[:80]!r}."
            ) from error
        if len(part) == 4:
            left_out["boxes"] += 1
        elif is_polygon(part):
            yield Region(name, _scaled(part))
        else:
            raise UserError(f"{file}, line {number} has {len(part)} numbers, wanted x and y of three points or more.")


def _index(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("no class")
    return int(text)


def _scaled(part: Sequence[float]) -> Draw:
    """Return what draws a polygon in shares of the image's sides."""

    def draw(height: int, width: int) -> Bits:
        return polygons([[share * (height if index % 2 else width) for index, share in enumerate(part)]])(height, width)

    return draw
