"""Training a denoiser: the noise that was added to an image is to be found, at any time step, given its classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from segunet.data.dataset import Batch
from segunet.losses.denoising import DenoisingLoss, Noised, as_samples
from segunet.models.diffusion_unet import DiffusionUNet
from segunet.models.prompts import PromptEncoder, present_in
from segunet.training.lr_schedule import Schedule
from segunet.training.optimizer import OptimizerFactory
from segunet.training.scheduled import ScheduledTask


class DiffusionTask(ScheduledTask):
    """Train a denoiser; takes ready-made objects.

    Args:
        net: the denoiser.
        prompts: encoder of its prompts; None for an unconditional denoiser.
        loss: the objective.
        optimizer: creates the optimizer from the net and the prompts' encoder.
        lr_schedule: learning rate schedule, applied before each optimizer step.
        vocabulary: name of each class that prompts are made of, by its index.
        card: describes how to rebuild net and prompts, in plain containers; saved with each checkpoint.
        size: side of the samples in pixels.
        val_names: names of the validation images, in the list's order.
        seed: of the validation's noise.
        max_steps: optimizer steps after which the run ends, unless its epochs end first; None for no limit.
    """

    def __init__(
        self,
        net: DiffusionUNet,
        prompts: PromptEncoder | None,
        loss: DenoisingLoss,
        optimizer: OptimizerFactory,
        lr_schedule: Schedule,
        vocabulary: Mapping[int, str],
        card: dict[str, Any],
        size: int,
        val_names: Sequence[str],
        seed: int,
        max_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.net, self.prompts, self.loss = net, prompts, loss
        self.optimizer, self.lr_schedule, self.max_steps = optimizer, lr_schedule, max_steps
        self.vocabulary, self.card, self.size = dict(vocabulary), card, size
        self.fixed = {name: FixedNoise(seed, index, len(val_names)) for index, name in enumerate(val_names)}
        self.val_losses = MeanMetric()
        self.val_loss: float | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, at random time steps.

        Raises:
            UserError: the loss is not finite; names the step and the images.
        """
        samples, present = self._inputs(batch)
        count = len(samples)
        timesteps = self.loss.timesteps(spread_shares(count, self.device))
        noised = self.loss.noised(samples, torch.randn_like(samples), timesteps)
        kept = torch.rand(count, 1, device=self.device) >= self.loss.empty_prompt
        total = self._losses(noised, present & kept).mean()
        self.check_finite(total, batch.names)
        self.log("train/loss", total)
        self.log_dict(self.learning_rates())
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the loss of a batch, each image with its own noise and time step, which never change."""
        if not batch.names:  # of a process for which no image is left
            self.val_losses.update(0.0, weight=0.0)
            return
        samples, present = self._inputs(batch)
        fixed = [self.fixed[name] for name in batch.names]
        shares = torch.tensor([each.share for each in fixed], device=self.device)
        noise = torch.stack([each.noise(samples.shape[1:]) for each in fixed]).to(self.device)
        noised = self.loss.noised(samples, noise, self.loss.timesteps(shares))
        self.val_losses.update(self._losses(noised, present))

    def on_validation_epoch_end(self) -> None:
        """Log the split's loss."""
        self.val_loss = float(self.val_losses.compute())  # of all processes
        self.val_losses.reset()
        self.log("val/loss", self.val_loss, sync_dist=True)

    def new_optimizer(self) -> Optimizer:
        """Return the optimizer of the net and of the prompts' encoder."""
        return self.optimizer(self.net, *([] if self.prompts is None else [self.prompts]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card, with the loss of the last validation."""
        super().on_save_checkpoint(checkpoint)
        finite = self.val_loss if self.val_loss is not None and np.isfinite(self.val_loss) else None
        checkpoint["segunet"] = self.card | {"denoiser": self.card["denoiser"] | {"val_loss": finite}}

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a batch's samples float32 (N, C, S, S), images in -1..1 or latents, and their classes bool (N, V)."""
        if batch.images.is_floating_point():
            return batch.images, present_in(batch.masks, list(self.vocabulary))
        images, masks = fitted(batch.images, batch.masks, self.size)
        return as_samples(images), present_in(masks, list(self.vocabulary))

    def _losses(self, noised: Noised, present: Tensor) -> Tensor:
        """Return each sample's loss (N,)."""
        hidden = None if self.prompts is None else self.prompts(present)
        losses: Tensor = self.loss(self.net(noised.samples, noised.timesteps, hidden), noised)
        return losses


class FixedNoise:
    """A validation image's noise and place on the way to noise: a function of the seed and its index in the list.

    The places of all images are stratified: each has its own one of ``count`` equal parts of the way.
    """

    def __init__(self, seed: int, index: int, count: int) -> None:
        self.key = [seed, index]
        order = np.random.default_rng([seed, count]).permutation(count)
        self.share = float((order[index] + np.random.default_rng(self.key).uniform()) / count)  # 0 to below 1

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal noise float32 of a ``shape``, drawn on the CPU."""
        return torch.from_numpy(np.random.default_rng([*self.key, 1]).standard_normal(shape, dtype=np.float32))


def spread_shares(count: int, device: torch.device) -> Tensor:
    """Return ``count`` random numbers (count,), each uniform in 0..1, evenly spread together.

    Their losses' mean varies less than that of independent ones (Kingma et al. 2021, appendix I.1).
    """
    return (torch.rand((), device=device) + torch.arange(count, device=device) / count) % 1


def fitted(images: Tensor, masks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return images uint8 (N, 3, H, W) and masks (N, H', W') as squares of ``size``: their middle, resized to fit."""
    if images.shape[-2:] == masks.shape[-2:] == (size, size):
        return images, masks
    squares = _middle(images), _middle(masks)[:, None]
    resized = F.interpolate(squares[0].float(), (size, size), mode="bilinear", antialias=True)
    nearest = F.interpolate(squares[1].float(), (size, size), mode="nearest-exact")
    return resized.round().clamp(0, 255).to(torch.uint8), nearest[:, 0].to(masks.dtype)


def _middle(values: Tensor) -> Tensor:
    """Return the largest square in the middle of (..., H, W)."""
    height, width = values.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return values[..., top : top + side, left : left + side]
