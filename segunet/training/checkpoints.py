"""Checkpoints of a run, written atomically."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from segunet.base.errors import UserError
from segunet.base.files import link_whole
from segunet.base.stopping import StopRequest, stop_for
from segunet.base.torch_file import save_torch
from segunet.base.validation import one_line
from segunet.inference.checkpoint import read_card
from segunet.training.board import board_of
from segunet.training.processes import end_children

logger = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # in a run's checkpoints/
IMAGES = "images_of_epoch"  # in a checkpoint within an epoch: how many of its images are done, in all processes
STATE_ADVICE = (
    "A run is resumed from its last.ckpt: restore that file from a copy, or start a new run with the "
    "settings in its config.yaml. Its best.ckpt, if intact, can still be evaluated, exported and used to predict."
)

# Errors of Lightning and torch for a state with other keys, types or shapes.
_STATE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, OverflowError)


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint with a fixed name in the run's folder, which may have been moved."""

    def __init__(self, folder: Path, filename: str, **options: Any) -> None:
        super().__init__(folder, filename=filename, enable_version_counter=False, **options)

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return Path(str(self.dirpath)) / f"{self.filename}.ckpt"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score of an earlier state, if its checkpoint is intact; saved paths are ignored."""
        path, score = self.path, state_dict.get("best_model_score")
        if self.monitor is None or score is None:
            return
        try:
            read_card(path, "")
            if not is_single_number(score):
                raise UserError(f"last.ckpt does not have the score of {path}.")
        except UserError as error:
            logger.warning("%s The checkpoint of the next validation becomes the best.", str(error).strip())
            return
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = str(path)
        self.best_k_models = {str(path): score}


def is_single_number(value: Any) -> bool:
    """Return whether a value from a checkpoint can be a score."""
    return isinstance(value, Tensor) and value.numel() == 1


@contextmanager
def restoring(path: Path | None, last: "LastCheckpoint | None" = None) -> Iterator[None]:
    """Convert errors before ``last`` has seen training start into a UserError that names the checkpoint ``path``."""
    try:
        yield
    except _STATE_ERRORS as error:
        if path is None or (last and last.training):
            raise
        raise UserError(
            f"{path} does not hold a training state of segunet.train ({type(error).__name__}: "
            f"{one_line(str(error), 200)}). {STATE_ADVICE}"
        ) from error


Point = Literal["between steps", "before validation", "epoch end"]


class LastCheckpoint(RunCheckpoint):
    """``last.ckpt``, at the end of each epoch: before its validation, which may fail, and again after it.

    And between two steps of an epoch, when ``every_minutes`` have passed, or ``every_steps`` steps were taken, since
    the last one, or the process was told to stop; all of the step before is done then, its log too.

    Args:
        folder: of the checkpoint.
        every_minutes: above 0; None for none within an epoch.
        every_steps: optimizer steps; None for no such limit.
    """

    def __init__(self, folder: Path, every_minutes: float | None = None, every_steps: int | None = None) -> None:
        super().__init__(folder, Path(LAST).stem, save_on_train_epoch_end=True)
        self.every_seconds, self.every_steps = 60 * (every_minutes or math.inf), every_steps or math.inf
        self.point: Point = "epoch end"
        self.training = False
        self.saved = (0.0, 0)  # when the last one was saved: seconds of the monotonic clock, steps
        self.stop = StopRequest()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to note signals."""
        self.stop.start()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the run continue within the epoch, if it was saved there."""
        if IMAGES in checkpoint:
            continue_epoch(checkpoint["loops"]["fit_loop"], trainer.datamodule.first_batch)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the restored optimizer state, if any, and start the clock."""
        self.stop.start()
        check_moments(trainer.optimizers)
        self.training = True
        self.saved = (time.monotonic(), trainer.global_step)
        self.epochs_between = trainer.check_val_every_n_epoch
        loop = trainer.fit_loop.epoch_loop
        if loop.val_loop.restarted_mid_evaluation:  # the epoch's steps are done, whatever the settings are now
            loop.batch_progress.is_last_batch = True
            trainer.val_check_batch, trainer.check_val_every_n_epoch = loop.batch_progress.current.ready, 1

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate as set, after a validation that an earlier process had left."""
        trainer.val_check_batch = max(1, int(trainer.fit_loop.max_batches))
        trainer.check_val_every_n_epoch = self.epochs_between

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save the checkpoint between two steps if it is due; stop there if that was asked for."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        due, number = self._agreed(trainer)
        if batch_idx and (due or number):
            self._save_at("between steps", trainer)
        stop_for(number)  # not for a signal since, which the other processes do not know of

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint before the validation; stop there if that was asked for."""
        if not trainer.sanity_checking:
            self._save_at("before validation", trainer)
        stop_for(self._agreed(trainer)[1])

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Stop if that was asked for: a resumed run does the whole validation.

        Several processes, which may have different numbers of batches, stop after it, if it ends in time.
        """
        if trainer.world_size == 1:
            self.stop.heed()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the report, which a resumed run writes, if that was asked for; from here on, signals stop it."""
        self.stop.end()
        stop_for(self._agreed(trainer)[1])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let signals do what they did before; end the processes that this one has started."""
        self.stop.end()
        end_children(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let signals do what they did before, also if there was nothing to train."""
        self.stop.end()
        self.stop.heed()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint at the epoch's end."""
        with self.stop.waiting():
            super().on_train_epoch_end(trainer, pl_module)
        self.saved = (time.monotonic(), trainer.global_step)

    def _agreed(self, trainer: Trainer) -> tuple[bool, int]:
        """Return whether a checkpoint is due, and the signal to stop, the same in all processes."""
        seconds, steps = self.saved
        due = time.monotonic() - seconds >= self.every_seconds or trainer.global_step - steps >= self.every_steps
        if trainer.world_size == 1:
            return due, self.stop.number
        flags = torch.tensor([int(due), self.stop.number], device=trainer.strategy.root_device)
        due, number = trainer.strategy.reduce(flags, reduce_op="max").tolist()
        return bool(due), number

    def _save_at(self, point: Point, trainer: Trainer) -> None:
        self.point = point
        with self.stop.waiting():
            trainer.save_checkpoint(self.path)
        self.point = "epoch end"
        self.saved = (time.monotonic(), trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write what was logged, and say in the checkpoint how a resumed run continues."""
        if (board := board_of(trainer)) is not None:
            board.experiment.flush()
        loops = checkpoint["loops"]["fit_loop"]
        if self.point == "before validation":
            validate_again(loops)
        elif self.point == "between steps":
            batches = loops["epoch_loop.batch_progress"]["current"]["processed"]
            checkpoint[IMAGES] = batches * trainer.datamodule.batch_size * trainer.world_size  # type: ignore[attr-defined]


def validate_again(loops: dict[str, Any]) -> None:
    """Let the saved loops continue with the whole validation: Lightning takes its first batch as started."""
    progress = loops["epoch_loop.val_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def continue_epoch(loops: dict[str, Any], batches: int) -> None:
    """Let the loops, saved as a batch started, continue after ``batches`` batches of the epoch.

    Lightning knows such a state only at the end of the batch before, which it then counts as done.
    """
    progress = loops["epoch_loop.batch_progress"]
    for counts, done in ((progress["total"], progress["total"]["completed"]), (progress["current"], batches)):
        counts |= {"ready": done, "started": done, "processed": done, "completed": done - 1}
    progress["is_last_batch"] = False
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def check_moments(optimizers: Sequence[Optimizer]) -> None:
    """Raise a ValueError if an optimizer's state has another shape than its parameter, which torch does not check.

    Scalars, such as a step count, are valid for any parameter.
    """
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"{name} of shape {[*value.shape]} for a parameter of {[*parameter.shape]}")


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Save checkpoints atomically, by writing in the destination folder; keep the last one but one.

    Lightning writes to the system's temporary folder and moves the file, which is a copy, and may be truncated,
    if that folder is on another file system.
    """

    def __init__(self) -> None:
        self.intact = False  # whether this process wrote or read last.ckpt

    def load_checkpoint(self, path: Any, *given: Any, **options: Any) -> dict[str, Any]:
        """Read the checkpoint in ``path``."""
        content: dict[str, Any] = super().load_checkpoint(path, *given, **options)
        self.intact |= Path(path).name == LAST
        return content

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; a last.ckpt that is there, and intact, becomes previous.ckpt."""
        path = Path(path)
        if path.name == LAST and self.intact and path.is_file():
            link_whole(path, path.with_name(PREVIOUS))
        save_torch(checkpoint, path)
        self.intact |= path.name == LAST
