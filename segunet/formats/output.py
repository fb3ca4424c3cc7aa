"""Where an exported file is written: never over something else, and as a whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segunet.base.errors import UserError
from segunet.base.files import DRAFTS, draft_folder_beside, remove_abandoned
from segunet.formats.read import read_exported


def check_output(path: Path, suffix: str, read: Callable[[Path], object] = read_exported) -> None:
    """Raise a UserError unless a file of a format with this ``suffix`` may be written to ``path``.

    Not if the path has another suffix, is a folder, or a file that segunet.export did not write.

    Args:
        path: the file.
        suffix: its suffix.
        read: raises a UserError for such a file.
    """
    if path.suffix != suffix or path.is_dir():
        raise UserError(
            f"output={path} must be the name of a {suffix} file, which the format writes"
            f"{'; it is a folder' if path.is_dir() else f', such as {path.with_suffix(suffix).name}'}."
        )
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and weights.exists() and not path.exists():
        raise UserError(
            f"{weights} exists without {path.name}, and would be overwritten by this network's weights. Move it, or "
            "give another name as output=PATH."
        )
    if path.exists():
        _check_exported(path, read)


def _check_exported(path: Path, read: Callable[[Path], object]) -> None:
    """Raise a UserError unless segunet.export wrote ``path``, so that it may be replaced."""
    try:
        read(path)
    except UserError as error:
        raise UserError(
            f"{path} exists and would be overwritten, but: {error} Or give another name as output=PATH."
        ) from error


@contextmanager
def whole_files(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it and the files beside it are moved to ``path`` only if the block succeeds.

    Temporary files of killed processes are removed.

    Raises:
        UserError: the folder is not writable.
    """
    path = Path(os.path.realpath(path))
    try:
        with draft_folder_beside(path) as folder:
            remove_abandoned(path.parent.glob(DRAFTS))
            draft = folder / path.name
            yield draft
            others = [each for each in folder.iterdir() if each != draft]
            for each in [*others, draft]:
                with each.open("rb") as file:
                    os.fsync(file.fileno())
            if others:
                path.unlink(missing_ok=True)  # never leave it beside the weights of another network
            for each in [*others, draft]:
                each.replace(path.parent / each.name)
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. Free some space or give another output=PATH."
        ) from error
