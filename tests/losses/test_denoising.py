"""The objective of a denoiser, against the formulas and against diffusers."""

import itertools
import math

import pytest
import torch
from diffusers.training_utils import compute_snr

from segunet.base.errors import UserError
from segunet.losses.denoising import DenoisingLoss, Noised, as_images, as_samples
from segunet.losses.noise_schedule import NoiseSchedule, Prediction, Schedule

TIMES = [0, 1, 250, 700, 999]


@pytest.fixture
def samples() -> torch.Tensor:
    return torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def kept(schedule: Schedule, time: int) -> float:
    """Return the product of 1 - beta up to ``time``, from the papers."""
    betas = [1e-4 + (0.02 - 1e-4) * step / 999 for step in range(1000)]
    if schedule == "squaredcos_cap_v2":
        bar = [math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(1001)]
        betas = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(bar)]
    return math.prod(1 - beta for beta in betas[: time + 1])


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_samples_are_noised_as_in_the_papers(
    schedule: Schedule, prediction: Prediction, samples: torch.Tensor, noise: torch.Tensor
) -> None:
    noised = DenoisingLoss(schedule, prediction=prediction).noised(samples, noise, torch.tensor(TIMES))
    for number, time in enumerate(TIMES):
        signal, spread = math.sqrt(kept(schedule, time)), math.sqrt(1 - kept(schedule, time))
        x0, e = samples[number], noise[number]
        wanted = {"epsilon": e, "x0": x0, "v": signal * e - spread * x0}[prediction]
        torch.testing.assert_close(noised.samples[number], signal * x0 + spread * e, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(noised.target[number], wanted, atol=1e-4, rtol=1e-3)


def test_a_flow_is_a_straight_line(samples: torch.Tensor, noise: torch.Tensor) -> None:
    loss = DenoisingLoss("flow", prediction="velocity", min_snr_gamma=None)
    times = loss.timesteps(torch.tensor([0.0, 0.25, 0.5, 0.75, 0.999]))
    noised = loss.noised(samples, noise, times)
    assert times.tolist() == pytest.approx([0, 250, 500, 750, 999])
    for number, sigma in enumerate((times / 1000).tolist()):
        wanted = (1 - sigma) * samples[number] + sigma * noise[number]
        torch.testing.assert_close(noised.samples[number], wanted)
    torch.testing.assert_close(noised.target, noise - samples)
    scheduler = loss.noise_schedule.sampler("euler")
    own = scheduler.scale_noise(samples[:1], scheduler.timesteps[400:401], noise[:1])
    again = loss.noised(samples[:1], noise[:1], scheduler.timesteps[400:401])
    torch.testing.assert_close(own, again.samples)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_min_snr_weights_are_those_of_diffusers_ratio(prediction: Prediction) -> None:
    loss = DenoisingLoss(prediction=prediction, min_snr_gamma=5.0)
    zeros = torch.zeros(1000, 1, 1, 1)
    times = torch.arange(1000)
    weights = loss.noised(zeros, zeros, times).weights
    ratios = compute_snr(loss.scheduler, times)  # type: ignore[no-untyped-call]
    for weight, snr in zip(weights.tolist(), ratios.tolist(), strict=True):
        wanted = {"epsilon": min(snr, 5) / snr, "x0": min(snr, 5), "v": min(snr, 5) / (snr + 1)}[prediction]
        assert weight == pytest.approx(wanted, rel=1e-3)


def test_without_gamma_all_weights_are_one(samples: torch.Tensor, noise: torch.Tensor) -> None:
    noised = DenoisingLoss(min_snr_gamma=None).noised(samples, noise, torch.tensor(TIMES))
    assert noised.weights.tolist() == [1.0] * 5


def test_the_loss_is_the_weighted_mean_square_of_each_sample(samples: torch.Tensor, noise: torch.Tensor) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 1.0])
    losses = DenoisingLoss()(samples, Noised(samples, torch.tensor(TIMES), noise, weights))
    for number, weight in enumerate(weights.tolist()):
        wanted = weight * sum((samples[number] - noise[number]).flatten().square().tolist()) / 48
        assert losses[number].item() == pytest.approx(wanted, rel=1e-5)


def test_shares_of_the_way_become_time_steps() -> None:
    assert DenoisingLoss().timesteps(torch.tensor([0.0, 0.5, 0.9999])).tolist() == [0, 500, 999]
    assert DenoisingLoss().timesteps(torch.tensor([0.9999999935])).tolist() == [999]  # 1 in float32


def test_images_become_samples_and_images_again() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    samples = as_samples(images)
    assert (samples.min().item(), samples.max().item()) == (-1, 1)
    assert torch.equal(as_images(samples), images.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "flow", "prediction": "velocity"}, "min_snr_gamma must be null for a flow"),
        ({"schedule": "flow"}, "a flow predicts velocity"),
        ({"prediction": "velocity"}, "does not fit loss.schedule=squaredcos_cap_v2"),
        ({"schedule": "cosine"}, "loss.schedule must be 'linear', 'squaredcos_cap_v2' or 'flow', got 'cosine'"),
        ({"steps": 0}, "loss.steps must be greater than or equal to 100"),
        ({"min_snr_gamma": 0.0}, "loss.min_snr_gamma must be greater than 0"),
        ({"empty_prompt": 1.5}, "loss.empty_prompt must be less than or equal to 1"),
    ],
)
def test_invalid_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DenoisingLoss(**settings)  # type: ignore[arg-type]


def test_a_schedule_names_its_samplers() -> None:
    with pytest.raises(
        UserError, match=r"scheduler=ddim: a network trained with loss.schedule=flow is sampled with euler"
    ):
        NoiseSchedule("flow", 1000, "velocity").sampler("ddim")
