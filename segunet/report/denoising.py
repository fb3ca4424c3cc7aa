"""The end of a denoiser's training: the loss of the best checkpoint, its page, and what to do next."""

import logging
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl

from segunet.base.errors import counted
from segunet.base.files import write_json
from segunet.base.terminal import setting
from segunet.cli.run_dir import command_line
from segunet.data.datamodule import VOCDataModule
from segunet.images.drawing import ImageArray
from segunet.inference.checkpoint import card_of, read_checkpoint
from segunet.inference.generator import Generator, denoiser_of
from segunet.report.ending import best_checkpoint, log_next_steps, score_to_board
from segunet.report.facts import facts
from segunet.report.page import PAGE, DenoiserReport, write_page
from segunet.training.callbacks import time_trained
from segunet.training.history import history_of

logger = logging.getLogger(__name__)
BEST_LOSS = "best/val_loss"  # in TensorBoard
_MOST_PROMPTS = 8


def conclude_denoiser(trainer: pl.Trainer, run_dir: Path, datamodule: VOCDataModule, images: int) -> None:
    """Write the loss of the best checkpoint to metrics.json and the report, and log the next steps.

    Args:
        trainer: the trainer, after training, or with the state of its callbacks restored.
        run_dir: the run's folder.
        datamodule: the data of training and validation.
        images: samples in the report for each prompt; none of latents.
    """
    if (best := best_checkpoint(run_dir)) is None:
        return
    content = read_checkpoint(best)
    denoiser, epoch = card_of(content, best).denoiser, content["epoch"] + 1
    loss = denoiser.val_loss if denoiser else None
    write_json(run_dir / "metrics.json", {"val_loss": loss, "best_epoch": epoch})
    score_to_board(trainer, BEST_LOSS, loss)
    logger.info("best epoch: %d, val loss %s; written to %s", epoch, "-" if loss is None else f"{loss:.4f}", run_dir)
    log_next_steps(trainer, run_dir, f"generate:  python -m segunet.generate {setting('checkpoint', best)} count=16")
    model = Generator(denoiser_of(content, best), trainer.strategy.root_device.type, str(trainer.precision))
    defaults = model.request(next(iter(model.class_names), None))
    report = DenoiserReport(
        kind="Training",
        name=run_dir.name,
        subject=f"Best checkpoint, after epoch {epoch} of {max(trainer.current_epoch, datamodule.first_epoch)}, on the "
        f"{counted(len(datamodule.val_pairs), 'image')} of {datamodule.val_name}",
        facts=facts(trainer, datamodule, time_trained(trainer)) | {"Denoiser": facts_of(model)},
        command=command_line(),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
        history=history_of(trainer),
        best_epoch=epoch,
        loss=loss,
        samples=samples(model, images),
        how=f"The n-th image of each prompt has the same noise. Made by segunet.generate's defaults: {defaults.way}.",
    )
    write_page(report, run_dir / PAGE)
    logger.info("report:    %s", run_dir / PAGE)


def facts_of(model: Generator) -> dict[str, str]:
    """Return what the denoiser was trained for, and the version of the library that has its schedules."""
    schedule = model.schedule
    found = {"predicts": schedule.prediction, "schedule": f"{schedule.schedule}, {schedule.steps} time steps"}
    found["samples"] = f"{model.channels} x {model.size} x {model.size}"
    return found | {"diffusers": version("diffusers")}


def samples(model: Generator, count: int) -> dict[str, ImageArray]:
    """Return ``count`` images uint8 (N, H, W, 3) for each of the first names, and for the empty prompt."""
    if model.decode is None or not count:
        return {}
    empty = {"no prompt": model.generate(count=count)}
    return {name: model.generate(name, count=count) for name in model.class_names[:_MOST_PROMPTS]} | empty
