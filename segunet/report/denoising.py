"""The end of a denoiser's training: the loss of the best checkpoint, and what to do next."""

import logging
from pathlib import Path

import pytorch_lightning as pl

from segunet.base.files import write_json
from segunet.base.terminal import setting
from segunet.inference.checkpoint import card_of, read_checkpoint
from segunet.report.ending import best_checkpoint, log_next_steps, score_to_board

logger = logging.getLogger(__name__)
BEST_LOSS = "best/val_loss"  # in TensorBoard
METRICS = "metrics.json"


def conclude_denoiser(trainer: pl.Trainer, run_dir: Path) -> None:
    """Write the loss of the best checkpoint to metrics.json, and log the next steps.

    Args:
        trainer: the trainer, after training.
        run_dir: the run's folder.
    """
    if (best := best_checkpoint(run_dir)) is None:
        return
    content = read_checkpoint(best)
    denoiser, epoch = card_of(content, best).denoiser, content["epoch"] + 1
    loss = denoiser.val_loss if denoiser else None
    write_json(run_dir / METRICS, {"val_loss": loss, "best_epoch": epoch})
    score_to_board(trainer, BEST_LOSS, loss)
    logger.info("best epoch: %d, val loss %s; written to %s", epoch, "-" if loss is None else f"{loss:.4f}", run_dir)
    log_next_steps(run_dir, f"generate:  python -m segunet.generate {setting('checkpoint', best)} count=16")
