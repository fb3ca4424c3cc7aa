"""Find the input files to predict, and the names of their outputs."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from segunet.base.errors import UserError, counted
from segunet.base.files import folders_below
from segunet.images.integrity import IMAGE_SUFFIXES
from segunet.images.video import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)


def find_inputs(given: str, leave_out: Sequence[Path]) -> list[Path]:
    """Return the images and videos of a file, a folder (recursively), or a pattern such as ``a/**/*.jpg``.

    A file given by name may have any suffix; folders and patterns give the files with the suffix of an image or
    video. Links to folders are followed; each file is returned once.

    Args:
        given: path or pattern.
        leave_out: folders to skip, with the results of an earlier run.

    Raises:
        UserError: no such file, or no image or video among the files.
    """
    path = Path(given).expanduser()
    try:
        if path.is_file():
            return [path]
        found = _matches(f"{glob.escape(str(path))}/**/*" if path.is_dir() else str(path))
        left_out = [folder.resolve() for folder in leave_out]
        files = sorted({file for file in found if file.is_file() and not _is_below(file.resolve(), left_out)})
    except (OSError, ValueError) as error:  # a name that is too long or contains NUL
        raise UserError(f"input={given} cannot be read: {error}. Give a file, a folder or a pattern.") from error
    inputs = [file for file in files if is_input(file)]
    if not inputs:
        what = f"it holds {counted(len(files), 'file')}, but no image or video" if files else "not found"
        raise UserError(
            f"input={given}: {what} ({path.absolute()}). Give an image, a video, a folder of them, or a pattern such "
            "as input='photos/**/*.jpg'."
        )
    if others := Counter(file.suffix or "without suffix" for file in files if not is_input(file)):
        logger.info("skipped: %s", ", ".join(f"{count} {suffix}" for suffix, count in others.items()))
    return inputs


def is_input(path: Path) -> bool:
    """Return whether the file name is that of an image or a video; hidden files (with a leading dot) are not."""
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not path.name.startswith(".")


def is_video(path: Path) -> bool:
    """Return whether the file has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def output_names(inputs: Sequence[Path]) -> dict[Path, str]:
    """Return the output name of each input: its path relative to their common folder, without suffix.

    The suffix is kept if images, or videos, differ only in it.

    Raises:
        UserError: two inputs would still be written to the same file.
    """
    base = Path(os.path.commonpath([path.absolute().parent for path in inputs]))
    below = {path: path.absolute().relative_to(base) for path in inputs}
    uses = Counter((is_video(path), name.with_suffix("")) for path, name in below.items())
    names = {
        path: (name if uses[is_video(path), name.with_suffix("")] > 1 else name.with_suffix("")).as_posix()
        for path, name in below.items()
    }
    by_name: dict[tuple[bool, str], Path] = {}
    for path, name in names.items():
        if (other := by_name.setdefault((is_video(path), name), path)) != path:
            raise UserError(
                f"{other} and {path} would both be written as {name}. Predict them one by one, each with its own "
                "output=FOLDER."
            )
    return names


def _matches(pattern: str) -> Iterator[Path]:
    """Yield the paths that match a pattern, in which ** matches any number of folders."""
    head, deep, tail = pattern.partition("**")
    if not deep:
        yield from map(Path, glob.iglob(pattern, include_hidden=True))  # noqa: PTH207, Path.glob takes no absolute pattern
        return
    for base in glob.iglob(head or ".", include_hidden=True):  # noqa: PTH207
        for folder in folders_below(Path(base)):
            yield from _matches(f"{glob.escape(str(folder))}/{tail.lstrip('/') or '*'}")


def _is_below(file: Path, folders: Sequence[Path]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)
