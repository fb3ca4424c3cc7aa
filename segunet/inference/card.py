"""What a checkpoint or an exported file says of its network and data set, parsed into typed plain values.

A card comes from elsewhere and is hostile until it is parsed: nothing in it names code, and its sizes are bounded.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from segunet.base.errors import UserError
from segunet.base.validation import Byte, Pixels, explained
from segunet.images.reading import Range

Text = Annotated[str, Field(max_length=10_000)]
Colour = Annotated[list[Byte], Field(min_length=3, max_length=3)]

ClassName = Annotated[
    str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")
]  # nothing that steers a terminal
ClassNames = Annotated[list[ClassName], Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=0, le=2**62)]
PixelCount = Annotated[int, Field(ge=0, le=2**45)]  # 65,536 of them still fit into an int64
_MOST_VALUES = 2**20  # of a card; the confusion of 256 classes has 2**16, and each image that was scored has one

# What cards of segunet 0.1.0 held of the data config besides; a training alone needs it, or the card says it elsewhere.
_DROPPED = {"_target_", "class_names", "palette", "transform", "batch_size", "download"}

_DROPPED |= {"voc_url", "voc_md5", "sbd_url", "sbd_md5"}


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DataCard(_Plain):
    """The data set that a network was trained on: arguments of ``VOCDataModule``, and ``flip``.

    Attributes:
        flip: the training mirrored images, so that left and right are alike to the network; None if not known.
    """

    root: Text
    ignore_index: Byte
    train_split: Text = "train"
    val_split: Text = "val"
    val_batch_size: Annotated[int, Field(ge=1, le=100_000)] = 1
    num_workers: Annotated[int, Field(ge=0, le=1000)] | None = None
    image_range: Range = None
    flip: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_dropped(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        transform = values.get("transform")
        share = transform.get("flip") if isinstance(transform, Mapping) else None
        flip = {"flip": share > 0} if isinstance(share, int | float) else {}
        return {name: value for name, value in values.items() if name not in _DROPPED} | flip


class ScoresCard(_Plain):
    """A validation's counts: arguments of ``scores_from_confusion``."""

    confusion: Annotated[list[list[PixelCount]], Field(max_length=256)]
    images: Count
    image_miou: dict[str, Annotated[float, Field(allow_inf_nan=True)]] = {}


class ListCard(_Plain):
    """A fingerprint of a list of images, by which a resumed run sees that it is another one.

    Attributes:
        count: of its names.
        names: SHA-256 of its names, sorted.
        order: SHA-256 of its names as they stand.
    """

    count: Count
    names: Text
    order: Text

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Return the fingerprint of a list with these ``names``."""
        return cls(count=len(names), names=_digest(sorted(names)), order=_digest(names))

    def change_to(self, other: Self) -> str:
        """Return what another list has changed; empty if it is the same."""
        if self.count != other.count:
            return f"it had {self.count} names, now it has {other.count}"
        if self.names != other.names:
            return f"some of its {self.count} names are others"
        return "its names stand in another order" if self.order != other.order else ""


class ListsCard(_Plain):
    """The lists that a training began with."""

    train: ListCard
    val: ListCard


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


class Card(_Plain):
    """What every card says.

    Attributes:
        version: of segunet, that wrote it.
        class_names: K names.
        palette: RGB of every value of a mask, 256 colours.
        inference_size: long side in pixels at which images enter the network; None is their own size.
        data: the data set.
    """

    version: Text
    class_names: ClassNames
    palette: Annotated[list[Colour], Field(min_length=256, max_length=256)]
    inference_size: Pixels | None
    data: DataCard

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names must be different names")
        return self

    @property
    def colours(self) -> NDArray[np.uint8]:
        """The palette as uint8 (256, 3)."""
        return np.array(self.palette, dtype=np.uint8)


class CheckpointCard(Card):
    """The card of a .ckpt file.

    Attributes:
        model: the network's config: a class of ``models.NETWORKS`` as ``_target_``, and its arguments.
        channels_last: how its weights lie in memory.
        scores: of the last validation.
        lists: what it was trained on and validated with; None if not known.
    """

    model: dict[str, JsonValue]
    channels_last: bool
    scores: ScoresCard | None = None
    lists: ListsCard | None = None

    @model_validator(mode="after")
    def _scores_fit(self) -> Self:
        sides = {len(self.class_names)}
        if self.scores and {len(self.scores.confusion), *map(len, self.scores.confusion)} != sides:
            raise ValueError("scores.confusion must have a row and a column for each class")
        return self


class ExportedCard(Card):
    """The card of an exported file: with which packages it was written, and what goes in and comes out."""

    torch: Text = ""
    exporter: Text = ""
    ignore_index: Byte
    input: Text
    output: Text
    checksum: Text = ""


AnyCard = TypeVar("AnyCard", bound=Card)


def parsed(kind: type[AnyCard], content: Any, path: Path, advice: str) -> AnyCard:
    """Return the card that was found in ``path``.

    Raises:
        UserError: a value is missing, unknown, or of another type or size; ends with ``advice``.
    """
    if sum(1 for _ in islice(_values(content), _MOST_VALUES)) == _MOST_VALUES:
        raise UserError(f"{path} does not describe its network as segunet does: it has too many values. {advice}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path} does not describe its network as segunet does: {explained(error)} {advice}") from error


def _values(content: Any) -> Iterator[None]:
    """Give one for each value in nested containers; few in a file can stand for more than can ever be walked."""
    waiting = [iter([content])]
    while waiting:
        for value in waiting[-1]:
            yield None
            if isinstance(value, list | tuple | dict):
                waiting.append(iter(value.values() if isinstance(value, dict) else value))
                break
        else:
            waiting.pop()
