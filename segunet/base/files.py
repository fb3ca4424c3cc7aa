"""Write files atomically; locks, drafts and names of files."""

import csv
import errno
import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segunet.base.errors import UserError


def stays_below(name: str) -> bool:
    """Return whether a relative path, with / between its parts, stays below its folder."""
    return not {"", ".", ".."} & set(name.split("/")) and not set("\\\0") & set(name)


def folders_below(top: Path) -> Iterator[Path]:
    """Yield ``top`` and every folder below it once, including links, sorted by name."""
    seen: set[str] = set()
    for where, below, _ in os.walk(top, followlinks=True):
        if (real := os.path.realpath(where)) in seen:  # a link back up, or a second link to a folder
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield Path(where)


def is_file(path: Path) -> bool:
    """Return whether a file exists; also False if its folder is not readable or its name is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; False where :func:`is_file` is."""
    try:
        return path.is_dir()
    except OSError:
        return False


DRAFTS = ".segunet-*"  # unfinished files and folders; their writer holds a lock on them
_LOCK = ".lock"  # in a run's folder
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)  # EBADF: NFS, for files open for reading
_LOCK_TIMEOUT = 6.0  # seconds; loader processes of a killed run live for up to 5 s and hold its lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's ``folder`` for this process; the system releases the lock when the process ends.

    Raises:
        UserError: another process holds the lock, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(folder / _LOCK, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o666), "w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Give another folder.") from error
    with file:
        ends = time.monotonic() + _LOCK_TIMEOUT
        while _lock(file.fileno()) is False:
            if time.monotonic() > ends:
                raise UserError(
                    f"Another process is writing to {folder}. Wait until it has finished, or give another folder."
                )
            time.sleep(0.1)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # loader processes have the file open too


def _lock(file: int) -> bool | None:
    """Lock an open file or folder; False if another process holds the lock, None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


@contextmanager
def draft_folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside ``path``, one of :data:`DRAFTS`, and remove it at the end."""
    folder = draft_beside(path)
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def draft_beside(path: Path) -> Path:
    """Return a new temporary name beside ``path``, one of :data:`DRAFTS`."""
    return path.with_name(DRAFTS.replace("*", uuid4().hex))


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing bytes; it appears, or replaces the old file, only when all is on disk.

    A symbolic link is kept: its target is replaced.

    Raises:
        UserError: the disk is full or the folder is not writable; the old file is unchanged.
    """
    try:
        target = Path(os.path.realpath(path))
        draft = draft_beside(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("xb") as file:
                _lock(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
            _sync_folder(target.parent)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. An earlier version of it, if any, is intact. "
            "Free some space or give another folder, then try again."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, so that a replaced file outlasts a power cut, where the system allows it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_whole(path: Path, most: int) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than ``most`` bytes; the rest is not read.
    """
    content = bytearray()
    with path.open("rb") as file:
        while part := file.read(2**20):
            content += part
            if len(content) > most:
                raise ValueError(f"it has more than {most:,} bytes")
    return bytes(content)


def check_within(folder: Path, names: Iterable[str]) -> None:
    """Raise a UserError if one of ``names`` below ``folder`` leads out of it, by a link or a ".." in the name."""
    home = os.path.realpath(folder)
    for name in names:
        target = os.path.realpath(folder / name)
        if os.path.commonpath((home, target)) != home:
            raise UserError(
                f"{folder / name} leads out of its folder, to {target}. Nothing is written there: remove the link, or "
                "give another folder."
            )


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; characters that cannot be encoded become question marks."""
    with whole_file(path) as file:
        file.write(text.encode(errors="replace"))


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write plain containers of finite numbers and strings as JSON, atomically; on one line without ``indent``."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically, with a column for each name that occurs; None is an empty cell.

    A text that a spreadsheet would compute, such as a file's name that begins with =, gets an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def _inert(value: Any) -> Any:
    """Return a cell's value so that no spreadsheet takes it for a formula; numbers stay."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def link_whole(path: Path, name: Path) -> None:
    """Give a file a second ``name`` in its folder, atomically; where there are no links, only that name."""
    draft = draft_beside(name)
    try:
        os.link(path, draft)
    except OSError:
        path.replace(name)
    else:
        draft.replace(name)
        draft.unlink(missing_ok=True)  # it stays if it is the file that has the name already


def save_png(image: NDArray[np.uint8], path: Path) -> None:
    """Write an image uint8 (H, W, 3) as PNG, atomically."""
    with whole_file(path) as file:
        Image.fromarray(image).save(file, format="PNG")


def remove_abandoned(drafts: Iterable[Path]) -> None:
    """Remove unlocked :data:`DRAFTS`: the process that wrote them was killed."""
    for draft in drafts:
        if draft.is_symlink() or not _is_unlocked(draft):
            continue
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _is_unlocked(draft: Path) -> bool:
    try:
        lock = os.open(draft, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _lock(lock) is True
    finally:
        os.close(lock)
