"""What every format is read as: images, each with what draws its labels."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from segunet.base.errors import UserError
from segunet.base.files import folders_below, is_file, read_whole, stays_below
from segunet.base.validation import explained, one_line
from segunet.data.class_list import IGNORED
from segunet.data.importing.regions import Labels, Region, draw_labels
from segunet.images.integrity import IMAGE_SUFFIXES
from segunet.images.palette import IGNORE_INDEX, background_of

TRAIN, VAL = "train", "val"
_BACKGROUND = "background"
File = TypeVar("File", bound=BaseModel)
_IGNORED = (*IGNORED, "__ignore__")  # labelme calls it so


class LabelledImage(NamedTuple):
    """An image and its labels.

    Attributes:
        name: its name in VOC's layout, a path without suffix.
        image: the file.
        labels: draws its labels, called with the height and width of the upright image.
        split: the list that the source has it on, "train" or "val"; None if it has no lists.
    """

    name: str
    image: Path
    labels: Callable[[int, int], Labels]
    split: str | None = None


class AnnotatedImage(NamedTuple):
    """An image with labelled regions, as a format tells it.

    Attributes:
        name, image, split: as in :class:`LabelledImage`.
        regions: the regions.
        size: (H, W) that they are for; None if the format does not say.
    """

    name: str
    image: Path
    regions: Sequence[Region]
    size: tuple[int, int] | None = None
    split: str | None = None


@dataclass(frozen=True)
class LabelSource:
    """A data set of another format.

    Attributes:
        class_names: name of class 0, 1, ...
        images: its images.
        palette: RGB of each class; None for VOC's.
        known: names that the format has labels of.
        left_out: number of labels, and of images, of each kind that are not imported.
    """

    class_names: Sequence[str]
    images: Sequence[LabelledImage]
    palette: Sequence[Sequence[int]] | None = None
    known: Sequence[str] = ()
    left_out: Counter[str] = field(default_factory=Counter)


def source_of_regions(
    annotated: Sequence[AnnotatedImage],
    known: Sequence[str],
    wanted: Sequence[str] | None,
    left_out: Counter[str],
    by_area: bool = False,
) -> LabelSource:
    """Return the data set of images with labelled regions.

    Args:
        annotated: the images.
        known: names of the format's classes, in its order.
        wanted: names of the classes to import, in their order, that of pixels without a label first; None for all.
        left_out: number of labels of each kind that are not imported; those of other classes are added.
        by_area: as in :func:`draw_labels`.

    Raises:
        UserError: there is no region; pixels without a label would be of a class that has labels.
    """
    if not any(each.regions for each in annotated):
        found = ", ".join(f"{count:,} {kind}" for kind, count in left_out.items()) or "no labels at all"
        raise UserError(f"There is no label with an area, but {found}. Are these labels for segmentation?")
    names = list(wanted) if wanted is not None else _all_classes(known)
    if names[0] in known and background_of(names[:1]) is None:
        raise UserError(
            f"class_names: the first, {names[0]}, is that of pixels without a label, but there are labels of it. Put "
            f"background before it, as in class_names=[{_BACKGROUND},{names[0]},...]."
        )
    classes = {name: index for index, name in enumerate(names)}
    classes |= {name: IGNORE_INDEX for name in known if name not in classes and name.casefold() in _IGNORED}
    others = Counter(region.name for each in annotated for region in each.regions if region.name not in classes)
    left_out.update({f"labels of {one_line(name)}": count for name, count in others.items()})

    def drawn(each: AnnotatedImage) -> Callable[[int, int], Labels]:
        def labels(height: int, width: int) -> Labels:
            if each.size is not None and each.size != (height, width):
                of = f"{each.size[1]} x {each.size[0]}"
                raise UserError(f"its labels are for {of} pixels, the upright image has {width} x {height}")
            return draw_labels(each.regions, classes, height, width, by_area)

        return labels

    images = [LabelledImage(each.name, each.image, drawn(each), each.split) for each in annotated]
    return LabelSource(names, images, known=known, left_out=left_out)


def _all_classes(known: Sequence[str]) -> list[str]:
    """Return the names of the classes, that of pixels without a label first."""
    names = [name for name in known if name.casefold() not in _IGNORED]
    background = background_of(names)
    first = _BACKGROUND if background is None else names[background]
    return [first, *(name for name in names if name != first)]


def image_name(path: Path, folder: Path) -> str:
    """Return the name in VOC's layout of an image: its path below the folder, without suffix.

    Raises:
        UserError: a name that a list cannot hold.
    """
    below = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    name = below.with_suffix("").as_posix()
    if not stays_below(name) or name != name.strip() or name.splitlines() != [name] or not _is_utf8(name):
        raise UserError(f"{path}: {name!r} cannot be a name on a list. Rename the image.")
    return name


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def find_image(folders: Sequence[Path], name: str, source: Path) -> Path:
    """Return the image that ``source``, a file of labels, names: in the first of the ``folders`` that has it.

    It may be in none.

    Raises:
        UserError: a name that leads out of the folders.
    """
    below = PurePosixPath(name.replace("\\", "/")).as_posix()  # written on Windows, perhaps
    if not stays_below(below):
        raise UserError(f"{source} names the image {name!r}, which does not stay within {folders[-1]}.")
    candidates = [folder / below for folder in folders] + [folder / Path(below).name for folder in folders]
    return next((path for path in candidates if is_file(path)), candidates[0])


def images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and those below it, sorted; hidden files and folders are left out."""
    return sorted(path for path in files_below(folder) if path.suffix in IMAGE_SUFFIXES)


def files_below(folder: Path) -> Iterable[Path]:
    """Yield the files in a folder and those below it, in linked ones too, but hidden ones."""
    for each in folders_below(folder):
        if not any(part.startswith(".") for part in each.relative_to(folder).parts):
            yield from (path for path in sorted(each.iterdir()) if not path.name.startswith(".") and is_file(path))


def read_json(path: Path, kind: type[File], most: int, what: str) -> File:
    """Return a JSON file of at most ``most`` bytes, parsed.

    Raises:
        UserError: it cannot be read, or is not ``what`` it should be.
    """
    try:
        return kind.model_validate_json(read_whole(path, most))
    except (OSError, ValidationError, ValueError) as error:
        reason = explained(error) if isinstance(error, ValidationError) else getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as {what}: {str(reason).rstrip('.')}.") from error


def first_folder(*folders: Path) -> Path:
    """Return the first of the folders that is there, else the last."""
    return next((folder for folder in folders[:-1] if folder.is_dir()), folders[-1])
