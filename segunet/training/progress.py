"""Progress of a run: a bar on a terminal, and one line per epoch everywhere."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import TextColumn
from torch import Tensor

from segunet.base.terminal import progress_bar, setting
from segunet.cli.run_dir import has_checkpoints
from segunet.data.dataset import Batch
from segunet.training.processes import end_children

logger = logging.getLogger(__name__)

# Of an epoch's line, as far as they are logged: there is no loss in tiles, and a denoiser has only a loss.
_SCORES = {
    "val/loss": "val loss",
    "val/miou": "mIoU",
    "val/pixel_accuracy": "pixel accuracy",
    "val/fwiou": "FWIoU",
}


class RunProgress(Callback):
    """A bar with images/s and time left on a terminal; one line per epoch everywhere."""

    def __init__(self, max_steps: int | None = None) -> None:
        self.max_steps = max_steps
        self.bar = progress_bar(TextColumn("{task.fields[speed]}"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar at the run's progress."""
        steps = min(trainer.estimated_stepping_batches, self.max_steps or math.inf)
        done = trainer.current_epoch * int(trainer.num_training_batches) + trainer.datamodule.first_batch  # type: ignore[attr-defined]
        self.task = self.bar.add_task("", total=steps * trainer.accumulate_grad_batches, completed=done, speed="")
        self.bar.start()
        self._start_epoch(trainer)

    def _start_epoch(self, trainer: Trainer) -> None:
        self.start, self.images, self.losses, self.speed = time.monotonic(), 0, list[Tensor](), ""
        self.validated = False
        self.bar.update(self.task, description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self._start_epoch(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Advance the bar."""
        self.losses.append(trainer.callback_metrics["train/loss"])  # read at the epoch's end: reading waits for a GPU
        self.images += len(batch.names) * trainer.world_size
        self.speed = f"{self.images / (time.monotonic() - self.start):.1f} images/s"
        self.bar.update(self.task, advance=1, speed=self.speed)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that the epoch's line has scores to show."""
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's line, with validation scores if this epoch was validated.

        In the first epoch of a resumed run, only the validation may be left.
        """
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        if self.losses:
            parts.append(f"loss {torch.stack(self.losses).mean():.4f}")
        if self.validated:
            parts += [f"{label} {logged[name]:.4f}" for name, label in _SCORES.items() if name in logged]
        if self.losses:
            parts += [f"lr {logged['lr']:.2e}", self.speed]
        logger.info("  ".join([*parts, f"{time.monotonic() - self.start:.0f} s"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hide the bar."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Hide the bar and log how to resume."""
        self.bar.stop()
        run_dir = Path(trainer.default_root_dir)
        command = f"python -m segunet.train {setting('resume', run_dir)}"
        saved = has_checkpoints(run_dir)
        how = f"resume: {command}" if saved else "nothing was saved yet (see checkpoint.every_minutes): start it again"
        logger.info("stopped in epoch %d; %s", min(trainer.current_epoch + 1, trainer.max_epochs or 1), how)


class ScoringProgress(Callback):
    """A progress bar for evaluations."""

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
        """Hide the bar."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        """Hide the bar; end the processes that this one has started."""
        self.bar.stop()
        end_children(trainer)
