"""Checkpoints of a run, written atomically."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from segunet.base.errors import UserError
from segunet.base.files import save_torch
from segunet.base.validation import one_line
from segunet.inference.checkpoint import read_card

logger = logging.getLogger(__name__)

STATE_ADVICE = (
    "A run can be resumed only from its last.ckpt: restore that file from a copy, or start a new run with the "
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


class LastCheckpoint(RunCheckpoint):
    """``last.ckpt``, at the end of each epoch: before its validation, which may fail, and again after it.

    The one saved before tells Lightning that the first batch of the validation was started, so a resumed run
    starts with the whole validation.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True)
        self.validating = self.training = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the restored optimizer state, if any."""
        check_moments(trainer.optimizers)
        self.training = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint before the validation."""
        if not trainer.sanity_checking:
            self.validating = True
            trainer.save_checkpoint(self.path)
            self.validating = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark the validation as not done."""
        if self.validating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}


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
    """Save checkpoints atomically, by writing in the destination folder.

    Lightning writes to the system's temporary folder and moves the file, which is a copy, and may be truncated,
    if that folder is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        save_torch(checkpoint, Path(path))
