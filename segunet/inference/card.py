"""Cards: the description of network and data set in a checkpoint or exported file, parsed into typed plain values.

A card is untrusted until it is parsed: nothing in it names code, and its sizes are bounded.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from segunet.base.errors import UserError
from segunet.base.validation import Above0, Byte, Pixels, explained
from segunet.data.classes import StoredValue
from segunet.formats.interface import Interface
from segunet.images.levels import Bands, Range, ShownBands, channels_of, check_image_range, shown_channels
from segunet.images.palette import ClassColours, background_of
from segunet.losses.noise_schedule import Prediction, Schedule, Steps, fits

Text = Annotated[str, Field(max_length=10_000)]
Colour = Annotated[list[Byte], Field(min_length=3, max_length=3)]


def _check_class(pair: list[int]) -> list[int]:
    if not 0 <= pair[1] <= 255:
        raise ValueError("must be a stored value and its class, 0 to 255")
    return pair


ValueAndClass = Annotated[list[StoredValue], Field(min_length=2, max_length=2), AfterValidator(_check_class)]

ClassName = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]  # no control characters
ClassNames = Annotated[list[ClassName], Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Border = Annotated[int, Field(ge=0, le=4096)]  # pixels
PixelCount = Annotated[int, Field(ge=0, le=2**45)]  # a sum of 65,536 of them fits into an int64
_MOST_BORDERED = 2**25  # pixels of the smallest batch that an unpadded network takes
_MAX_VALUES = 2**20  # per card; the confusion of 256 classes has 2**16, and each scored image has one

# Further keys in cards of segunet 0.1.0: only training needs them, or they are elsewhere in the card.
_DROPPED = {"_target_", "class_names", "palette", "transform", "batch_size", "download"}

_DROPPED |= {"voc_url", "voc_md5", "sbd_url", "sbd_md5"}


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DataCard(_Plain):
    """The data set that a network was trained on: arguments of ``VOCDataModule``, and ``flip``.

    Attributes:
        bands: number of bands of rasters; None for colour images.
        shown_bands: bands of rasters that are drawn, from 1; None for the first ones.
        background: name of the class that is not painted; None is the one called background, if any.
        mask_values: pairs of a value stored in index masks and its class; None if they are the same.
        flip: whether training images were mirrored, so the network does not tell left from right; None if unknown.
    """

    root: Text
    ignore_index: Byte
    train_split: Text = "train"
    val_split: Text = "val"
    fold: Annotated[int, Field(ge=0, le=2**31)] | None = None
    folds: Annotated[int, Field(ge=2, le=2**31)] = 5
    val_batch_size: Annotated[int, Field(ge=1, le=100_000)] = 1
    num_workers: Annotated[int, Field(ge=0, le=1000)] | None = None
    image_range: Range = None
    bands: Bands | None = None
    shown_bands: ShownBands | None = None
    objects: bool = False
    background: Text | None = None
    mask_values: Annotated[list[ValueAndClass], Field(max_length=2**17)] | None = None
    flip: bool | None = None

    @property
    def channels(self) -> int:
        """Channels of the images that the network takes."""
        return channels_of(self.bands)

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        try:
            check_image_range("data.image_range", self.image_range, self.bands)
            shown_channels(self.shown_bands, self.bands)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="before")
    @classmethod
    def _without_dropped(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        transform = values.get("transform")
        share = transform.get("flip") if isinstance(transform, Mapping) else None
        flip = {"flip": share > 0} if isinstance(share, int | float) else {}
        return {name: value for name, value in values.items() if name not in _DROPPED} | flip


class ObjectsCard(_Plain):
    """Scores of objects: the counts and the error of ``metrics.objects.ObjectScores``."""

    truth: PixelCount
    predicted: PixelCount
    merged: PixelCount
    split: PixelCount
    rand_error: Annotated[float, Field(allow_inf_nan=True)]


class ScoresCard(_Plain):
    """Counts of a validation: arguments of ``scores_from_confusion``."""

    confusion: Annotated[list[list[PixelCount]], Field(max_length=256)]
    images: Count
    image_miou: dict[str, Annotated[float, Field(allow_inf_nan=True)]] = {}
    objects: ObjectsCard | None = None


class ListCard(_Plain):
    """A fingerprint of a list of images, by which a resumed run detects changes.

    Attributes:
        count: number of names.
        names: SHA-256 of the sorted names.
        order: SHA-256 of the names in their order.
    """

    count: Count
    names: Text
    order: Text

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Return the fingerprint of a list with these ``names``."""
        return cls(count=len(names), names=_digest(sorted(names)), order=_digest(names))

    def change_to(self, other: Self) -> str:
        """Describe how another list differs; empty if it is the same."""
        if self.count != other.count:
            return f"it had {self.count} names, now it has {other.count}"
        if self.names != other.names:
            return f"some of its {self.count} names differ"
        return "its names are in another order" if self.order != other.order else ""


class ListsCard(_Plain):
    """The lists that a training started with."""

    train: ListCard
    val: ListCard


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


class Card(_Plain):
    """Contents of every card.

    Attributes:
        version: version of segunet that wrote it.
        class_names: K names.
        palette: RGB of each mask value, 256 colours.
        inference_size: long side in pixels at which images enter the network; None is their own size.
        data: the data set.
    """

    version: Text
    class_names: ClassNames
    palette: Annotated[list[Colour], Field(min_length=256, max_length=256)]
    inference_size: Pixels | None
    data: DataCard

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names must be different names")
        if self.data.background not in (None, *self.class_names):
            raise ValueError("data.background must be one of class_names")
        return self

    @property
    def colours(self) -> ClassColours:
        """How masks are drawn."""
        background = background_of(self.class_names, self.data.background)
        palette = np.array(self.palette, dtype=np.uint8)
        channels = shown_channels(self.data.shown_bands, self.data.bands)
        return ClassColours(list(self.class_names), palette, self.data.ignore_index, background, channels)


class DenoiserCard(_Plain):
    """What a denoiser was trained for, besides its prompts, which are made of the class names.

    Attributes:
        schedule, steps, prediction: arguments of ``losses.noise_schedule.NoiseSchedule``.
        size: side of its samples in pixels.
        latent_scale: what latents are multiplied with; None if the samples are images.
        val_loss: loss of the last validation; None before the first.
    """

    schedule: Schedule
    steps: Steps
    prediction: Prediction
    size: Pixels
    latent_scale: Above0 | None = None
    val_loss: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check_prediction(self) -> Self:
        if not fits(self.schedule, self.prediction):
            raise ValueError(f"denoiser.prediction {self.prediction} does not fit the schedule {self.schedule}")
        return self


class CheckpointCard(Card):
    """The card of a .ckpt file.

    Attributes:
        model: the network's config: a class of ``models.NETWORKS`` as ``_target_``, and its arguments.
        channels_last: memory format of its weights.
        scores: scores of the last validation.
        lists: the training and validation lists; None if unknown.
        denoiser: of a denoiser; None for a segmentation network.
    """

    model: dict[str, JsonValue]
    channels_last: bool
    scores: ScoresCard | None = None
    lists: ListsCard | None = None
    denoiser: DenoiserCard | None = None

    @model_validator(mode="after")
    def _check_scores(self) -> Self:
        sides = {len(self.class_names)}
        if self.scores and {len(self.scores.confusion), *map(len, self.scores.confusion)} != sides:
            raise ValueError("scores.confusion must have a row and a column for each class")
        return self


class PromptsCard(_Plain):
    """Hidden states of the prompts' vocabulary, V names of D numbers each.

    Attributes:
        names: V names.
        named: (V, D), of each name where it is wanted.
        empty: (D,), of a name where it is not wanted.
    """

    names: ClassNames
    named: list[list[float]]
    empty: list[float]


class ExportedDenoiserCard(DenoiserCard):
    """What whoever runs an exported denoiser must know.

    Attributes:
        scale: samples are images, 0..255, divided by it, minus 1; None for latents, which have a ``latent_scale``.
        prompts: None for an unconditional denoiser.
    """

    scale: Above0 | None
    prompts: PromptsCard | None


class ExportedCard(Card):
    """The card of an exported file, with the packages that wrote it and its input and output.

    Attributes:
        border, stride: as in ``models.classic_unet.ClassicUNet``, for an unpadded network; of a denoiser, the number
            that height and width must be multiples of.
        interface: what a segmentation network takes and returns.
        denoiser: of a denoiser; None for a segmentation network.
    """

    torch: Text = ""
    exporter: Text = ""
    ignore_index: Byte
    input: Text
    output: Text
    border: Border = 0
    stride: Annotated[int, Field(ge=1, le=4096)] = 1
    interface: Interface = Interface()
    denoiser: ExportedDenoiserCard | None = None
    checksum: Text = ""

    @model_validator(mode="after")
    def _check_least_batch(self) -> Self:
        if (pixels := self.interface.pixels((self.border + 1) ** 2)) > _MOST_BORDERED:
            raise ValueError(f"border and interface: the smallest batch has {pixels} pixels")
        return self


AnyCard = TypeVar("AnyCard", bound=Card)


def parsed(kind: type[AnyCard], content: Any, path: Path, advice: str) -> AnyCard:
    """Parse the card found in ``path``.

    Raises:
        UserError: a value is missing, unknown or invalid; the message ends with ``advice``.
    """
    if sum(1 for _ in islice(_values(content), _MAX_VALUES)) == _MAX_VALUES:
        raise UserError(f"{path} has an invalid description of its network: it has too many values. {advice}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path} has an invalid description of its network: {explained(error)} {advice}") from error


def _values(content: Any) -> Iterator[None]:
    """Yield once per value in nested containers; shared containers can expand a small file without bound."""
    waiting = [iter([content])]
    while waiting:
        for value in waiting[-1]:
            yield None
            if isinstance(value, list | tuple | dict):
                waiting.append(iter(value.values() if isinstance(value, dict) else value))
                break
        else:
            waiting.pop()
