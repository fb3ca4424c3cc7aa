"""Latents of another model's autoencoder, stored in a folder, for a denoiser to be trained on.

<root>/<split>/<name>.npy    float (C, H, W), one latent; all are of one size, and square
<root>/<split>/<name>.txt    its prompt: names with commas between them, such as "disc, star"; empty for none

Shapes: C channels, H and W height and width.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segunet.base.errors import UserError
from segunet.base.files import is_file, read_whole
from segunet.base.terminal import progress_bar
from segunet.base.validation import Above0, Count, Positive, Text, checked
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import Batch
from segunet.data.voc import Pair
from segunet.models.prompts import check_names, parsed_prompt, vocabulary_of

logger = logging.getLogger(__name__)
_NO_INDEX = 255  # not a class: prompts have no ignored one
_MOST_CHANNELS, _LARGEST_SIDE = 4096, 4096
_LONGEST_PROMPT = 10_000  # bytes


class LatentDataset(Dataset[Batch]):
    """Latents and their prompts, indexed by index or, in training, by (epoch, index).

    The images of a batch are the latents times ``scale``, float32 (N, C, H, W); its masks are uint8 (N, 1, V), the
    class indices of the prompt's names, 0 elsewhere.
    """

    def __init__(self, pairs: Sequence[Pair], scale: float, vocabulary: dict[int, str]) -> None:
        self.pairs, self.scale, self.vocabulary = pairs, scale, vocabulary

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        pair = self.pairs[key[1] if isinstance(key, tuple) else key]
        latent = torch.from_numpy(read_latent(pair.image)) * self.scale
        return Batch(latent, read_prompt(pair.mask, self.vocabulary), pair.name)


@checked("data", seed="seed", inference_size="inference_size")
class LatentsDataModule(VOCDataModule):
    """A folder of latents, see above.

    Args:
        root: the folder that holds the splits.
        class_names: the vocabulary of the prompts, after class 0, the background, which no prompt names.
        train_split: folder to train on.
        val_split: folder to validate on.
        scale: what latents are multiplied with, so that their standard deviation is about 1.
        batch_size: latents per training batch.
        val_batch_size: latents per validation batch.
        num_workers: number of loader processes; None is one per core, at most 8.
        inference_size: None.
        seed: seed of the order.

    Raises:
        UserError: an invalid value; on setup, an invalid folder.
    """

    def __init__(
        self,
        root: Text,
        class_names: Sequence[Text],
        train_split: Text,
        val_split: Text,
        scale: Above0,
        batch_size: Positive = 1,
        val_batch_size: Positive = 1,
        num_workers: Count | None = None,
        inference_size: None = None,
        seed: Count = 0,
    ) -> None:
        super().__init__(
            root,
            class_names,
            _NO_INDEX,
            train_split,
            val_split,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        if len(class_names) > _NO_INDEX:
            raise UserError(f"data.class_names has {len(class_names)} names, latents take at most {_NO_INDEX}.")
        self.scale = self.latent_scale = scale
        self.vocabulary = vocabulary_of(self.class_names, _NO_INDEX)
        check_names(list(self.vocabulary.values()))

    @property
    def side(self) -> int:
        """The side of the latents."""
        return latent_shape(self.train_pairs[0].image)[1]

    @property
    def channels(self) -> int:
        """The channels of the latents."""
        return latent_shape(self.train_pairs[0].image)[0]

    def check_root(self) -> None:
        """Raise a UserError unless there is the training folder."""
        list_latents(self.root, self.train_split)

    def setup(self, stage: str) -> None:
        """List the latents, and check that all are of one size; ``stage`` is Lightning's."""
        if stage == self.stage:
            return
        if stage != "fit":
            raise UserError(f"{self.root}: data=latents is for the training of a denoiser alone.")
        self.train_pairs = list_latents(self.root, self.train_split)
        self.val_pairs = list_latents(self.root, self.val_split)
        self.check_batch_size()
        check_one_size([*self.train_pairs, *self.val_pairs])
        self.stage = stage

    def check_labels(self) -> None:
        """Read every latent and prompt, in one process only; warn of a scale that is far from what noise has.

        Raises:
            UserError: as :func:`read_latent` and :func:`read_prompt`.
        """
        squares = []
        with progress_bar() as bar:
            for pair in bar.track([*self.train_pairs, *self.val_pairs], description="reading the latents"):
                squares.append(float(np.square(read_latent(pair.image), dtype=np.float64).mean()))
                read_prompt(pair.mask, self.vocabulary)
        size = self.scale * math.sqrt(sum(squares) / len(squares))
        if not 0.2 < size < 5:
            text = "the latents times data.scale=%g have a root mean square of %.3g, noise has 1: try data.scale=%.3g"
            logger.warning(text, self.scale, size, self.scale / size if size else 1)

    def val_dataset(self) -> Dataset[Batch]:
        """Return the validation latents, in the order of their names."""
        return LatentDataset(self.val_pairs, self.scale, self.vocabulary)

    def _train_dataset(self) -> Dataset[Batch]:
        return LatentDataset(self.train_pairs, self.scale, self.vocabulary)

    def _val_batches(self) -> list[list[int]]:
        indices = list(range(len(self.val_pairs)))
        return [indices[first : first + self.val_batch_size] for first in indices[:: self.val_batch_size]]


def list_latents(root: Path, split: str) -> list[Pair]:
    """Return the latents of ``root/split`` and their prompts' files, by name.

    Raises:
        UserError: no folder, no latent in it, or one without a prompt.
    """
    folder = root / split
    try:
        latents = sorted(folder.glob("*.npy")) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder.absolute()} cannot be read: {error}.") from error
    if not latents:
        state = "holds no .npy file" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder.absolute()} {state}. Wanted a folder of latents, <name>.npy with float (C, H, W), each with its "
            "prompt in <name>.txt: give its parent as data.root and its name as data.train_split or data.val_split."
        )
    pairs = [Pair(f"{split}/{path.stem}", path, path.with_suffix(".txt")) for path in latents]
    for pair in pairs:
        if not is_file(pair.mask):
            raise UserError(
                f"{pair.image} has no prompt: there is no file {pair.mask.name} beside it. Write the names of what it "
                "shows into it, with commas between them; an empty file is the empty prompt."
            )
    return pairs


def check_one_size(pairs: Sequence[Pair]) -> None:
    """Raise a UserError unless all latents have the shape of the first one, a square."""
    wanted = latent_shape(pairs[0].image)
    if wanted[1] != wanted[2]:
        raise UserError(f"{pairs[0].image} is {wanted}: the latents must be square, (C, S, S).")
    for pair in pairs:
        if (shape := latent_shape(pair.image)) != wanted:
            raise UserError(
                f"{pair.image} is {shape}, but {pairs[0].image} is {wanted}: all latents must be of one size."
            )


def latent_shape(path: Path) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of a latent; raises as :func:`read_latent`, without reading its values."""
    channels, height, width = _opened(path).shape
    return channels, height, width


def read_latent(path: Path) -> NDArray[np.float32]:
    """Read a latent, float32 (C, H, W).

    Raises:
        UserError: no .npy file of finite floats (C, H, W), or it is larger than 4096 in any direction.
    """
    with np.errstate(over="ignore"):  # becomes infinity
        values = np.asarray(_opened(path), dtype=np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{path} contains NaN or infinity. Write this latent again, or remove it with its prompt.")
    return np.array(values)


def _opened(path: Path) -> NDArray[np.floating]:
    """Map a latent of any float type into memory; its values are not read."""
    try:
        values = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # damaged headers raise errors of many kinds, also of zipfile and tokenize
        raise UserError(
            f"{path} is no .npy file of numbers, or it is damaged ({' '.join(str(error).split())[:200]}). Write it "
            "with numpy.save(path, latent), latent a float array (C, H, W)."
        ) from error
    shape = getattr(values, "shape", ())
    largest = (_MOST_CHANNELS, _LARGEST_SIDE, _LARGEST_SIDE)
    fits = len(shape) == 3 and all(0 < side <= most for side, most in zip(shape, largest, strict=True))
    if not fits or values.dtype.kind != "f":
        kind = getattr(values, "dtype", type(values).__name__)
        raise UserError(
            f"{path} is {kind} {shape}. Wanted one latent, float (C, H, W), of at most {_MOST_CHANNELS} channels and a "
            f"side of at most {_LARGEST_SIDE}."
        )
    return values


def read_prompt(path: Path, vocabulary: dict[int, str]) -> Tensor:
    """Return the class indices of a prompt's names, uint8 (1, V), 0 where a name is not in it.

    Raises:
        UserError: no text, or one that has other names than those of the ``vocabulary``.
    """
    try:
        text = read_whole(path, _LONGEST_PROMPT).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text, a prompt of class names: {error}.") from error
    try:
        present = parsed_prompt(text.strip(), list(vocabulary.values()))
    except UserError as error:
        raise UserError(f"{path}: {error} They are data.class_names without the first, the background.") from error
    return (torch.tensor(list(vocabulary), dtype=torch.uint8) * present)[None]
