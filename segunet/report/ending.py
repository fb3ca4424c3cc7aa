"""What the end of any training says: where the best checkpoint is, and what to do next."""

import logging
import shlex
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from segunet.base.terminal import setting
from segunet.training.callbacks import MaxSteps, MaxTime

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
    """Log the best score, unless it is unknown, to all loggers but tables, and close their files."""
    for board in trainer.loggers:
        if value is not None and not isinstance(board, CSVLogger):
            board.log_metrics({name: value}, trainer.global_step)
        board.finalize("success")


def log_next_steps(trainer: pl.Trainer, run_dir: Path, use: str) -> None:
    """Log how to go on with a run; ``use`` is the line with the command that uses its best checkpoint."""
    logger.info(use)
    logger.info("resume:    python -m segunet.train %s%s", setting("resume", run_dir), longer(trainer))
    if next(run_dir.rglob("events.out.tfevents.*"), None) is not None:
        logger.info("watch:     tensorboard --logdir %s", shlex.quote(str(run_dir)))


def longer(trainer: pl.Trainer) -> str:
    """Return the setting that lets a training go on that has ended; none if it was stopped."""
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, MaxSteps) and trainer.global_step >= each.steps:
            return " trainer.max_steps=N"
        if isinstance(each, MaxTime) and each.is_over():
            return " trainer.max_time=DD:HH:MM:SS"
    return " trainer.max_epochs=N" if trainer.current_epoch >= (trainer.max_epochs or 1) else ""
