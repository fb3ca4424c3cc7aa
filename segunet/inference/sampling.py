"""From noise to samples: a denoiser, driven by a scheduler of the library diffusers.

Shapes: N samples of C channels and H x W pixels, V hidden states of D numbers each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segunet.base.errors import UserError

Predict = Callable[[Tensor, float], Tensor]  # a noisy sample and its time step -> the network's prediction
Watch = Callable[[int, Tensor], object]


def _ignore(number: int, samples: Tensor) -> None:
    """Do not watch."""


def noise_of(seed: int, index: int, shape: Sequence[int]) -> tuple[Tensor, torch.Generator]:
    """Return the starting noise float32 (C, H, W) of an image, and the generator of its further noise.

    They are a function of the seed and the image's index, drawn on the CPU, whatever images are made beside it.
    """
    key = np.random.SeedSequence([seed, index])
    generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0]))
    return torch.randn(*shape, generator=generator), generator


def guided(net: nn.Module, hidden: Tensor | None, empty: Tensor | None, guidance: float) -> Predict:
    """Return a function that predicts with classifier-free guidance: empty + g (cond - empty).

    Ho and Salimans 2022, equation 6, with g = 1 + w: 0 is the empty prompt, 1 the prompt alone.

    Args:
        net: a :class:`segunet.models.diffusion_unet.DiffusionUNet`.
        hidden: hidden states (N, V, D) of the prompts; None for an unconditional network.
        empty: hidden states (N, V, D) of the empty prompt; None as above.
        guidance: g.
    """
    if hidden is None or empty is None:
        return lambda samples, time: net(samples, time)
    if guidance in (0, 1):
        condition = hidden if guidance else empty
        return lambda samples, time: net(samples, time, condition)
    both = torch.cat([empty, hidden])  # (2N, V, D)

    def predict(samples: Tensor, time: float) -> Tensor:
        without, conditioned = net(torch.cat([samples, samples]), time, both).chunk(2)
        guided: Tensor = without + guidance * (conditioned - without)
        return guided

    return predict


@torch.inference_mode()
def denoised(
    predict: Predict,
    noise: Tensor,
    scheduler: Any,
    generators: Sequence[torch.Generator] | None = None,
    watch: Watch = _ignore,
) -> Tensor:
    """Return the samples float32 (N, C, H, W) that ``noise`` of that shape becomes.

    Args:
        predict: what the network predicts for noisy samples and their time step.
        noise: float32, standard normal.
        scheduler: of diffusers, with its time steps set.
        generators: one for each sample, of the noise that some schedulers add.
        watch: called before each step with its number and the noisy samples as the network sees them.

    Raises:
        UserError: the network's prediction is not finite.
    """
    samples = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    options = {"generator": list(generators)} if generators is not None else {}
    for number, time in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(samples, time) if hasattr(scheduler, "scale_model_input") else samples
        watch(number, scaled)
        prediction = predict(scaled, time.item()).float()  # a number: a tensor would be rounded to the weights' dtype
        if not bool(prediction.isfinite().all()):
            raise UserError(
                f"The network's prediction is not finite in step {number + 1} of {len(scheduler.timesteps)}: the "
                "training diverged, or the precision is too low. Try precision=32-true or an earlier checkpoint."
            )
        samples = scheduler.step(prediction, time, samples, **options).prev_sample
    return samples
