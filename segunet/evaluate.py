"""Score a checkpoint: ``python -m segunet.evaluate checkpoint=PATH [key=value] ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("evaluate")

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from omegaconf import DictConfig

from segunet.base.errors import UserError, counted
from segunet.base.failures import enough_memory
from segunet.base.files import locked
from segunet.base.stopping import saying_when_stopped
from segunet.base.validation import Count, check
from segunet.cli.command import command
from segunet.cli.run_dir import (
    as_paths,
    check_one_process,
    command_line,
    is_main_process,
    open_run_dir,
    planned_run_dir,
)
from segunet.data.datamodule import VOCDataModule
from segunet.images.palette import ClassColours
from segunet.images.rasters import georeferenced_among, opened_raster
from segunet.inference.checkpoint import Checkpoint, check_augmentation
from segunet.inference.ensemble import load_checkpoints
from segunet.inference.precision import precision_for
from segunet.inference.tiling import Inference
from segunet.metrics.scores import Scores
from segunet.report.examples import examples
from segunet.report.facts import facts
from segunet.report.page import PAGE, Report, write_page
from segunet.report.scores import FILES, show_report, write_report
from segunet.training.build_scoring import scoring_data
from segunet.training.build_trainer import scorer_from_config
from segunet.training.callbacks import STRIPS, ImageStrips, SavePredictions
from segunet.training.progress import ScoringProgress
from segunet.training.scoring import ScoringTask

logger = logging.getLogger("segunet.evaluate")  # __name__ is "__main__" when run as a program
RESULTS = (*FILES, PAGE, STRIPS, "predictions")  # written to a run's folder
_LESS_MEMORY = "Lower data.num_workers or data.val_batch_size."


def evaluate(cfg: DictConfig) -> Scores:
    """Score ``cfg.checkpoint`` as ``cfg`` says, every image at its own size, and write the report.

    Raises:
        UserError: anything the user can fix; nothing is written before checkpoint and data are checked.
    """
    started = time.monotonic()
    check_settings(cfg)
    inference = Inference(cfg.tta, cfg.tile, cfg.overlap)
    checkpoint = load_checkpoints(as_paths(cfg.checkpoint))
    check_augmentation(checkpoint, cfg.tta)
    cfg, datamodule = scoring_data(cfg, checkpoint, prepare=is_main_process())
    datamodule.check_shared_memory()
    num_classes, ignore_index = len(checkpoint.class_names), datamodule.form.ignore_index
    task = ScoringTask(checkpoint.net, num_classes, ignore_index, inference, cfg.boundary_iou, datamodule.objects)
    run_dir = planned_run_dir(cfg, "evaluate", RESULTS)
    colours = colours_of(checkpoint, datamodule)
    callbacks: list[pl.Callback] = [ScoringProgress(), ImageStrips(cfg.images, colours, run_dir)]
    if cfg.save_predictions:
        callbacks.append(saved_predictions(run_dir / "predictions", colours, datamodule))
    cfg.trainer.precision = precision_for(checkpoint.net, cfg.trainer.precision)
    trainer = scorer_from_config(cfg, callbacks, run_dir)
    check_one_process(trainer)
    with locked(run_dir) if is_main_process() else nullcontext():
        open_run_dir(cfg, run_dir)
        stopped = f"nothing was scored; start it again: {command_line()}"
        with enough_memory("in the evaluation", _LESS_MEMORY), saying_when_stopped(lambda: stopped):
            trainer.test(task, datamodule=datamodule, verbose=False)
        assert task.scores is not None
        if trainer.is_global_zero:
            show_report(task.scores, checkpoint.class_names)
            write_report(task.scores, checkpoint.class_names, run_dir)
            logger.info("written to %s", run_dir)
            report = report_of(cfg, trainer, run_dir, datamodule, colours, task, time.monotonic() - started)
            write_page(report, run_dir / PAGE)
            logger.info("report: %s", run_dir / PAGE)
    return task.scores


def check_settings(cfg: DictConfig) -> None:
    """Raise a UserError for invalid values that no constructor checks."""
    if cfg.checkpoint is None:
        raise UserError("Which checkpoint? Give checkpoint=PATH, such as a run's checkpoints/best.ckpt.")
    check("images", cfg.images, Count)
    for name in ("boundary_iou", "save_predictions"):
        check(name, cfg[name], bool)


def saved_predictions(folder: Path, colours: ClassColours, datamodule: VOCDataModule) -> SavePredictions:
    """Return what writes the predictions into the ``folder``, those of georeferenced images as GeoTIFFs too."""
    located = georeferenced_among(pair.image for pair in datamodule.val_pairs)
    files = {pair.name: pair.image for pair in datamodule.val_pairs if pair.image in located}
    return SavePredictions(folder, colours, files, no_data_in(datamodule))


def no_data_in(datamodule: VOCDataModule) -> Callable[[str], NDArray[np.bool_]] | None:
    """Return what tells where the raster of a name has no data, bool (H, W); None if the images are no rasters."""
    if datamodule.form.bands is None:
        return None
    files = {pair.name: pair.image for pair in datamodule.val_pairs}

    def no_data(name: str) -> NDArray[np.bool_]:
        with opened_raster(files[name], datamodule.form.bands) as raster:
            return raster.no_data()

    return no_data


def colours_of(checkpoint: Checkpoint, datamodule: VOCDataModule) -> ClassColours:
    """Return the checkpoint's colours, with the data set's own for ignored pixels, and its bands that are shown."""
    form, channels = datamodule.form, datamodule.shown_channels or checkpoint.colours.channels
    return replace(checkpoint.colours, channels=channels).ignoring(form.ignore_index, form.palette[form.ignore_index])


def report_of(
    cfg: DictConfig,
    trainer: pl.Trainer,
    run_dir: Path,
    datamodule: VOCDataModule,
    colours: ClassColours,
    task: ScoringTask,
    seconds: float,
) -> Report:
    """Return the report of an evaluation."""
    scores = task.scores
    assert scores is not None
    augmentation = "" if cfg.tta == "none" else f", with test-time augmentation ({cfg.tta})"
    return Report(
        kind="Evaluation",
        name=run_dir.name,
        subject=f"{cfg.checkpoint}, on the {counted(scores.images, 'image')} of {datamodule.val_name}{augmentation}",
        scores=scores,
        colours=colours,
        examples=examples(scores.image_miou, task.net, trainer, datamodule, colours, task.inference),
        facts=facts(trainer, datamodule, seconds),
        command=command_line(),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
    )


@command("evaluate")
def main(cfg: DictConfig) -> float | None:
    """Run the command; a sweep can maximise the mIoU."""
    return evaluate(cfg).miou


if __name__ == "__main__":
    main()
