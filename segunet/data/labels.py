"""Check all masks of a list before training: invalid values, 0/255 masks, absent classes, class weights."""

import hashlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from segunet.base.ahead import map_ahead
from segunet.base.environment import cores
from segunet.base.errors import UserError, counted
from segunet.base.files import write_text
from segunet.base.paths import OUTPUTS_DIR
from segunet.base.terminal import progress_bar
from segunet.base.validation import Byte
from segunet.base.version import __version__
from segunet.data.masks import MaskFormat, count_values, read_mask, teaches_nothing
from segunet.data.voc import Pair
from segunet.images.reading import read_size

logger = logging.getLogger(__name__)
CACHE = OUTPUTS_DIR / ".labels"  # beside the runs: one small file per list
_MAX_CACHE_BYTES, _MAX_BYTES_OF_MASK = 100_000, 1024  # bytes of a cache file, and on top of that for each mask
_WAITING = 64  # masks to read ahead
_LOG_AFTER = 1.0  # seconds; longer reads are logged


class LabelFacts(NamedTuple):
    """Values in the masks of a list.

    Attributes:
        pixels: int64 (256,), number of pixels with each value.
        found: the values in each mask, in the list's order.
    """

    pixels: NDArray[np.int64]
    found: list[list[int]]

    @property
    def values(self) -> set[int]:
        """The values that occur."""
        return set(np.flatnonzero(self.pixels).tolist())

    @property
    def images(self) -> NDArray[np.int64]:
        """Number of masks with each value, int64 (256,)."""
        return np.bincount([value for values in self.found for value in values], minlength=256)

    def with_each(self) -> dict[int, NDArray[np.int64]]:
        """Return the indices of the masks with each value that occurs."""
        indices: dict[int, list[int]] = {}
        for index, values in enumerate(self.found):
            for value in values:
                indices.setdefault(value, []).append(index)
        return {value: np.array(indices[value]) for value in sorted(indices)}


Counts = Annotated[list[Annotated[int, Field(ge=0, lt=2**53)]], Field(min_length=256, max_length=256)]


class Kept(BaseModel, strict=True):
    """A file of :data:`CACHE`: :class:`LabelFacts` and a stamp of the files that they came from."""

    stamp: str
    pixels: Counts
    found: list[list[Byte]]


def survey(pairs: Sequence[Pair], form: MaskFormat, threads: int) -> LabelFacts:
    """Read every mask of ``pairs``.

    Raises:
        UserError: :func:`segunet.data.masks.read_mask` raises for a mask.
    """
    pixels, found = np.zeros(256, dtype=np.int64), list[list[int]]()
    with progress_bar() as bar:
        for counts in bar.track(
            map_ahead(partial(_counts, form=form), pairs, threads, _WAITING),
            total=len(pairs),
            description="reading the masks",
        ):
            pixels += counts
            found.append(np.flatnonzero(counts).tolist())
    return LabelFacts(pixels, found)


def label_facts(pairs: Sequence[Pair], form: MaskFormat) -> LabelFacts:
    """Return :func:`survey` of ``pairs``, from :data:`CACHE` if no file has changed since it was cached.

    Raises:
        UserError: as :func:`survey`.
    """
    stamp = _stamp(pairs, form)
    name = hashlib.sha256("\n".join(str(pair.mask) for pair in pairs).encode(errors="surrogateescape")).hexdigest()
    path = CACHE / f"{name[:32]}.json"
    if (known := _read(path, stamp, len(pairs))) is not None:
        return known
    began = time.monotonic()
    facts = survey(pairs, form, cores())
    if (seconds := time.monotonic() - began) > _LOG_AFTER:
        logger.info("%s of %s read in %.1f s", counted(len(pairs), "mask"), pairs[0].mask.parent, seconds)
    _write(path, stamp, facts)
    return facts


def check_learnable(facts: LabelFacts, form: MaskFormat, split: str) -> None:
    """Check that masks do not hold only 0 and 255: an object drawn as 255 would be ignored, and nothing learned.

    Raises:
        UserError: the only values are ``ignore_index`` and perhaps 0.
    """
    if teaches_nothing(facts.values, form):
        raise UserError(
            f"All masks of list {split!r} hold only {' and '.join(map(str, sorted(facts.values)))}; "
            f"{facts.images[form.ignore_index]} of them hold {form.ignore_index}, which means 'ignore', so nothing "
            f"can be learned from them. If {form.ignore_index} was meant as an object, give its class "
            f"(1, 2, ...), as in 'data.mask_values={{0:0,{form.ignore_index}:1}}'."
        )


def absent_classes(facts: LabelFacts, form: MaskFormat, class_names: Sequence[str]) -> list[str]:
    """Return the names of the classes without pixels, except an ignored class."""
    return [name for index, name in enumerate(class_names) if not facts.pixels[index] and index != form.ignore_index]


def _counts(pair: Pair, form: MaskFormat) -> NDArray[np.int64]:
    return count_values(read_mask(pair.mask, read_size(pair.image, form.bands), form))


def _stamp(pairs: Sequence[Pair], form: MaskFormat) -> str:
    """Return a digest that changes when a file or the mask format changes."""
    digest = hashlib.sha256(
        repr((__version__, form.num_classes, form.ignore_index, form.values)).encode() + form.palette.tobytes()
    )
    for pair in pairs:
        for file in (pair.image, pair.mask):
            status = file.stat()
            digest.update(repr((status.st_size, status.st_mtime_ns, status.st_ino)).encode())
    return digest.hexdigest()


def _read(path: Path, stamp: str, masks: int) -> LabelFacts | None:
    """Return what :func:`_write` has cached for this stamp and number of masks; None otherwise."""
    most = _MAX_CACHE_BYTES + masks * _MAX_BYTES_OF_MASK
    try:
        kept = Kept.model_validate_json(path.read_bytes()) if path.stat().st_size <= most else None
    except (OSError, ValueError):
        return None
    if kept is None or kept.stamp != stamp or len(kept.found) != masks:
        return None
    return LabelFacts(np.array(kept.pixels), kept.found)


def _write(path: Path, stamp: str, facts: LabelFacts) -> None:
    """Cache ``facts`` for the next run, if the cache is writable."""
    kept = Kept(stamp=stamp, pixels=facts.pixels.tolist(), found=facts.found)
    try:
        write_text(path, kept.model_dump_json())
    except UserError as error:
        logger.debug("label facts not cached: %s", error)
