"""A split as a torch dataset, and its sampling order."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, default_collate

from segunet.base.errors import UserError
from segunet.data.labels import label_facts
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.objects import read_objects
from segunet.data.transforms import TrainTransform
from segunet.data.voc import Pair
from segunet.images.rasters import read_raster
from segunet.images.reading import read_image, read_size
from segunet.images.resizing import resize_long_side
from segunet.losses.weight_map import BorderWeights

_BALANCE = 1  # after (seed, epoch, index): random numbers other than the augmentation's


class Batch(NamedTuple):
    """One example (without N) or a batch.

    Attributes:
        images: uint8 (N, C, H, W), RGB or the bands of rasters; or latents, float32 (N, C, H, W), see
            :mod:`segunet.data.latents`.
        masks: uint8 (N, H', W'), class index or the ignore index (an eighth of int64's size when copied to the
            device); their size differs from the images' if these were resized for the network.
        names: names of the examples.
        objects: int32 (N, H', W'), the object of each pixel, 0 for none; None unless objects are scored.
        border_weights: float32 (N, H', W'), see :mod:`segunet.losses.weight_map`; None unless the data set has them.
    """

    images: Tensor
    masks: Tensor
    names: Sequence[str]
    objects: Tensor | None = None
    border_weights: Tensor | None = None


class TrainDataset(Dataset[Batch]):
    """Augmented examples, indexed by (epoch, index), so that each epoch is augmented differently in any process.

    Indexed by a number, as a plain ``DataLoader(dataset, shuffle=True, collate_fn=collate)`` does, each example is
    augmented anew, by torch's random numbers.

    With ``transform.class_balance``, an example can be of another image than that of its index: one that has a class
    which is drawn evenly, as a function of the same numbers. All masks are read for that, once.

    Border weights, if any, are computed after the augmentation: an object that the crop cuts in pieces stays one, and
    objects outside the crop do not count.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        form: MaskFormat,
        transform: TrainTransform,
        seed: int,
        border_weights: BorderWeights | None = None,
    ) -> None:
        self.pairs, self.form, self.transform, self.seed = pairs, form, transform, seed
        self.border_weights = border_weights
        self.with_each: dict[int, NDArray[np.int64]] = {}  # indices of the images with each class, if they are needed
        if transform.class_balance > 0:
            self.with_each = label_facts(pairs, form).with_each()
            self.with_each.pop(form.ignore_index, None)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int] | int) -> Batch:
        epoch, index = key if isinstance(key, tuple) else (int(torch.randint(2**31, ())), key)
        shown, centre = self._balanced(epoch, index)
        pair = self.pairs[shown]
        image, mask = read_pair(pair, self.form)
        if centre is not None and not (mask == centre).any():
            if self.form.bands is None:
                raise UserError(
                    f"{pair.mask} has changed since the start: class {centre} is no longer in it. Start again."
                )
            centre = None  # the raster has no data there
        objects = read_objects(pair, mask, self.form.ignore_index) if self.border_weights else None
        image, mask, objects = self.transform(image, mask, (self.seed, epoch, index), objects, centre)
        return as_batch(image, mask, pair.name, border_weights=_weights(objects, self.border_weights))

    def _balanced(self, epoch: int, index: int) -> tuple[int, int | None]:
        """Return the index of the image to show, and the class at the centre of its crop; None for any crop."""
        if not self.with_each:
            return index, None
        rng = np.random.default_rng([self.seed, epoch, index, _BALANCE])
        if rng.uniform() >= self.transform.class_balance:
            return index, None
        centre = list(self.with_each)[rng.integers(len(self.with_each))]
        indices = self.with_each[centre]
        return int(indices[rng.integers(len(indices))]), centre


class EvalDataset(Dataset[Batch]):
    """Whole images, resized to ``inference_size`` on their long side unless it is None; masks unchanged.

    With their ``objects`` and border weights, if wanted.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        form: MaskFormat,
        inference_size: int | None,
        objects: bool = False,
        border_weights: BorderWeights | None = None,
    ) -> None:
        self.pairs, self.form, self.inference_size = pairs, form, inference_size
        self.objects, self.border_weights = objects, border_weights

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Batch:
        pair = self.pairs[index]
        image, mask = read_pair(pair, self.form)
        if self.inference_size is not None:
            image = resize_long_side(image, self.inference_size)
        wanted = self.objects or self.border_weights
        objects = read_objects(pair, mask, self.form.ignore_index) if wanted else None
        weights = _weights(objects, self.border_weights)
        return as_batch(image, mask, pair.name, objects if self.objects else None, weights)


class EpochSampler(DistributedSampler[Any]):
    """Shuffled (epoch, index) pairs of each process, a pure function of (seed, epoch).

    Torch's own order depends on seed + epoch, so seed 0 in epoch 1 would equal seed 1 in epoch 0.

    Attributes:
        resumed: (epoch, number of pairs): that epoch, which a resumed run continues, begins after so many pairs.
    """

    resumed = (0, 0)

    def __iter__(self) -> Iterator[Any]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))  # type: ignore[arg-type]
        order = np.resize(order, self.total_size)  # repeats the start, so that all processes get the same number
        epoch, done = self.resumed
        for index in order[self.rank :: self.num_replicas][done if self.epoch == epoch else 0 :].tolist():
            yield self.epoch, index


def batches_of_equal_size(pairs: Sequence[Pair], batch_size: int, bands: int | None = None) -> list[list[int]]:
    """Group the indices of ``pairs`` by image size, so that whole images can be batched without padding."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, pair in enumerate(pairs):
        by_size.setdefault(read_size(pair.image, bands), []).append(index)
    return [
        indices[start : start + batch_size]
        for indices in by_size.values()
        for start in range(0, len(indices), batch_size)
    ]


def read_pair(pair: Pair, form: MaskFormat) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read an image uint8 (H, W, C) and its mask uint8 (H, W); raises as the two readers.

    Where a raster has no data in any band, its mask is ignored.
    """
    if form.bands is None:
        image = read_image(pair.image, form.image_range)
        return image, read_mask(pair.mask, image.shape[:2], form)
    image, empty = read_raster(pair.image, form.bands, form.image_range)
    mask = read_mask(pair.mask, empty.shape, form)
    return image, np.where(empty, np.uint8(form.ignore_index), mask)


def as_batch(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    name: str,
    objects: NDArray[np.int32] | None = None,
    border_weights: NDArray[np.float32] | None = None,
) -> Batch:
    """Convert to tensors: (H, W, C) -> uint8 (C, H, W), (H', W') -> uint8, int32 and float32 (H', W')."""
    return Batch(
        torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")),
        torch.from_numpy(np.array(mask, dtype=np.uint8)),
        name,
        None if objects is None else torch.from_numpy(objects),
        None if border_weights is None else torch.from_numpy(border_weights),
    )


def collate(examples: Sequence[Batch]) -> Batch:
    """Return the batch of some examples; a field that they do not have stays None, which torch does not collate.

    Without examples, all fields are empty.
    """
    if not examples:
        images, maps = torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0, 1, 1, dtype=torch.uint8)
        return Batch(images, maps, [], maps.int(), maps.float())
    columns: Iterator[tuple[Any, ...]] = zip(*examples, strict=True)
    return Batch._make(None if column[0] is None else default_collate(list(column)) for column in columns)


def _weights(objects: NDArray[np.int32] | None, weights: BorderWeights | None) -> NDArray[np.float32] | None:
    return None if objects is None or weights is None else weights(objects)
