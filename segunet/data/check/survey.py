"""Find problems in a VOC folder, by the same rules as training (``voc.py``).

Each example is read, checked and dropped; memory use stays small for any size of the data set.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segunet.base.errors import UserError, counted
from segunet.base.files import folders_below, is_file
from segunet.data.check.findings import KINDS, Finding, Severity
from segunet.data.check.moments import Moments
from segunet.data.masks import (
    COLOUR_MODES,
    MaskFormat,
    check_size,
    check_values,
    is_binary,
    mask_values,
    teaches_nothing,
)
from segunet.data.objects import check_object_map
from segunet.data.voc import (
    IMAGE_FOLDER,
    MASK_SUFFIXES,
    Pair,
    list_path,
    mask_folder,
    named_pairs,
    read_names,
    repeated_names,
)
from segunet.images.integrity import IMAGE_SUFFIXES
from segunet.images.levels import few_levels
from segunet.images.palette import ClassColours
from segunet.images.rasters import count_bands, opened_raster
from segunet.images.reading import as_eight_bit_rgb, colours_lose_levels, is_transparent, opened, read_stored

_OTHER_SUFFIXES = (*IMAGE_SUFFIXES, "")  # that a file may have by mistake


@dataclass
class Split:
    """One of the two lists, and the values in its masks.

    Attributes:
        role: "train" or "val".
        path: the list file.
        names: names on the list, with repetitions.
        masks: the folder of its masks.
        pairs: one per distinct name; files may be missing.
        pixels: int64 (256,), pixels of each value over the masks.
        images: int64 (256,), number of masks with each value.
    """

    role: str
    path: Path
    names: list[str]
    masks: Path
    pairs: list[Pair]
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))


@dataclass
class Examined:
    """Contents of the files of an example.

    Attributes:
        pair: the example.
        findings: kind, file and detail of each finding.
        size: the upright image's (height, width); None if it cannot be read.
        image_mode, mask_mode: Pillow's mode, or bands and type; None for a file that cannot be read.
        digest: hash of the upright image's decoded pixels.
        moments: of them; None if it cannot be read.
        counts: int64 (256,), pixels of each value of the mask; None if it is invalid.
        colours: colour -> the only class that has it, in the palette stored in an index mask.
    """

    pair: Pair
    findings: list[tuple[str, Path, str]] = field(default_factory=list)
    size: tuple[int, int] | None = None
    image_mode: str | None = None
    mask_mode: str | None = None
    digest: bytes = b""
    moments: Moments | None = None
    counts: NDArray[np.int64] | None = None
    colours: dict[tuple[int, ...], int] = field(default_factory=dict)

    def note(self, kind: str, path: Path, detail: str) -> None:
        """Add a finding."""
        self.findings.append((kind, path, detail))

    @contextmanager
    def noting(self, kind: str, path: Path) -> Iterator[None]:
        """Convert a UserError into a finding, without its advice, which is given once per kind."""
        try:
            yield
        except UserError as error:
            self.note(kind, path, error.what.removeprefix(f"{path} ").replace(str(path), path.name))


class Survey:
    """Findings about a folder: :meth:`add` the examples of both lists, then :meth:`conclude`.

    Args:
        folder: in VOC's layout.
        splits: its training list and, unless folds of that are validated on, its validation list.
        form: format of the masks.
        colours: how they are drawn.

    Attributes:
        findings: all findings.
        sizes: number of images by (height, width).
        image_modes, mask_modes: number of files by Pillow's mode, or by bands and type.
        moments: of the training images; None if none can be read.
    """

    def __init__(self, folder: Path, splits: Sequence[Split], form: MaskFormat, colours: ClassColours) -> None:
        self.folder, self.splits, self.form, self.colours = folder, splits, form, colours
        self.class_names = colours.names
        self.findings: list[Finding] = []
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.image_modes: Counter[str] = Counter()
        self.mask_modes: Counter[str] = Counter()
        self.moments: Moments | None = None
        self._images: dict[tuple[Any, ...], dict[str, Path]] = {}  # size and digest -> role -> first such file
        self._owners: dict[tuple[int, ...], tuple[int, Path]] = {}  # colour -> first class with it, and its mask

    def add(self, split: Split, seen: Examined) -> None:
        """Add an examined example of ``split``."""
        self.findings += [Finding(*finding, split.role) for finding in seen.findings]
        if seen.image_mode is not None:
            self.image_modes[seen.image_mode] += 1
        if seen.mask_mode is not None:
            self.mask_modes[seen.mask_mode] += 1
        if seen.moments is not None and split.role == "train":
            self.moments = seen.moments if self.moments is None else self.moments + seen.moments
        if seen.size is not None:
            self.sizes[seen.size] += 1
            self._compare(split, seen)
        if seen.counts is not None:
            split.pixels += seen.counts
            split.images += seen.counts > 0
            self._compare_colours(split, seen)

    def _compare(self, split: Split, seen: Examined) -> None:
        """Report an image that occurred before by another name."""
        path = seen.pair.image
        earlier = self._images.setdefault((seen.size, seen.digest), {})
        for role, other in earlier.items():
            if other != path:
                kind = "repeated_image" if role == split.role else "leak"
                self.findings.append(Finding(kind, path, f"has the same pixels as {other.name} ({role})", split.role))
        earlier.setdefault(split.role, path)

    def _compare_colours(self, split: Split, seen: Examined) -> None:
        """Report a mask whose palette gives a class the colour of another class in an earlier mask."""
        path = seen.pair.mask
        for colour, index in seen.colours.items():
            owner, other = self._owners.setdefault(colour, (index, path))
            if owner != index:
                detail = f"draws class {index} in {colour}, the colour of class {owner} in {other.name}"
                self.findings.append(Finding("palette_order", path, detail, split.role))
                return

    def conclude(self) -> None:
        """Add the findings about the whole data set: lists, classes, unlisted files."""
        for split in self.splits:
            self._check_list(split)
        train, *others = self.splits
        on_train = set(train.names)
        for val in others:
            for name in dict.fromkeys(val.names):
                if name in on_train:
                    self._report("leak", val, f"names {name!r}, as does {train.path.name}")
        self.findings += unlisted_files(self.folder, self.splits)

    def by_kind(self) -> dict[str, list[Finding]]:
        """Return the findings by kind, the most serious kind first."""
        by_kind: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
        for finding in self.findings:
            by_kind[finding.kind].append(finding)
        return {kind: found for kind, found in by_kind.items() if found}

    def of_severity(self, severity: Severity) -> list[Finding]:
        """Return the findings of that severity."""
        return [finding for finding in self.findings if KINDS[finding.kind].severity == severity]

    def _check_list(self, split: Split) -> None:
        for name, times in repeated_names(split.names).items():
            self._report("faulty_list", split, f"names {name!r} {times} times")
        present = np.flatnonzero(split.pixels[: len(self.class_names)]).tolist()
        if teaches_nothing(values := _values_of(split.pixels), self.form):
            self._report("nothing_to_learn", split, f"has only {' and '.join(map(str, sorted(values)))} in its masks")
        elif split.role == "train" and len(present) == 1 < len(self.class_names):
            self._report("nothing_to_learn", split, f"has only class {present[0]} ({self.class_names[present[0]]})")
        for index, name in enumerate(self.class_names):
            if present and index not in {*present, self.form.ignore_index}:
                self._report("absent_class", split, f"has no pixels of class {index} ({name})")

    def _report(self, kind: str, split: Split, detail: str) -> None:
        self.findings.append(Finding(kind, split.path, detail, split.role))


def read_split(folder: Path, role: str, split: str, objects: bool = False) -> Split:
    """Read the list ``split``, whose ``role`` is "train" or "val", with its ``objects`` if wanted.

    Raises:
        UserError: no list, an empty one, or one that is not UTF-8 text.
    """
    path = list_path(folder, split)
    names = read_names(path)
    pairs = named_pairs(folder, split, list(dict.fromkeys(names)), objects)
    return Split(role, path, names, mask_folder(folder, split), pairs)


def examine(pair: Pair, form: MaskFormat) -> Examined:
    """Read the files of ``pair`` as in training, and report errors and anything worth a look."""
    seen = Examined(pair)
    files = ((pair.image, _examine_image), (pair.mask, _examine_mask), (pair.objects, _examine_objects))
    for path, examine_file in files:
        if path is None:
            continue
        if is_file(path):
            examine_file(seen, form)
        else:
            seen.note("missing", path, _missing_reason(path))
    return seen


def unlisted_files(folder: Path, splits: Sequence[Split]) -> list[Finding]:
    """Return a finding for each image, mask or other file that is not on a list."""
    image_of = {pair.name: pair.image for split in splits for pair in split.pairs}
    images, others = _files_in(folder / IMAGE_FOLDER, IMAGE_SUFFIXES)
    masks: dict[Path, str] = {}
    for each in sorted({split.masks for split in splits}):
        found, strange = _files_in(each, MASK_SUFFIXES)
        masks, others = masks | found, others + strange
    with_image, with_mask = set(images.values()), set(masks.values())
    on_neither = f"is on neither {' nor '.join(split.path.name for split in splits)}"
    findings = [Finding("unused_file", path, "is neither an image nor a mask", None) for path in others]
    for path, name in images.items():
        if name not in image_of:
            mask = "" if name in with_mask else ", and has no mask"
            findings.append(Finding("unused_file", path, on_neither + mask, None))
        elif path != image_of[name]:
            findings.append(Finding("stray_file", path, f"is hidden by {image_of[name].name}", None))
    read = {pair.mask.with_suffix(""): pair.mask for split in splits for pair in split.pairs}
    for path, name in masks.items():
        if name not in image_of and name not in with_image:
            findings.append(Finding("stray_file", path, f"{on_neither}, and has no image", None))
        elif path != (first := read.get(path.with_suffix(""), path)):
            findings.append(Finding("stray_file", path, f"is hidden by {first.name}", None))
    return findings


def _examine_image(seen: Examined, form: MaskFormat) -> None:
    path = seen.pair.image
    with seen.noting("unreadable", path):
        pixels, loses_levels = _colours(seen, form) if form.bands is None else _bands(seen, form, form.bands)
        if loses_levels:
            seen.note("few_levels", path, few_levels(form.bands))
        seen.size = pixels.shape[:2]
        seen.digest = hashlib.blake2b(pixels.data, digest_size=16).digest()
        seen.moments = Moments.of(pixels)


def _colours(seen: Examined, form: MaskFormat) -> tuple[NDArray[np.uint8], bool]:
    """Return a colour image as it is trained on, and whether it loses levels."""
    path, stored = seen.pair.image, read_stored(seen.pair.image)
    seen.image_mode = stored.mode
    if stored.turned != 1:
        seen.note("converted", path, f"has the EXIF orientation {stored.turned}")
    if is_transparent(stored.values):
        seen.note("converted", path, "has transparent pixels")
    return as_eight_bit_rgb(stored.values, form.image_range), colours_lose_levels(stored, form.image_range)


def _bands(seen: Examined, form: MaskFormat, bands: int) -> tuple[NDArray[np.uint8], bool]:
    """Return a raster as it is trained on, and whether it loses levels."""
    path = seen.pair.image
    count, kind = count_bands(path)
    seen.image_mode = f"{counted(count, 'band')} {kind}"
    with opened_raster(path, bands, form.image_range) as raster:
        return raster.whole().values, raster.loses_levels()


def _examine_mask(seen: Examined, form: MaskFormat) -> None:
    path = seen.pair.mask
    mask: NDArray[np.integer[Any]] = np.empty((0, 0), dtype=np.uint8)
    with seen.noting("unreadable", path), opened(path, "mask") as (image, _):
        seen.mask_mode, palette = image.mode, _own_palette(image) if form.values is None else None
        with seen.noting("mask_values", path):
            mask = mask_values(path, image, form)
    if mask.size == 0:  # it could not be read
        return
    with seen.noting("other_size", path):
        check_size(path, mask, seen.size or mask.shape)
    with seen.noting("mask_values", path):
        check_values(path, mask, form)
        seen.counts = np.bincount(mask.ravel(), minlength=256)
        _check_values(seen, palette, form)


def _examine_objects(seen: Examined, form: MaskFormat) -> None:
    path = seen.pair.objects
    assert path is not None
    if seen.counts is not None:  # its mask is valid
        with seen.noting("object_map", path):
            check_object_map(seen.pair, form)


def _check_values(seen: Examined, palette: NDArray[np.uint8] | None, form: MaskFormat) -> None:
    """Report mask values that are allowed but may be a mistake."""
    assert seen.counts is not None
    path, values = seen.pair.mask, _values_of(seen.counts)
    if values == {form.ignore_index}:
        seen.note("ignored_mask", path, f"holds only {form.ignore_index}")
    elif is_binary(values, form):
        seen.note("ignored_mask", path, f"holds only 0 and {form.ignore_index}")
    elif values == {0}:
        seen.note("only_class_0", path, "holds only 0")
    if seen.mask_mode in COLOUR_MODES:
        seen.note("converted", path, f"is an {seen.mask_mode} mask")
    if palette is not None and (swapped := _swapped_class(values, palette, form)):
        seen.note("palette_order", path, "draws class {} in the colour of class {}".format(*swapped))
    elif palette is not None:
        seen.colours = _own_colours(values, palette, form)


def _own_palette(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return the palette (n, 3) stored in an index image."""
    colours = image.getpalette("RGB") if image.mode == "P" else None
    return None if colours is None else np.array(colours, dtype=np.uint8).reshape(-1, 3)


def _own_colours(values: set[int], palette: NDArray[np.uint8], form: MaskFormat) -> dict[tuple[int, ...], int]:
    """Return the class of each colour that the mask's own palette gives to only one of its classes."""
    classes = sorted(values & set(range(min(len(palette), form.num_classes))))
    colours = [tuple(palette[index].tolist()) for index in classes]
    return {colour: index for colour, index in zip(colours, classes, strict=True) if colours.count(colour) == 1}


def _swapped_class(values: set[int], palette: NDArray[np.uint8], form: MaskFormat) -> tuple[int, int] | None:
    """Return a class that the mask's own palette draws in the colour of another class, and the other class."""
    colours = form.palette[: form.num_classes]
    for index in sorted(values & set(range(min(len(palette), form.num_classes)))):
        owners = np.flatnonzero((colours == palette[index]).all(axis=1)).tolist()
        if owners and index not in owners:
            return index, owners[0]
    return None


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[Path, str], list[Path]]:
    """Return the files below ``folder`` with one of the suffixes, mapped to their list names, and the other files."""
    files = sorted(path for below in folders_below(folder) for path in below.iterdir() if not path.is_dir())
    named = {path: path.relative_to(folder).with_suffix("").as_posix() for path in files if path.suffix in suffixes}
    return named, [path for path in files if path not in named]


def _values_of(counts: NDArray[np.int64]) -> set[int]:
    return set(np.flatnonzero(counts).tolist())


def _missing_reason(path: Path) -> str:
    """Return why there is no file ``path``, and a similar file if there is one."""
    if near := [other for suffix in _OTHER_SUFFIXES if is_file(other := path.with_suffix(suffix))]:
        return f"is not there, but {near[0].name} is"
    try:
        path.stat()
    except FileNotFoundError:
        return "is not there"
    except (OSError, ValueError) as error:  # no permission, or an invalid file name
        return f"is not there: {error.strerror if isinstance(error, OSError) else error}"
    return "is a folder"
