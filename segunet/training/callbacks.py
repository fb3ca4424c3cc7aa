"""Callbacks of a run: seeds, images, saved predictions, freezing, when it ends, weight averaging."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Timer, WeightAveraging
from torch import Tensor, nn

from segunet.base.errors import UserError, counted
from segunet.base.files import check_within, save_png, whole_file
from segunet.data.dataset import Batch
from segunet.images.drawing import ImageArray, confusion_image, palette_image, stack, strip
from segunet.images.palette import ClassColours
from segunet.images.rasters import save_georeferenced
from segunet.training.board import log_images, shows_images
from segunet.training.checkpoints import is_single_number
from segunet.training.monitor import Monitor
from segunet.training.scoring import ScoringTask

logger = logging.getLogger(__name__)

_LONG_SIDE = 1024  # largest side of an image in a strip, in pixels
STRIPS = "image_truth_prediction.png"  # in an evaluation's folder


class StepSeed(Callback):
    """Make a step's random numbers, such as a dropout's, a function of (seed, epoch, batch, process).

    A resumed run then draws what the uninterrupted one would have.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Seed the generators of the CPU and of the network's device.

        At each batch, as loaders draw from them too, at times that a resume changes.
        """
        key = np.random.SeedSequence([self.seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        seed = int(key.generate_state(1, np.uint64)[0])
        # torch.manual_seed would seed every kind of device, and takes a millisecond for each that is not there.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)


class ImageStrips(Callback):
    """Strips (image | truth | prediction) of the first images, with a legend, and the confusion matrix.

    In training they are logged after each validation; an evaluation writes them as PNGs.

    Args:
        count: number of images.
        colours: how the masks are drawn.
        folder: folder that an evaluation writes them to.
    """

    def __init__(self, count: int, colours: ClassColours, folder: Path) -> None:
        self.count, self.colours, self.folder = count, colours, folder
        self.strips: list[ImageArray] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Keep the first strips."""
        self._keep(batch, outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Keep the first strips."""
        self._keep(batch, outputs)

    def _keep(self, batch: Batch, predictions: Tensor) -> None:
        for image, mask, prediction in zip(batch.images, batch.masks, predictions, strict=True):
            if len(self.strips) == self.count:
                return
            step = math.ceil(max(mask.shape) / _LONG_SIDE)
            truth, predicted = (each[::step, ::step].cpu().numpy() for each in (mask, prediction))
            self.strips.append(strip(image.cpu().numpy().transpose(1, 2, 0), truth, predicted, self.colours))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the strips and the confusion matrix."""
        strips, self.strips = self.strips, []
        if trainer.sanity_checking or not shows_images(trainer):
            return
        assert isinstance(pl_module, ScoringTask)
        assert pl_module.scores is not None
        images = {f"val/image_truth_prediction/{number}": each for number, each in enumerate(strips)}
        matrix = confusion_image(pl_module.scores.confusion, self.colours.names)
        log_images(trainer, images | {"val/confusion_matrix": matrix})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the strips as one PNG."""
        if self.strips and trainer.is_global_zero:
            assert isinstance(pl_module, ScoringTask)
            save_png(stack(self.strips), self.folder / STRIPS)


class SavePredictions(Callback):
    """Write each prediction of an evaluation as an index PNG ``<folder>/<name>.png`` with the palette.

    Those of a georeferenced image are written as a GeoTIFF, too. Each file is written atomically; other files in the
    folder are kept and reported.

    Args:
        folder: to write to.
        colours: of the masks.
        georeferenced: the file of each such image, by its name.
        no_data: returns where the raster of a name has no data, bool (H, W), which is ignored; None for other images.
    """

    def __init__(
        self,
        folder: Path,
        colours: ClassColours,
        georeferenced: Mapping[str, Path],
        no_data: Callable[[str], NDArray[np.bool_]] | None = None,
    ) -> None:
        self.folder, self.colours, self.georeferenced, self.no_data = folder, colours, georeferenced, no_data

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Write a batch's files.

        Raises:
            UserError: a name, or a link, leads out of the folder.
        """
        check_within(self.folder, [f"{name}{suffix}" for name in batch.names for suffix in (".png", ".tif")])
        for name, prediction in zip(batch.names, outputs, strict=True):
            mask = prediction.cpu().numpy().astype(np.uint8)
            if self.no_data is not None:
                mask[self.no_data(name)] = self.colours.ignore_index
            with whole_file(self.folder / f"{name}.png") as file:
                palette_image(mask, self.colours.palette).save(file, format="PNG")
            if name in self.georeferenced:
                with whole_file(self.folder / f"{name}.tif") as file:
                    save_georeferenced(mask, self.colours, self.georeferenced[name], file)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many files in the folder are not from this evaluation."""
        trainer.strategy.barrier()
        assert isinstance(pl_module, ScoringTask)
        assert pl_module.scores is not None
        written = pl_module.scores.images + len(self.georeferenced)
        others = sum(path.is_file() for path in self.folder.rglob("*")) - written
        if trainer.is_global_zero and others:
            logger.warning("%s in %s: not from this evaluation", counted(others, "other file"), self.folder)


class FreezeEncoder(Callback):
    """Freeze ``net.encoder``, including its batch-norm statistics, for the first epochs.

    The state depends only on the epoch number, so a resumed run freezes and unfreezes like an uninterrupted one.

    Args:
        epochs: number of epochs to freeze it for.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the encoder and its trainable parameters."""
        finds_unused = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters", False)
        if trainer.world_size > 1 and not finds_unused:
            raise UserError(
                "callbacks.freeze_encoder_epochs on several devices leaves parameters without gradients at first: add "
                "trainer.strategy=ddp_find_unused_parameters_true."
            )
        assert isinstance(pl_module.net, nn.Module)
        self.encoder = pl_module.net.get_submodule("encoder")
        self.trainable = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or unfreeze for an epoch that a resumed run continues."""
        self._freeze_or_unfreeze(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or unfreeze."""
        self._freeze_or_unfreeze(trainer)

    def _freeze_or_unfreeze(self, trainer: Trainer) -> None:
        unfrozen = trainer.current_epoch >= self.epochs
        for parameter in self.trainable:
            parameter.requires_grad_(unfrozen)
        self.encoder.train(unfrozen)


class EarlyStopping(pl.callbacks.EarlyStopping):
    """Stop after ``patience`` validations without a better score; a resumed run may change the patience."""

    def __init__(self, patience: int, monitor: Monitor) -> None:
        super().__init__(monitor.name, mode=monitor.mode, patience=patience, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and the number of validations since.

        Raises:
            ValueError: the score is not a number.
        """
        if not is_single_number(state_dict["best_score"]):
            raise ValueError("early stopping has no best score")
        super().load_state_dict({**state_dict, "patience": self.patience})


def max_steps_of(trainer: DictConfig) -> int | None:
    """Return the maximum number of steps of the ``trainer`` config; None for no limit."""
    return None if trainer.max_steps == -1 else int(trainer.max_steps)


class MaxSteps(Callback):
    """Stop the run after a number of optimizer steps, with a validation.

    Lightning's own ``max_steps`` makes a resumed run skip an epoch.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop the training when the steps are done."""
        self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a resumed run of which only the last validation was left."""
        self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


class MaxTime(Timer):
    """Stop the run, with a validation, when it has trained for a time, that before a resume included.

    Args:
        limit: days:hours:minutes:seconds; None for no limit: then the time is only kept.

    Raises:
        UserError: another text.
    """

    def __init__(self, limit: str | None = None) -> None:
        try:
            super().__init__(None if limit is None else str(limit), verbose=False)
        except (MisconfigurationException, OverflowError) as error:
            raise UserError(
                f"trainer.max_time={limit}: wanted days:hours:minutes:seconds, such as 00:08:00:00 for eight hours, in "
                "quotes in a YAML file."
            ) from error
        self.limit = limit

    def is_over(self) -> bool:
        """Return whether the time is over."""
        left = self.time_remaining()
        return left is not None and left <= 0

    def on_fit_start(self, trainer: Trainer, *_: Any) -> None:
        """Do not stop before a validation that an earlier process left."""

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop a resumed run of which only the last validation was left."""
        self.on_train_batch_end(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the time was over."""
        super().on_train_end(trainer, pl_module)
        if trainer.should_stop and self.is_over():
            logger.info("stopped as trainer.max_time=%s is over", self.limit)


def time_trained(trainer: Trainer) -> float:
    """Return how many seconds a run has trained and validated, before a resume too, by its :class:`MaxTime`."""
    return next(each.time_elapsed() for each in trainer.callbacks if isinstance(each, MaxTime))  # type: ignore[attr-defined]


class EMA(WeightAveraging):
    """Validate and save an exponential moving average of the weights (Polyak and Juditsky 1992).

    After n steps the decay is min(decay, (1 + n) / (10 + n)), so that early weights are forgotten quickly.

    Args:
        decay: share of the old average in the new one, 0..1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps on the CPU: torch reads the count in each step, which would wait for a GPU."""
        super().on_fit_start(trainer, pl_module)
        assert self._average_model is not None
        self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @torch.no_grad()
    def _average(self, averaged: list[Tensor], current: list[Tensor], _: Tensor | int) -> None:
        assert self._average_model is not None
        steps = int(self._average_model.n_averaged)  # torch gives a copy on the device
        decay = min(self.decay, (1 + steps) / (10 + steps))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # batch norm counts its batches in integers
            torch._foreach_copy_(averaged, current)
