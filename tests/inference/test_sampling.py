"""Sampling fits training: a network that is right at every step leads back to the sample."""

import pytest
import torch
from torch import Tensor

from segunet.base.errors import UserError
from segunet.inference.sampling import denoised, noise_of
from segunet.losses.denoising import DenoisingLoss
from segunet.losses.noise_schedule import SAMPLERS, Prediction, Schedule

CASES: list[tuple[Schedule, Prediction, str]] = [
    *((schedule, prediction, sampler)
      for schedule in ("linear", "squaredcos_cap_v2") for prediction in ("epsilon", "v", "x0") for sampler in SAMPLERS),
    ("flow", "velocity", "euler"),
]  # fmt: skip


class Oracle:
    """What a network that knows the sample would return, by the loss's own target."""

    def __init__(self, loss: DenoisingLoss, sample: Tensor) -> None:
        self.loss, self.sample = loss, sample

    def __call__(self, noisy: Tensor, time: float) -> Tensor:
        times = torch.tensor(time).expand(len(noisy))
        if self.loss.noise_schedule.is_flow:
            noise = self.sample + (noisy - self.sample) / (time / self.loss.noise_schedule.steps)
            return self.loss.noised(self.sample, noise, times).target
        kept = self.loss.scheduler.alphas_cumprod[int(time)].double()
        noise = ((noisy - kept.sqrt() * self.sample) / (1 - kept).sqrt()).float()
        return self.loss.noised(self.sample, noise, times.long()).target


@pytest.mark.parametrize(("schedule", "prediction", "sampler"), CASES)
def test_an_oracle_finds_the_sample(schedule: Schedule, prediction: Prediction, sampler: str) -> None:
    loss = DenoisingLoss(schedule, prediction=prediction, min_snr_gamma=None)
    sample = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    drawn = [noise_of(0, index, (3, 8, 8)) for index in range(2)]
    scheduler = loss.noise_schedule.sampler(sampler)
    scheduler.set_timesteps(20)
    seen: list[int] = []
    got = denoised(
        Oracle(loss, sample),
        torch.stack([noise for noise, _ in drawn]),
        scheduler,
        [generator for _, generator in drawn],
        lambda number, _: seen.append(number),
    )
    assert seen == list(range(20))
    assert (got - sample).abs().max() < 0.02


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_are_not_clipped_to_the_range_of_images(sampler: str) -> None:
    loss = DenoisingLoss(min_snr_gamma=None)
    sample = torch.full((1, 4, 8, 8), 2.5)
    noise, generator = noise_of(0, 0, (4, 8, 8))
    scheduler = loss.noise_schedule.timed_sampler(sampler, 20, latents=True)
    assert (denoised(Oracle(loss, sample), noise[None], scheduler, [generator]) - sample).abs().max() < 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_any_number_of_steps_ends_without_noise_or_is_refused(schedule: Schedule, sampler: str) -> None:
    loss = DenoisingLoss(schedule, min_snr_gamma=None)
    sample = torch.full((1, 3, 4, 4), 0.5)
    refused, seen = [], list[int]()
    for steps in (1, 2, 7, 9, 20, 25, 30, 60, 61, 103, 222, 250, 334, 500, 600):
        noise, generator = noise_of(0, 0, (3, 4, 4))
        try:
            scheduler = loss.noise_schedule.timed_sampler(sampler, steps)
        except UserError as error:
            near = int(str(error).rpartition("steps=")[2].rstrip("."))
            assert loss.noise_schedule.timed_sampler(sampler, near)
            refused.append(steps)
            continue
        seen.clear()
        got = denoised(Oracle(loss, sample), noise[None], scheduler, [generator], lambda number, _: seen.append(number))
        assert len(seen) == steps
        assert (got - sample).abs().max() < 0.03, steps
    assert not {1, 2, 7, 9, 20, 25, 30} & set(refused)


def test_noise_is_a_function_of_seed_and_index() -> None:
    assert torch.equal(noise_of(1, 2, (3, 4, 4))[0], noise_of(1, 2, (3, 4, 4))[0])
    assert not torch.equal(noise_of(1, 2, (3, 4, 4))[0], noise_of(1, 3, (3, 4, 4))[0])
    assert not torch.equal(noise_of(1, 2, (3, 4, 4))[0], noise_of(2, 2, (3, 4, 4))[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_time_steps_are_told_as_numbers_which_no_precision_rounds(sampler: str) -> None:
    scheduler = DenoisingLoss().noise_schedule.timed_sampler(sampler, 9)
    told: list[float] = []
    denoised(lambda x, time: told.append(time) or x, torch.randn(1, 3, 4, 4), scheduler)  # type: ignore[func-returns-value]
    assert all(isinstance(time, (int, float)) for time in told)
    assert told == scheduler.timesteps.tolist()


def test_a_prediction_that_is_not_finite_is_named() -> None:
    scheduler = DenoisingLoss().noise_schedule.sampler("ddim")
    scheduler.set_timesteps(4)
    with pytest.raises(UserError, match=r"prediction is not finite in step 1 of 4"):
        denoised(lambda x, _: x * float("nan"), torch.randn(1, 3, 8, 8), scheduler)
