"""The training objective of a denoiser, with the schedules of the library diffusers.

Shapes: N samples of C channels and H x W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.validation import Above0, Share, checked
from segunet.losses.noise_schedule import NoiseSchedule, Prediction, Schedule, Steps

SCALE = 127.5  # a sample is its image, 0..255, divided by it, minus 1


class Noised(NamedTuple):
    """Noised samples and what the network has to return for them.

    Attributes:
        samples: float32 (N, C, H, W), what the network sees.
        timesteps: (N,), what it is told: int64, or float32 of a flow.
        target: float32 (N, C, H, W).
        weights: float32 (N,), of the samples in the loss.
    """

    samples: Tensor
    timesteps: Tensor
    target: Tensor
    weights: Tensor


@checked("loss")
class DenoisingLoss(nn.Module):
    """Mean squared error of what the network predicts at a random time step (Ho et al. 2020, equation 14).

    Args:
        schedule: see :class:`NoiseSchedule`, as ``steps`` and ``prediction``.
        steps: see ``schedule``.
        prediction: see ``schedule``.
        min_snr_gamma: bound of the signal-to-noise ratio in the weights (Hang et al. 2023, equation 9); None for
            weights of 1.
        empty_prompt: share of the prompts that training empties, for classifier-free guidance (Ho and Salimans 2022,
            algorithm 1).

    Raises:
        UserError: an invalid value; diffusers is not installed.
    """

    def __init__(
        self,
        schedule: Schedule = "squaredcos_cap_v2",
        steps: Steps = 1000,
        prediction: Prediction = "v",
        min_snr_gamma: Above0 | None = 5.0,
        empty_prompt: Share = 0.1,
    ) -> None:
        super().__init__()
        self.noise_schedule = NoiseSchedule(schedule, steps, prediction)
        self.gamma, self.empty_prompt = min_snr_gamma, empty_prompt
        if self.noise_schedule.is_flow and min_snr_gamma is not None:
            raise UserError("loss.min_snr_gamma must be null for a flow, whose samples all have the same weight.")
        self.scheduler = self.noise_schedule.sampler("euler" if self.noise_schedule.is_flow else "ddpm")

    def timesteps(self, shares: Tensor) -> Tensor:
        """Return the time steps (N,) at ``shares`` float (N,) of the way to noise, 0 to below 1."""
        steps = self.noise_schedule.steps
        places = shares * steps
        return places if self.noise_schedule.is_flow else places.long().clamp(max=steps - 1)  # a share may round to 1

    def noised(self, samples: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        """Return ``samples`` (N, C, H, W) in -1..1 with ``noise`` of their shape at ``timesteps`` (N,)."""
        if self.noise_schedule.is_flow:
            sigma = (timesteps / self.noise_schedule.steps)[:, None, None, None]
            return Noised(torch.lerp(samples, noise, sigma), timesteps, noise - samples, torch.ones_like(timesteps))
        targets = {
            "epsilon": lambda: noise,
            "x0": lambda: samples,
            "v": lambda: self._velocity(samples, noise, timesteps),
        }
        target = targets[self.noise_schedule.prediction]()
        return Noised(self.scheduler.add_noise(samples, noise, timesteps), timesteps, target, self._weights(timesteps))

    def forward(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return each sample's loss, float32 (N,), for the network's ``prediction`` (N, C, H, W)."""
        return noised.weights * (prediction.float() - noised.target).square().flatten(1).mean(dim=1)

    def _velocity(self, samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        velocity: Tensor = self.scheduler.get_velocity(samples, noise, timesteps)
        return velocity

    def _weights(self, timesteps: Tensor) -> Tensor:
        """Return float32 (N,): min(SNR, gamma) as a weight of x0, in terms of what is predicted."""
        if self.gamma is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        kept = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = kept / (1 - kept)
        of_x0 = snr.clamp(max=self.gamma)
        weights: dict[str, Tensor] = {"x0": of_x0, "epsilon": of_x0 / snr, "v": of_x0 / (snr + 1)}
        return weights[self.noise_schedule.prediction]


def as_samples(images: Tensor) -> Tensor:
    """Return float32 (N, 3, H, W) in -1..1 of ``images`` uint8 (N, 3, H, W)."""
    return images.float() / SCALE - 1


def as_images(samples: Tensor) -> Tensor:
    """Return uint8 (N, H, W, 3) on the CPU of ``samples`` float (N, 3, H, W); values outside -1..1 are clipped."""
    return ((samples.float().clamp(-1, 1) + 1) * SCALE).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
