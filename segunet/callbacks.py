"""What happens around the steps of a run: progress, pictures, freezing, averaging, files."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from rich.progress import TextColumn
from torch import Tensor

from segunet.data.dataset import Batch
from segunet.errors import UserError
from segunet.files import check_within, save_png, save_torch, whole_file
from segunet.tasks.segmentation import ScoringTask
from segunet.terminal import progress_bar, setting
from segunet.visualize import Picture, confusion_picture, palette_image, stack, strip

logger = logging.getLogger(__name__)

STRIPS = "image_truth_prediction.png"  # in an evaluation's folder


class RunProgress(Callback):
    """A bar with images/s and time left on a terminal; a line an epoch everywhere."""

    def __init__(self) -> None:
        self.bar = progress_bar(TextColumn("{task.fields[speed]}"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, where the run stands."""
        total = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        done = trainer.current_epoch * int(trainer.num_training_batches)
        self.task = self.bar.add_task("", total=total, completed=done, speed="")
        self.bar.start()

        self._reset()

    def _reset(self) -> None:
        self.start, self.images, self.losses, self.speed = time.monotonic(), 0, list[float](), ""
        self.validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self._reset()
        self.bar.update(self.task, description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Advance the bar."""
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.images += len(batch.names) * trainer.world_size
        self.speed = f"{self.images / (time.monotonic() - self.start):.1f} images/s"
        self.bar.update(self.task, advance=1, speed=self.speed)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that the epoch's line has scores to show."""
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line; the val columns stand where this epoch was validated.

        A resumed run may have nothing to do for its first epoch but to validate.
        """
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        if self.losses:
            parts.append(f"loss {np.mean(self.losses):.4f}")
        if self.validated:
            parts += [
                f"val loss {logged['val/loss']:.4f}",
                f"mIoU {logged['val/miou']:.4f}",
                f"pixel accuracy {logged['val/pixel_accuracy']:.4f}",
                f"FWIoU {logged['val/fwiou']:.4f}",
            ]
        if self.losses:
            parts += [f"lr {logged['lr']:.2e}", self.speed]
        logger.info("  ".join([*parts, f"{time.monotonic() - self.start:.0f} s"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away and say how to go on."""
        self.bar.stop()
        run_dir = Path(trainer.default_root_dir)
        saved = (run_dir / "checkpoints" / "last.ckpt").is_file()
        command = f"python -m segunet.train {setting('resume', run_dir)}"
        how = f"go on: {command}" if saved else "nothing was saved before the end of the first epoch"
        logger.info("stopped in epoch %d; %s", trainer.current_epoch + 1, how)


class ScoringProgress(Callback):
    """A bar over the pictures of an evaluation."""

    def __init__(self) -> None:
        self.bar = progress_bar()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self.task = self.bar.add_task("evaluating", total=sum(trainer.num_test_batches))
        self.bar.start()

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        """Advance the bar."""
        self.bar.advance(self.task)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self.bar.stop()

    def on_exception(self, *_: Any) -> None:
        """Take the bar away."""
        self.bar.stop()


class Pictures(Callback):
    """Strips (image | truth | prediction) of the first pictures, and the confusion matrix.

    While training they go to TensorBoard after each validation; an evaluation writes them as PNGs.

    Args:
        count: how many pictures.
        palette: uint8 (256, 3).
        class_names: names of the classes.
        folder: where an evaluation writes them.
    """

    def __init__(self, count: int, palette: Picture, class_names: list[str], folder: Path) -> None:
        self.count, self.palette, self.class_names, self.folder = count, palette, class_names, folder
        self.strips: list[Picture] = []

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
            picture = image.cpu().numpy().transpose(1, 2, 0)
            self.strips.append(strip(picture, mask.cpu().numpy(), prediction.cpu().numpy(), self.palette))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send them to TensorBoard."""
        strips, self.strips = self.strips, []
        if trainer.sanity_checking or not isinstance(trainer.logger, TensorBoardLogger):
            return
        assert isinstance(pl_module, ScoringTask)
        assert pl_module.scores is not None
        board, step = trainer.logger.experiment, trainer.global_step
        for number, each in enumerate(strips):
            board.add_image(f"val/image_truth_prediction/{number}", each, step, dataformats="HWC")
        matrix = confusion_picture(pl_module.scores.confusion, self.class_names)
        board.add_image("val/confusion_matrix", matrix, step, dataformats="HWC")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the strips as one PNG."""
        if self.strips and trainer.is_global_zero:
            assert isinstance(pl_module, ScoringTask)
            save_png(stack(self.strips), self.folder / STRIPS)


class SavePredictions(Callback):
    """Write each prediction of an evaluation as an index PNG ``<folder>/<name>.png`` with the palette.

    Each is written whole or not at all; what else is in the folder stays, and is said.
    """

    def __init__(self, folder: Path, palette: Picture) -> None:
        self.folder, self.palette = folder, palette

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Write a batch's files.

        Raises:
            UserError: a name, or a link, leads out of the folder.
        """
        files = [f"{name}.png" for name in batch.names]
        check_within(self.folder, files)
        for name, prediction in zip(files, outputs, strict=True):
            with whole_file(self.folder / name) as file:
                palette_image(prediction.cpu().numpy(), self.palette).save(file, format="PNG")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many files in the folder are not of this evaluation."""
        trainer.strategy.barrier()
        assert isinstance(pl_module, ScoringTask)
        assert pl_module.scores is not None
        others = sum(path.is_file() for path in self.folder.rglob("*")) - pl_module.scores.images
        if trainer.is_global_zero and others:
            logger.warning("%d other file(s) in %s are not of this evaluation", others, self.folder)


class FreezeEncoder(Callback):
    """Keep ``net.encoder`` as it is for the first epochs, its batch-norm statistics too.

    The state follows from the epoch's number alone, so that a resumed run freezes and thaws as the
    uninterrupted one does.

    Args:
        epochs: how many epochs it is frozen.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the encoder, and what of it is ever trained."""
        finds_unused = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters", False)
        if trainer.world_size > 1 and not finds_unused:
            raise UserError(
                "callbacks.freeze_encoder_epochs on several devices leaves parameters without gradients at first: add "
                "trainer.strategy=ddp_find_unused_parameters_true."
            )
        assert isinstance(pl_module, ScoringTask)
        self.encoder = pl_module.net.get_submodule("encoder")
        self.trainable = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or thaw."""
        thawed = trainer.current_epoch >= self.epochs
        for parameter in self.trainable:
            parameter.requires_grad_(thawed)
        self.encoder.train(thawed)


class EMA(WeightAveraging):
    """Validate and save an exponential moving average of the weights (Polyak and Juditsky 1992).

    After n steps the decay is min(decay, (1 + n) / (10 + n)), so that the start is soon forgotten.

    Args:
        decay: share of the old average in the new one, 0..1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    @torch.no_grad()
    def _average(self, averaged: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
        decay = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # batch norm counts its batches in integers
            torch._foreach_copy_(averaged, current)


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint of one fixed name in the run's folder, which may have been moved since."""

    def __init__(self, folder: Path, filename: str, **options: Any) -> None:
        super().__init__(folder, filename=filename, enable_version_counter=False, **options)

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return Path(str(self.dirpath)) / f"{self.filename}.ckpt"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score of an earlier state, if its checkpoint is there; paths in it are not looked at."""
        path, score = self.path, state_dict.get("best_model_score")
        if self.monitor is None or score is None:
            return
        if not isinstance(score, Tensor) or score.numel() != 1 or not path.is_file():
            logger.warning("%s is not there or its score is unknown: the next checkpoint is taken for the best", path)
            return
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = str(path)
        self.best_k_models = {str(path): score}


class LastCheckpoint(RunCheckpoint):
    """``last.ckpt``, at the end of each epoch: before its validation, which may fail, and again after it.

    What is saved before tells Lightning that the first batch of the validation was begun, so that a resumed run
    begins with the whole of it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True)
        self.validating = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was trained."""
        if not trainer.sanity_checking:
            self.validating = True
            trainer.save_checkpoint(self.path)
            self.validating = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say that the validation is not done."""
        if self.validating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Save checkpoints whole or not at all, in the folder they belong to.

    Lightning writes to the system's temporary folder and moves the file, which is a copy, and can be cut
    short, where that folder is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        save_torch(checkpoint, Path(path))
