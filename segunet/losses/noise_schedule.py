"""How samples become noise, and the schedulers of the library diffusers that go the way back.

Needs the extra ``segunet[diffusers]`` only when a scheduler is built.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.validation import checked

Schedule = Literal["linear", "squaredcos_cap_v2", "flow"]
Prediction = Literal["epsilon", "v", "x0", "velocity"]
Steps = Annotated[int, Field(ge=100, le=10_000)]

_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}  # in diffusers' words
_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpm": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}
SAMPLERS = tuple(_SAMPLERS)
_LEFT = 1 / 40  # of the way to noise that ddim may leave out: an error of two grey levels
_LINEAR = (1e-4, 0.02)  # first and last beta of 1,000 (Ho et al. 2020, section 4)


def fits(schedule: str, prediction: str) -> bool:
    """Return whether a network can learn the ``prediction`` on the ``schedule``: a flow has a velocity, others none."""
    return (schedule == "flow") == (prediction == "velocity")


@checked("loss")
@dataclass(frozen=True)
class NoiseSchedule:
    """The way from a sample to noise, and what the network predicts on it.

    Attributes:
        schedule: betas of a diffusion: linear (Ho et al. 2020) or squaredcos_cap_v2 (Nichol and Dhariwal 2021,
            equation 17); flow for the straight line of flow matching (Lipman et al. 2023).
        steps: number of time steps; the time step of a flow is ``steps`` times its sigma.
        prediction: epsilon (the noise), x0 (the sample), v (Salimans and Ho 2022, appendix D); velocity for a flow.

    Raises:
        UserError: an invalid value, or a prediction that the schedule does not have.
    """

    schedule: Schedule = "squaredcos_cap_v2"
    steps: Steps = 1000
    prediction: Prediction = "v"

    def __post_init__(self) -> None:
        if not fits(self.schedule, self.prediction):
            raise UserError(
                f"loss.prediction={self.prediction} does not fit loss.schedule={self.schedule}: a flow predicts "
                "velocity, the other schedules epsilon, v or x0."
            )

    @property
    def is_flow(self) -> bool:
        """Whether this is the schedule of flow matching."""
        return self.schedule == "flow"

    @property
    def samplers(self) -> tuple[str, ...]:
        """The names that :meth:`sampler` takes."""
        return ("euler",) if self.is_flow else SAMPLERS

    def timed_sampler(self, name: str, steps: int, device: torch.device | str = "cpu", latents: bool = False) -> Any:
        """Return :meth:`sampler` with time steps for ``steps`` denoising steps, from 1 to as many as were trained.

        Raises:
            UserError: as :meth:`sampler`; the scheduler has no such number of steps.
        """
        scheduler = self.sampler(name, latents)
        if not self._ends_clean(name, scheduler, steps):
            counts = (*range(steps - 1, 0, -1), *range(steps + 1, self.steps + 1))
            near = next(count for count in counts if self._ends_clean(name, scheduler, count))
            raise UserError(
                f"steps={steps}: {name} cannot divide {self.steps} time steps into so many without leaving noise, or a "
                f"step too many. Give steps={near}."
            )
        scheduler.set_timesteps(steps, device=device)
        return scheduler

    def _ends_clean(self, name: str, scheduler: Any, steps: int) -> bool:
        """Return whether there are ``steps`` time steps, all of them trained, and the last one ends without noise.

        diffusers rounds them, to one too many or below 0 for some numbers; its ddim goes down by equal, whole strides.
        """
        scheduler.set_timesteps(steps)
        times = scheduler.timesteps
        whole = len(times) == steps and bool(times.min() >= 0)
        left = self.steps % steps / self.steps  # of the way, after whole strides
        return whole and (name != "ddim" or left <= _LEFT)

    def sampler(self, name: str, latents: bool = False) -> Any:
        """Return a new scheduler of diffusers, ddim, dpm, euler or ddpm, that starts at the last time step.

        Of ``latents``, estimates of the clean sample are not clipped to -1..1, the range of images.

        Raises:
            UserError: the schedule has no such scheduler; diffusers is not installed.
        """
        if name not in self.samplers:
            raise UserError(
                f"scheduler={name}: a network trained with loss.schedule={self.schedule} is sampled with "
                f"{' or '.join(self.samplers)}."
            )
        diffusers = import_extra("diffusers", "diffusers")
        if self.is_flow:
            return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.steps)
        cls, options = _SAMPLERS[name]
        if name in ("ddim", "ddpm"):
            options = options | {"clip_sample": not latents}
        if name == "dpm" and self.schedule == "squaredcos_cap_v2":
            options = options | {"lambda_min_clipped": -5.1}  # as its documentation says, for stability
        first, last = (beta * 1000 / self.steps for beta in _LINEAR)
        return getattr(diffusers, cls)(
            num_train_timesteps=self.steps,
            beta_start=first,
            beta_end=last,
            beta_schedule=self.schedule,
            prediction_type=_PREDICTIONS[self.prediction],
            timestep_spacing="trailing",  # Lin et al. 2024, section 3.3: a sampler must begin at pure noise
            **options,
        )
