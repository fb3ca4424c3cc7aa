"""What to start a training with, found by trying: a learning rate, and the largest batch that fits into memory."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning_fabric import Fabric
from omegaconf import DictConfig, ListConfig, open_dict
from pytorch_lightning import Callback, Trainer
from rich.table import Table

from segunet.base.errors import UserError
from segunet.base.failures import enough_memory
from segunet.base.terminal import progress_bar, show_table
from segunet.cost.measurement import Workload, free_memory, measure
from segunet.cost.subject import device_kind, images
from segunet.data.datamodule import VOCDataModule
from segunet.inference.precision import fabric_from_settings
from segunet.training import build
from segunet.training.build_trainer import scorer_from_config
from segunet.training.callbacks import MaxSteps
from segunet.training.diffusion import DiffusionTask
from segunet.training.segmentation import SegmentationTask

logger = logging.getLogger(__name__)
CHOICES = ("lr", "batch_size")
STEPS = 100  # of the test of learning rates
_LOWEST, _HIGHEST = 1e-3, 1e2  # rates that are tried, as multiples of the configured ones
_KEPT = 0.9  # weight of the losses before in the average
_DIVERGED = 4.0  # times the lowest loss
_FIRST = 10  # steps before which no rate is suggested: their average is of few losses
_ROWS, _BAR = 20, 40  # of the curve that is shown, and its width in characters
_FEWEST = 2  # images in the smallest batch whose memory is measured
_LESS = "Lower data.transform.crop_size, set gradient_checkpointing=true if it is not, or choose a smaller model."
_USED = 0.9  # of the free memory


class RateCurve(NamedTuple):
    """The loss while the learning rate grew.

    Attributes:
        rates: ``optimizer.lr`` of each step.
        losses: average of the losses so far, later ones weighted more.
    """

    rates: list[float]
    losses: list[float]

    def steepest(self) -> int | None:
        """Return the step at which the loss falls fastest over the logarithm of the rate; None if it never falls."""
        lowest = int(np.argmin(self.losses))
        if lowest < _FIRST + 1:
            return None
        falls = np.gradient(self.losses[: lowest + 1], np.log(self.rates[: lowest + 1]))
        return _FIRST + int(np.argmin(falls[_FIRST:]))


def growing_rate(epoch: float, total_epochs: float, lr: float) -> float:
    """Return a rate that grows exponentially with ``epoch``, from far below ``lr`` to far above it at ``total_epochs``.

    The range test of Smith 2017 (https://arxiv.org/abs/1506.01186), section 3.3, here of each parameter group.
    """
    return lr * math.exp(math.log(_LOWEST) + math.log(_HIGHEST / _LOWEST) * min(epoch / total_epochs, 1.0))


def rate_curve(cfg: DictConfig, task: build.Task, datamodule: VOCDataModule) -> RateCurve:
    """Train for ``STEPS`` steps at growing rates, or until the loss diverges; the task's network is changed.

    Args:
        cfg: config of segunet.train.
        task: the task, not trained yet.
        datamodule: its data, set up.

    Raises:
        UserError: out of memory, or no loss is finite.
    """
    task.lr_schedule, task.max_steps = growing_rate, STEPS
    with progress_bar() as bar:
        row = bar.add_task("trying learning rates", total=STEPS)
        losses = _Losses(lambda: bar.advance(row))
        trainer = scorer_from_config(_alone(cfg), [losses, MaxSteps(STEPS)], Path())
        with enough_memory("while learning rates were tried", "Lower data.batch_size or data.transform.crop_size."):
            trainer.fit(task, datamodule=datamodule)
    if not losses.curve.losses:
        raise UserError("The first loss is not finite, so no learning rate can be found. Check images and masks.")
    return losses.curve


def _alone(cfg: DictConfig) -> DictConfig:
    """Return ``cfg`` for a training in one process without validation, whose losses this module reads."""
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.trainer.update({"max_epochs": STEPS, "limit_val_batches": 0, "strategy": "auto", "num_nodes": 1})
        cfg.trainer.devices = _first_device(cfg)
        cfg.trainer.log_every_n_steps = STEPS + 1  # otherwise a loss that is not finite would end the command
    return cfg


def _first_device(cfg: DictConfig) -> list[int] | int:
    """Return the first of the devices of a training, as Lightning takes it."""
    devices = cfg.trainer.devices
    return [int(devices[0])] if isinstance(devices, ListConfig) else 1


class _Losses(Callback):
    """Keep the rates and the average loss, and end the training when it diverges."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self.curve, self._advance, self._average = RateCurve([], []), advance, 0.0
        self._of_step: list[float] = []  # losses of the batches of an optimizer step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Add the loss of a batch; with the last one of an optimizer step, add the step."""
        self._of_step.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)  # which Lightning divides it by
        number = len(self.curve.losses) + 1
        if trainer.global_step < number:
            return
        self._average = _KEPT * self._average + (1 - _KEPT) * float(np.mean(self._of_step))
        average = self._average / (1 - _KEPT**number)
        self._of_step.clear()
        self._advance()
        if not math.isfinite(average) or average > _DIVERGED * min([average, *self.curve.losses]):
            trainer.should_stop = True
            return
        self.curve.rates.append(pl_module.learning_rates()["lr"])
        self.curve.losses.append(average)


def show_rates(curve: RateCurve, optimizer: DictConfig, batch_size: int) -> None:
    """Print the curve, and the rate at which the loss falls fastest.

    Args:
        curve: of :func:`rate_curve`.
        optimizer: config of the optimizer, whose rates keep their ratio.
        batch_size: of the training that the curve is of.
    """
    best, number = curve.steepest(), len(curve.rates)
    rows = {*np.linspace(0, number - 1, min(_ROWS, number)).round().astype(int).tolist(), *([best] if best else [])}
    low, high = min(curve.losses), max(curve.losses)
    table = Table("optimizer.lr", "loss", "", box=None)
    for step in sorted(rows):
        bar = "█" * max(round(_BAR * (curve.losses[step] - low) / max(high - low, 1e-12)), 1)
        table.add_row(f"{curve.rates[step]:.2e}", f"{curve.losses[step]:.4f}", bar + " falls fastest" * (step == best))
    show_table(table)
    if best is None:
        logger.warning("the loss did not fall at any rate from %.1e to %.1e", curve.rates[0], curve.rates[-1])
        return
    ratio = curve.rates[best] / optimizer.lr
    more = f" optimizer.encoder_lr={ratio * optimizer.encoder_lr:.1e}" if optimizer.get("encoder_lr") else ""
    logger.info(
        "with data.batch_size=%d the loss falls fastest at optimizer.lr=%.1e%s", batch_size, curve.rates[best], more
    )


def largest_batch(cfg: DictConfig, task: build.Task, datamodule: VOCDataModule) -> int:
    """Return the estimated number of images in the largest training batch that fits into the free memory.

    The memory of training steps is measured, each in a process of its own, with more and more images until these take
    twice as much as the first, are all of the list, would not fit, or do not; that of further images grows as it did
    last.

    Raises:
        UserError: a denoiser, or a step cannot be measured, or not even the smallest batch fits.
    """
    if isinstance(task, DiffusionTask):
        raise UserError("tune=batch_size measures segmentation networks, not denoisers. Leave it out of tune.")
    accelerator, precision = device_kind(cfg.trainer.accelerator), cfg.trainer.precision
    make_fabric = partial(fabric_from_settings, accelerator, precision, _first_device(cfg))
    room = _USED * free_memory(make_fabric().device)
    taken, too_many = _memory_by_size(
        lambda number: measure(_training_step(cfg, task, datamodule, number, make_fabric), rounds=1).peak_bytes,
        len(datamodule.train_pairs),
        room,
    )
    fewer, most = sorted(taken)[-2:]
    each = max((taken[most] - taken[fewer]) / (most - fewer), 1.0)
    logger.info("%.1f GB can be used, and each further image takes about %.3f GB", room / 1e9, each / 1e9)
    fits = min(most + math.floor((room - taken[most]) / each), too_many - 1)
    if fits < _FEWEST:
        raise UserError(f"Not even {_FEWEST} images fit into the memory. {_LESS}")
    return int(fits)


def _memory_by_size(
    peak_bytes: Callable[[int], int], images_there: int, room: float
) -> tuple[dict[int, int], int | float]:
    """Measure training steps of more and more images, as :func:`largest_batch` says.

    Args:
        peak_bytes: measures the step of a number of images.
        images_there: number of training images.
        room: bytes that can be used.

    Returns:
        The bytes by number of images, 0 for none, and the smallest number that did not fit, infinity if all did.

    Raises:
        UserError: the smallest step cannot be measured.
    """
    taken, number = {0: 0}, _FEWEST
    while number == _FEWEST or (
        number // 2 < images_there and 2 * (last := taken[number // 2]) < room and last < 2 * taken[_FEWEST]
    ):
        try:
            taken[number] = peak_bytes(number)
        except UserError as error:
            if number == _FEWEST:
                what = f"A training step of {number} images cannot be measured: {error.what}"
                raise UserError(what, _LESS) from error
            logger.info("a training step of %d images does not fit: %s", number, error.what)
            return taken, number
        logger.info("a training step of %d images takes %.2f GB", number, taken[number] / 1e9)
        number *= 2
    return taken, math.inf


def _training_step(
    cfg: DictConfig, task: SegmentationTask, datamodule: VOCDataModule, number: int, make_fabric: Callable[[], Fabric]
) -> Workload:
    """Return a training step of a number of images, to be measured."""
    assert datamodule.transform is not None
    side = datamodule.transform.crop_size
    return Workload(
        make_net=partial(build.net_from_config, build.without_weights(cfg.model), cfg.gradient_checkpointing),
        make_inputs=partial(images, datamodule.channels, number, (side, side)),
        make_fabric=make_fabric,
        channels_last=cfg.channels_last,
        num_classes=len(datamodule.class_names),
        training=(task.loss, task.optimizer),
    )


def show_batch_size(fits: int, datamodule: VOCDataModule) -> None:
    """Log the largest batch size, at most the number of training images."""
    count = len(datamodule.train_pairs)
    if fits >= count:
        logger.info("all %d images of the list fit: data.batch_size=%d", count, count)
    else:
        logger.info("about %d images fit: data.batch_size=%d", fits, fits)
    logger.info("not counted: torch.compile, averaged weights and, in the main memory, loader processes")
