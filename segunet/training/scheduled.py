"""What the training of any network shares: its optimizer, the learning rate at each step, losses that stay finite."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer

from segunet.base.errors import UserError
from segunet.data.dataset import Batch
from segunet.training.lr_schedule import Schedule


class Loss(NamedTuple):
    """The loss of a batch, still on its device: a scalar."""

    value: Tensor
    step: int
    epoch: int
    names: Sequence[str]


class ScheduledTask(LightningModule):
    """Set the learning rate before each optimizer step, from the share of the run that is done.

    Attributes, to be set by the task: ``lr_schedule``; ``max_steps``, optimizer steps after which the run ends unless
    its epochs end first, None for no limit.
    """

    lr_schedule: Schedule
    max_steps: int | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unread: list[Loss] = []

    def new_optimizer(self) -> Optimizer:
        """Return the optimizer of what is trained."""
        raise NotImplementedError

    def configure_optimizers(self) -> Optimizer:
        """Create the optimizer; the schedule spans the run as limited by ``max_epochs`` and ``max_steps``."""
        optimizer = self.new_optimizer()
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        total_steps = min(self.trainer.estimated_stepping_batches, self.max_steps or math.inf)
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        self.total_epochs = total_steps / steps_per_epoch
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of the next optimizer step from the epochs completed, fractions included."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            epoch = self.current_epoch + batch_idx / self.trainer.num_training_batches
            for group, peak in zip(self.trainer.optimizers[0].param_groups, self.peaks, strict=True):
                group["lr"] = self.lr_schedule(epoch, self.total_epochs, peak)

    def on_train_start(self) -> None:
        """Validate the epoch that a resumed run continues, if it is the last."""
        self._validate_the_last_epoch()

    def on_train_batch_end(self, *_: Any) -> None:
        """Validate the epoch if the run ends with it or, after this step, within it."""
        self._validate_the_last_epoch()

    def _validate_the_last_epoch(self) -> None:
        """Let Lightning validate it, whatever ``check_val_every_n_epoch``: what was never validated is never best."""
        trainer = self.trainer
        steps_done = self.max_steps is not None and trainer.global_step >= self.max_steps
        if trainer.should_stop or steps_done or trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients; called by Lightning, which in mixed precision refuses to with a fused optimizer.

        Such an optimizer unscales the gradients in its step, unless the scaler has done so before. bfloat16 has none.
        """
        if not gradient_clip_val:
            return
        plugin = self.trainer.precision_plugin
        scaler = getattr(plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)

    def check_finite(self, loss: Tensor, names: Sequence[str]) -> None:
        """Raise a UserError that names the step and the images if their ``loss``, or one before, is not finite.

        The losses are read about as often as the log is written, and before a checkpoint: reading one waits for the
        device.
        """
        self.unread.append(Loss(loss.detach(), self.global_step, self.current_epoch, names))
        logged = self.trainer.log_every_n_steps * self.trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        if 0 < logged <= len(self.unread):
            self.read_losses()

    def read_losses(self) -> None:
        """Raise a UserError for the first of the unread losses that is not finite."""
        unread, self.unread = self.unread, []
        values = torch.stack([each.value for each in unread]).tolist() if unread else []
        for value, loss in zip(values, unread, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"The loss became {value} at step {loss.step} (epoch {loss.epoch}) on the images "
                    f"{', '.join(loss.names)}. The last checkpoint was saved before that. Check these images and "
                    "masks; otherwise start a new run with a lower optimizer.lr, trainer.gradient_clip_val=1 or "
                    "trainer.precision=32-true."
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the losses before the checkpoint is written."""
        self.read_losses()

    def learning_rates(self) -> dict[str, float]:
        """Return the current rates of the encoder (with a layer decay, of its last stage) and of everything else."""
        groups = self.trainer.optimizers[0].param_groups
        rates = {group["name"]: group["lr"] for group in groups}
        return {"lr": rates["decoder"], "lr_encoder": rates.get("encoder", rates["decoder"])}
