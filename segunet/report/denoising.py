"""The end of a denoiser's training: the loss of the best checkpoint, and what to do next."""

import logging
import shlex
from pathlib import Path

import pytorch_lightning as pl

from segunet.base.files import write_json
from segunet.base.terminal import setting
from segunet.inference.checkpoint import card_of, read_checkpoint

logger = logging.getLogger(__name__)
BEST = "checkpoints/best.ckpt"
BEST_LOSS = "best/val_loss"  # in TensorBoard
METRICS = "metrics.json"


def conclude_denoiser(trainer: pl.Trainer, run_dir: Path) -> None:
    """Write the loss of the best checkpoint to metrics.json, and log the next steps.

    Args:
        trainer: the trainer, after training.
        run_dir: the run's folder.
    """
    best = run_dir / BEST
    if not best.is_file():
        last = run_dir / "checkpoints" / "last.ckpt"
        logger.info(
            "there is no best checkpoint (no validation was run, or the file was removed); %s",
            f"the weights are in {last}" if last.is_file() else "nothing was trained",
        )
        return
    content = read_checkpoint(best)
    denoiser, epoch = card_of(content, best).denoiser, content["epoch"] + 1
    loss = denoiser.val_loss if denoiser else None
    write_json(run_dir / METRICS, {"val_loss": loss, "best_epoch": epoch})
    for board in trainer.loggers:
        if loss is not None:
            board.log_metrics({BEST_LOSS: loss}, trainer.global_step)
        board.finalize("success")
    logger.info("best epoch: %d, val loss %s; written to %s", epoch, "-" if loss is None else f"{loss:.4f}", run_dir)
    logger.info("generate:  python -m segunet.generate %s count=16", setting("checkpoint", best))
    logger.info("resume:    python -m segunet.train %s trainer.max_epochs=N", setting("resume", run_dir))
    logger.info("watch:     tensorboard --logdir %s", shlex.quote(str(run_dir)))
