"""From a VOC folder to training and validation loaders."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segunet.base.environment import shared_memory
from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.validation import Above0, Byte, Count, Finite, Pixels, Positive, Text, checked
from segunet.data.built_in import BuiltIn, check, write
from segunet.data.cells import the_cells
from segunet.data.channels import check_channel_settings, check_rasters
from segunet.data.classes import Colour, StoredValue, check_background, check_class_names, full_palette, stored_values
from segunet.data.dataset import Batch, EpochSampler, EvalDataset, TrainDataset, batches_of_equal_size, collate
from segunet.data.download import SBD_MD5, SBD_URL, VOC_MD5, VOC_URL, download_sbd, download_voc2012
from segunet.data.labels import LabelFacts, absent_classes, check_learnable, label_facts
from segunet.data.masks import MaskFormat, enet_weights
from segunet.data.objects import check_object_maps
from segunet.data.sample import the_sample
from segunet.data.transforms import TrainTransform
from segunet.data.voc import SBD_SPLIT, Pair, find_voc_folder, list_pairs, split_fold, voc_folder_in
from segunet.data.workers import prepare_worker
from segunet.images.levels import Bands, Range, ShownBands, channels_of, shown_channels
from segunet.images.palette import ClassColours, background_of
from segunet.images.reading import read_size, warn_of_few_levels
from segunet.losses.weight_map import BorderWeights

logger = logging.getLogger(__name__)
_OFF = BorderWeights(w0=0.0)


@checked("data", inference_size="inference_size", seed="seed")
class VOCDataModule(pl.LightningDataModule):
    """A folder in VOC's layout (see ``voc.py``).

    Args:
        root: the folder that holds VOCdevkit, VOCdevkit itself, or the folder with JPEGImages.
        class_names: names of class 0, 1, ...
        ignore_index: mask value of ignored pixels.
        train_split: list to train on; trainaug takes its masks from SegmentationClassAug.
        val_split: list to validate on.
        fold: k-fold cross-validation: train on ``train_split`` without this part of it, validate on the part instead of
            ``val_split``; None for no such parts.
        folds: number of parts.
        transform: augmentation of the training images; None if nothing is trained.
        batch_size: images per training batch.
        val_batch_size: maximum number of images per validation batch (all of equal size).
        num_workers: number of loader processes; None is one per core, at most 8.
        palette: RGB of each class, for colour masks and images; None is VOC's.
        ignore_color: RGB of ignored pixels, for colour masks and images; None is VOC's, or that of the class which is
            ignored.
        mask_values: class, or ``ignore_index``, of each value stored in index masks, such as {0: 0, 255: 1}; None if
            they hold class indices. The ignore_index stays itself unless it is given another.
        reduce_zero_label: whether index masks count the classes from 1, and 0 is ignored.
        background: name of the class that is not painted in images; None is the one called background, if any.
        download: download VOC2012 (and SBD, for trainaug) into ``root`` if missing.
        voc_url, sbd_url: alternative addresses of the archives; None is torchvision's.
        voc_md5, sbd_md5: md5 of these archives, if they were repacked; None is torchvision's.
        image_range: [low, high], the values of 16-bit images that become 0 and 255; None is [0, 65535]. For rasters, of
            any values, and also one such pair for each band.
        bands: number of bands of rasters (.tif files); None for colour images.
        shown_bands: bands of rasters that images are drawn by, from 1: three for red, green and blue, or one for grey;
            None for the first ones.
        mean, std: of each channel of the images as the network gets them, 0..255, which a model can take.
        inference_size: long side at which validation images enter the network; None is their own size.
        objects: whether the masks show separate objects, which are scored too; they are read from SegmentationObject
            if there is such a folder (not for trainaug), else they are the connected regions of the masks' classes.
        border_weights: weights of the pixels between objects in the loss; off with w0 = 0.
        seed: seed of the order and the augmentation.

    Raises:
        UserError: an invalid value; on setup, an invalid folder.
    """

    def __init__(
        self,
        root: Text,
        class_names: Sequence[Text],
        ignore_index: Byte,
        train_split: Text,
        val_split: Text,
        transform: TrainTransform | None = None,
        batch_size: Positive = 1,
        val_batch_size: Positive = 1,
        num_workers: Count | None = None,
        palette: Sequence[Colour] | None = None,
        ignore_color: Colour | None = None,
        background: Text | None = None,
        mask_values: Mapping[StoredValue, Byte] | None = None,
        reduce_zero_label: bool = False,
        fold: Count | None = None,
        folds: Annotated[int, Field(ge=2)] = 5,
        download: bool = False,
        voc_url: str | None = None,
        voc_md5: Text | None = None,
        sbd_url: str | None = None,
        sbd_md5: Text | None = None,
        image_range: Range = None,
        bands: Bands | None = None,
        shown_bands: ShownBands | None = None,
        mean: Sequence[Finite] | None = None,
        std: Sequence[Above0] | None = None,
        inference_size: Pixels | None = None,
        objects: bool = False,
        border_weights: BorderWeights = _OFF,
        seed: Count = 0,
    ) -> None:
        super().__init__()
        check_class_names(class_names)
        self.root = Path(root).expanduser()
        self.class_names = list(class_names)
        check_background(background, class_names)
        self.background = background
        self.shown_bands = None if shown_bands is None else list(shown_bands)
        self.shown_channels = shown_channels(shown_bands, bands)
        colours = full_palette(palette, len(class_names), ignore_index, ignore_color)
        values = stored_values(mask_values, reduce_zero_label, len(class_names), ignore_index)
        check_channel_settings(bands, image_range, mean, std, transform)
        self.form = MaskFormat(len(class_names), ignore_index, colours, image_range, values, bands)
        self.train_split, self.val_split, self.fold, self.folds = train_split, val_split, fold, folds
        if fold is not None and fold >= folds:
            raise UserError(f"data.fold={fold}: with data.folds={folds} there are folds 0 to {folds - 1}.")
        self.transform = transform
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.num_workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        self.download = download
        self.archives = {
            "voc": (voc_url or VOC_URL, voc_md5 or VOC_MD5),
            "sbd": (sbd_url or SBD_URL, sbd_md5 or SBD_MD5),
        }
        self.inference_size = inference_size
        self.objects = objects
        self.border_weights = border_weights if border_weights.w0 > 0 else None
        self.seed = seed
        self.first_epoch = 0  # number of epochs a resumed run has completed
        self.first_batch = 0  # number of batches it has done, in each process, of the next one
        self.stage: str | None = None  # stage that the lists were read for
        self.train_pairs: list[Pair] = []
        self.val_pairs: list[Pair] = []
        self.latent_scale: float | None = None  # of latents, see latents.py

    @property
    def val_name(self) -> str:
        """What is validated on, for messages."""
        return self.val_split if self.fold is None else f"fold {self.fold} of {self.folds} of {self.train_split}"

    @property
    def colours(self) -> ClassColours:
        """How masks are drawn."""
        background = background_of(self.class_names, self.background)
        return ClassColours(
            self.class_names, self.form.palette, self.form.ignore_index, background, self.shown_channels
        )

    @property
    def resumed(self) -> bool:
        """Whether a resumed run trains on it, which has done a part already."""
        return self.first_epoch > 0 or self.first_batch > 0

    @property
    def side(self) -> int:
        """The side of a denoiser's samples: the training crops'."""
        assert self.transform is not None
        return self.transform.crop_size

    @property
    def channels(self) -> int:
        """The channels of an image, or of a denoiser's samples."""
        return channels_of(self.form.bands)

    def check_root(self) -> None:
        """Raise a UserError unless the data set is there, without writing it."""
        find_voc_folder(self.root)

    def needs_objects(self, stage: str) -> bool:
        """Return whether the objects of the images are scored or, in the stage "fit", weight the loss."""
        return self.objects or (self.border_weights is not None and stage == "fit")

    def prepare_data(self) -> None:
        """Download missing data if ``download`` is set; called in one process only."""
        if self.download:
            folder = voc_folder_in(self.root) or download_voc2012(self.root, *self.archives["voc"])
            if self.train_split == SBD_SPLIT:
                download_sbd(folder, *self.archives["sbd"])

    def prepare_scoring(self) -> None:
        """Prepare the data like :meth:`prepare_data`, without changing existing data."""
        self.prepare_data()

    def setup(self, stage: str) -> None:
        """Read the lists once and check that the files exist; ``stage`` is Lightning's."""
        if stage == self.stage:
            return
        folder = find_voc_folder(self.root)
        listed = partial(list_pairs, folder, objects=self.needs_objects(stage))
        if self.fold is None:
            train_pairs, self.val_pairs = (listed(self.train_split) if stage == "fit" else []), listed(self.val_split)
        else:
            train_pairs, self.val_pairs = split_fold(listed(self.train_split), self.fold, self.folds)
        if stage == "fit":
            self.train_pairs = train_pairs
            self.check_batch_size()
            if self.form.bands is not None:
                check_rasters([pair.image for pair in self.train_pairs], self.form)
                logger.info("data.bands=%d: colour jitter is of brightness and contrast alone", self.form.bands)
            warn_of_few_levels(
                [pair.image for pair in self.train_pairs], self.form.image_range, self.form.bands, "data.image_range"
            )
        self.stage = stage

    def check_labels(self) -> None:
        """Check every mask of the lists, in one process only; warn about absent classes.

        Raises:
            UserError: an invalid mask, or a list that nothing can be learned from.
        """
        for split, pairs, effect in (
            (self.train_split, self.train_pairs, "cannot be learned"),
            (self.val_name, self.val_pairs, "cannot be scored"),
        ):
            if pairs:
                facts = label_facts(pairs, self.form)
                check_learnable(facts, self.form, split)
                self._check_objects(pairs, split, facts)
                absent = absent_classes(facts, self.form, self.class_names)
                if absent and self.train_pairs:
                    logger.warning("no mask of list %s has %s: these classes %s", split, abbreviated(absent, 8), effect)

    def _check_objects(self, pairs: Sequence[Pair], split: str, facts: LabelFacts) -> None:
        """Raise a UserError for an invalid object map, or if there are no objects to weight the borders of."""
        if self.border_weights and self.stage == "fit" and not facts.values - {0, self.form.ignore_index}:
            raise UserError(
                f"data.border_weights needs objects, but all masks of list {split!r} of {self.root} are background. "
                "Set data.border_weights.w0=0, or check the masks."
            )
        check_object_maps(pairs, self.form)

    def check_shared_memory(self) -> None:
        """Raise a UserError if the batches prefetched by loader processes exceed the shared memory."""
        room = shared_memory()
        if not self.num_workers or room is None:
            return
        batch, ready = max(self._batch_bytes()), 2 * self.num_workers  # each process prefetches two, torch's default
        if ready * batch > room:
            raise UserError(
                f"data.num_workers={self.num_workers} loader processes prefetch up to {ready} batches of "
                f"{batch / 1e6:.3g} MB, {ready * batch / 1e6:.3g} MB in all, but /dev/shm has only "
                f"{room / 1e6:.3g} MB free. Set data.num_workers={room // (2 * batch)}, lower the batch size, or "
                "enlarge /dev/shm (docker run --shm-size=8g, or --ipc=host)."
            )

    def _batch_bytes(self) -> Iterator[int]:
        """Yield the size in bytes of a training batch, if any, and of the largest validation batch."""
        if self.train_pairs:
            yield self.batch_size * _bytes(self._train_dataset()[0, 0])
        largest = self._val_batches()[0]
        yield len(largest) * _bytes(self.val_dataset()[largest[0]])

    def class_weights(self) -> list[float]:
        """Return :func:`segunet.data.masks.enet_weights` of the training masks."""
        pixels = label_facts(self.train_pairs, self.form).pixels[: self.form.num_classes]
        return enet_weights(pixels, self.form.ignore_index)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of shuffled, augmented images; incomplete batches are dropped."""
        self.check_batch_size()
        dataset = self._train_dataset()
        world, rank = self._world_and_rank()
        sampler = EpochSampler(dataset, num_replicas=world, rank=rank, seed=self.seed)
        # Lightning sets the sampler's epoch only after worker processes have started on the first one.
        sampler.set_epoch(self.first_epoch)
        sampler.resumed = (self.first_epoch, self.first_batch * self.batch_size)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            **self._worker_options(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of every image once over all processes, in batches of equal image size, the largest first.

        If one runs out of memory, it is the first. A process for which none is left gets an empty batch,
        as all take part in what DDP does at a validation's first one.
        """
        world, rank = self._world_and_rank()
        batches = self._val_batches()[rank::world] or [[]]
        return DataLoader(self.val_dataset(), batch_sampler=batches, **self._worker_options())

    def val_dataset(self) -> Dataset[Batch]:
        """Return the validation images, in the list's order; border weights are for a training's validation loss."""
        weights = self.border_weights if self.stage == "fit" else None
        return EvalDataset(self.val_pairs, self.form, self.inference_size, self.objects, weights)

    def _train_dataset(self) -> Dataset[Batch]:
        assert self.transform is not None
        return TrainDataset(self.train_pairs, self.form, self.transform, self.seed, self.border_weights)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the validation loader, for an evaluation."""
        return self.val_dataloader()

    def check_batch_size(self) -> None:
        """Raise a UserError if the training list is too short for one batch in each process."""
        world, _ = self._world_and_rank()
        if len(self.train_pairs) < self.batch_size * world:
            each = f" in each of {world} processes" if world > 1 else ""
            raise UserError(
                f"data.batch_size is {self.batch_size}{each}, but list {self.train_split!r} of {self.root} has only "
                f"{counted(len(self.train_pairs), 'example')}, and incomplete batches are dropped. Lower "
                "data.batch_size."
            )

    def _val_batches(self) -> list[list[int]]:
        batches = batches_of_equal_size(self.val_pairs, self.val_batch_size, self.form.bands)
        pixels = [
            len(batch) * math.prod(read_size(self.val_pairs[batch[0]].image, self.form.bands)) for batch in batches
        ]
        largest = batches.pop(int(np.argmax(pixels)))
        return [largest, *batches]

    def _world_and_rank(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _worker_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": prepare_worker,
            "collate_fn": collate,
        }


class BuiltInDataModule(VOCDataModule):
    """A built-in data set: a VOC folder that is generated once. Attribute ``built_in``: returns which one."""

    built_in: Callable[[], BuiltIn]

    def prepare_data(self) -> None:
        """Write the folder if it is missing or of an older version; called in one process only."""
        write(self.built_in(), self.root)

    def prepare_scoring(self) -> None:
        """Write the folder if it is missing; existing data is never overwritten.

        Raises:
            UserError: it holds an older version.
        """
        check(self.built_in(), self.root)
        self.prepare_data()


class SampleDataModule(BuiltInDataModule):
    """The built-in sample."""

    built_in = staticmethod(the_sample)


class CellsDataModule(BuiltInDataModule):
    """The built-in cells, with SegmentationObject."""

    built_in = staticmethod(the_cells)


def _bytes(example: Batch) -> int:
    return sum(field.nbytes for field in example if isinstance(field, Tensor))
