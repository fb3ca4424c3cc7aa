"""The report at the end of training: the scores of the best checkpoint, and the page."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from segunet.base.errors import UserError, counted
from segunet.base.terminal import setting
from segunet.cli.run_dir import command_line
from segunet.data.datamodule import VOCDataModule
from segunet.inference.checkpoint import card_of, load_checkpoint, read_checkpoint
from segunet.inference.tiling import Inference
from segunet.metrics.objects import ObjectCounts, ObjectScores
from segunet.metrics.scores import Scores, scores_from_confusion
from segunet.report.ending import BEST, best_checkpoint, log_next_steps, score_to_board
from segunet.report.examples import examples
from segunet.report.facts import facts
from segunet.report.model_card import write_card
from segunet.report.page import PAGE, Report, write_page
from segunet.report.scores import show_report, write_report
from segunet.training.callbacks import time_trained
from segunet.training.history import history_of

logger = logging.getLogger(__name__)
BEST_MIOU = "best/miou"  # in TensorBoard

_ADVICE = "Resume the run for one more epoch (resume=RUN trainer.max_epochs=N): its checkpoint then becomes the best."


def conclude(trainer: pl.Trainer, run_dir: Path, datamodule: VOCDataModule, inference: Inference) -> None:
    """Show and write the scores of the best checkpoint, and log the next steps.

    Args:
        trainer: the trainer, after training, or with the state of its callbacks restored.
        run_dir: the run's folder.
        datamodule: the data of training and validation.
        inference: as used for validation.
    """
    if (best := best_checkpoint(run_dir)) is None:
        return
    content = read_checkpoint(best, _ADVICE)
    epoch, scores = content["epoch"] + 1, saved_scores(content, best, datamodule.form.ignore_index)
    show_report(scores, datamodule.class_names)
    write_report(scores, datamodule.class_names, run_dir)
    score_to_board(trainer, BEST_MIOU, scores.miou)
    logger.info("best epoch: %d; written to %s", epoch, run_dir)
    log_next_steps(trainer, run_dir, f"evaluate:  python -m segunet.evaluate {setting('checkpoint', best)}")
    report = report_of(trainer, run_dir, datamodule, inference, scores, epoch)
    write_page(report, run_dir / PAGE)
    write_card(report, run_dir)
    logger.info("report:    %s", run_dir / PAGE)


def saved_scores(content: Mapping[str, Any], checkpoint: Path, ignore_index: int) -> Scores:
    """Return the scores saved in ``checkpoint``, which has that ``content``.

    Raises:
        UserError: its card is damaged or has no scores.
    """
    saved = card_of(content, checkpoint, _ADVICE).scores
    if saved is None:
        raise UserError(f"{checkpoint} was not saved after a validation. {_ADVICE}")
    objects = None
    if saved.objects:
        counts = saved.objects.model_dump(exclude={"rand_error"})
        objects = ObjectScores(ObjectCounts(**counts), saved.objects.rand_error)
    return scores_from_confusion(
        saved.confusion, saved.images, saved.image_miou, ignore_index=ignore_index, objects=objects
    )


def report_of(
    trainer: pl.Trainer,
    run_dir: Path,
    datamodule: VOCDataModule,
    inference: Inference,
    scores: Scores,
    best_epoch: int,
) -> Report:
    """Return the report of a finished run, whose best checkpoint has ``scores``."""
    net = load_checkpoint(run_dir / BEST).net
    colours = datamodule.colours
    return Report(
        kind="Training",
        name=run_dir.name,
        subject=f"Best checkpoint, after epoch {best_epoch} of {max(trainer.current_epoch, datamodule.first_epoch)}, "
        f"on the {counted(scores.images, 'image')} of {datamodule.val_name}",
        scores=scores,
        colours=colours,
        examples=examples(scores.image_miou, net, trainer, datamodule, colours, inference),
        facts=facts(trainer, datamodule, time_trained(trainer)),
        command=command_line(),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
        history=history_of(trainer),
        best_epoch=best_epoch,
    )
