"""What the end of any training says: where the best checkpoint is, and what to do next."""

import logging
import shlex
from pathlib import Path

import pytorch_lightning as pl

from segunet.base.terminal import setting

logger = logging.getLogger(__name__)
BEST = "checkpoints/best.ckpt"


def best_checkpoint(run_dir: Path) -> Path | None:
    """Return the run's best checkpoint; log why there is none, if so."""
    best, last = run_dir / BEST, run_dir / "checkpoints" / "last.ckpt"
    if best.is_file():
        return best
    logger.info(
        "there is no best checkpoint (no validation was run, or the file was removed); %s",
        f"the weights are in {last}" if last.is_file() else "nothing was trained",
    )
    return None


def score_to_board(trainer: pl.Trainer, name: str, value: float | None) -> None:
    """Log the best score to TensorBoard, unless it is unknown, and close its files."""
    for board in trainer.loggers:
        if value is not None:
            board.log_metrics({name: value}, trainer.global_step)
        board.finalize("success")


def log_next_steps(run_dir: Path, use: str) -> None:
    """Log how to go on with a run; ``use`` is the line with the command that uses its best checkpoint."""
    logger.info(use)
    logger.info("resume:    python -m segunet.train %s trainer.max_epochs=N", setting("resume", run_dir))
    logger.info("watch:     tensorboard --logdir %s", shlex.quote(str(run_dir)))
