"""The curves of a run, as its report shows them."""

import math
from typing import Any

from pydantic import TypeAdapter
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segunet.base.validation import STRICT

Points = list[tuple[float, float]]
_OF_STEPS = ("train/loss", "lr", "lr_encoder")
_OF_VALIDATIONS = ("val/loss", "val/miou", "val/pixel_accuracy", "val/fwiou")
_SAVED = TypeAdapter(dict[str, list[tuple[float, float]]], config=STRICT)


class History(Callback):
    """Keep the losses, scores and learning rates of a run; its checkpoints hold them, and a resumed run continues."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, Tensor | float]]] = {}
        self._steps = 0

    @property
    def points(self) -> dict[str, Points]:
        """Points (epochs done, value) by name, without values that are not finite."""
        points = {name: [(epoch, float(value)) for epoch, value in each] for name, each in self._values.items()}
        finite = {name: [each for each in some if math.isfinite(each[1])] for name, some in points.items()}
        return {name: some for name, some in finite.items() if some}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the steps that a resumed run has done."""
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep a step's values if they are logged; they stay on their device, as reading one waits for it."""
        steps, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if steps != self._steps and every and steps % every == 0:
            self._keep(trainer, _OF_STEPS)
        self._steps = steps

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the scores."""
        if not trainer.sanity_checking:
            self._keep(trainer, _OF_VALIDATIONS)

    def _keep(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        epoch = trainer.current_epoch + min(batches / trainer.num_training_batches, 1.0)
        for name in names:
            if (value := trainer.callback_metrics.get(name)) is not None:
                self._values.setdefault(name, []).append((epoch, value))

    def state_dict(self) -> dict[str, Any]:
        """Return the points in plain containers."""
        points = self.points
        self._values = {name: [*some] for name, some in points.items()}  # not read from their device again
        return points

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the points; raises a ValueError if they are none."""
        self._values = {name: [*some] for name, some in _SAVED.validate_python(state_dict).items()}


def history_of(trainer: Trainer) -> dict[str, Points]:
    """Return the points of a trainer's :class:`History`."""
    return next(each.points for each in trainer.callbacks if isinstance(each, History))  # type: ignore[attr-defined]
