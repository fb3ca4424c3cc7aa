"""Samples of a denoiser while it is trained."""

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from segunet.images.drawing import ImageArray
from segunet.inference.sampling import denoised, guided, noise_of
from segunet.losses.denoising import as_images
from segunet.models.prompts import hidden_states
from segunet.training.board import log_images, shows_images
from segunet.training.diffusion import DiffusionTask

TAG = "val/samples"
_STEPS, _GUIDANCE = 10, 2.0  # few steps, as this is only a look at the training


class SampleGrid(Callback):
    """Log a grid of samples after each validation: one column per prompt, always of the same noise.

    With averaged weights, if there are any: it must come before the callback that averages them.

    Args:
        count: images per prompt; 0 for none.
        names: the vocabulary.
        seed: of their noise.
    """

    def __init__(self, count: int, names: list[str], seed: int) -> None:
        self.count, self.seed = count, seed
        self.prompts = [*names[:3], ", ".join(names[:2])] if len(names) > 1 else names

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the grid, in the first process."""
        if trainer.sanity_checking or not self.count or not shows_images(trainer):
            return
        assert isinstance(pl_module, DiffusionTask)
        if trainer.is_global_zero:
            log_images(trainer, {TAG: self.grid(pl_module)})

    def grid(self, task: DiffusionTask) -> ImageArray:
        """Return the grid uint8 (H, W, 3): a row per noise, a column per prompt."""
        schedule = task.loss.noise_schedule
        scheduler = schedule.timed_sampler("euler" if schedule.is_flow else "ddim", _STEPS, task.device)
        prompts = self.prompts if task.prompts is not None else [""]
        shape = (task.net.in_channels, task.size, task.size)
        noise = torch.stack([noise_of(self.seed, number, shape)[0] for number in range(self.count)]).to(task.device)
        columns = []
        with torch.inference_mode():
            for prompt in prompts:
                predict = guided(task.net, *hidden_states(task.prompts, prompt, self.count), guidance=_GUIDANCE)
                columns.append(as_images(denoised(predict, noise, scheduler)).numpy())
                scheduler.set_timesteps(_STEPS, device=task.device)  # it counts its steps
        return np.concatenate([column.reshape(-1, *column.shape[2:]) for column in columns], axis=1)
