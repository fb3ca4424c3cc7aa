"""Train a network: ``python -m segunet.train [group=choice] [key=value] ...``."""

import logging
import shlex
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger

from segunet import build
from segunet.commands import command, is_main_process, open_run_dir, planned_run_dir, resumed_config
from segunet.data.datamodule import VOCDataModule
from segunet.errors import UserError
from segunet.metrics import scores_from_confusion
from segunet.report import show_report, write_report
from segunet.terminal import log_to_file

logger = logging.getLogger("segunet.train")  # __name__ is "__main__" when run as a program
_BEST_MIOU = "best/miou"


def train(cfg: DictConfig) -> Path:
    """Train as ``cfg`` says and return the run's folder.

    Raises:
        UserError: whatever the user can mend; nothing is written before data and config are seen to be sound.
    """
    resume = Path(cfg.resume).expanduser().absolute() if cfg.resume else None
    if resume:
        cfg = resumed_config(resume)
        check_unfinished(cfg, resume)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build.datamodule_from_config(cfg)
    if is_main_process():
        datamodule.prepare_data()
    datamodule.setup("fit")
    task = build.task_from_config(cfg, datamodule)
    run_dir = resume or planned_run_dir(cfg, "train")
    callbacks = build.callbacks_from_config(cfg, datamodule, run_dir)
    trainer = build.trainer_from_config(cfg, callbacks, run_dir)
    open_run_dir(cfg, run_dir)
    log_to_file(run_dir / "train.log")
    hyperparameters_to_board(cfg, trainer)
    introduce(datamodule, trainer, run_dir)
    checkpoint = run_dir / "checkpoints" / "last.ckpt" if resume else None
    trainer.fit(task, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        conclude(trainer, run_dir, datamodule)
    return run_dir


def check_unfinished(cfg: DictConfig, run_dir: Path) -> None:
    """Raise a UserError if the run in ``run_dir`` has done all of its epochs."""
    done = build.read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["epoch"] + 1
    if cfg.trainer.max_epochs is not None and 0 <= cfg.trainer.max_epochs <= done:
        raise UserError(
            f"resume={run_dir}: that run has done all of its {done} epochs. To train it for longer, add "
            f"trainer.max_epochs=N with N above {done}."
        )


def hyperparameters_to_board(cfg: DictConfig, trainer: pl.Trainer) -> None:
    """Show the config's single values in TensorBoard's HPARAMS page, beside the best mIoU."""
    if isinstance(trainer.logger, TensorBoardLogger):
        values = OmegaConf.to_container(cfg, resolve=True)
        trainer.logger.log_hyperparams({"config": values}, {_BEST_MIOU: 0.0})


def introduce(datamodule: VOCDataModule, trainer: pl.Trainer, run_dir: Path) -> None:
    """Say what is about to be trained on what."""
    logger.info(
        "training on %d pictures of %s (%d classes), validating on %d; %s, %s; run folder %s",
        len(datamodule.train_pairs),
        datamodule.root,
        len(datamodule.class_names),
        len(datamodule.val_pairs),
        trainer.strategy.root_device,
        trainer.precision,
        run_dir,
    )


def conclude(trainer: pl.Trainer, run_dir: Path, datamodule: VOCDataModule) -> None:
    """Show and write the scores of the best checkpoint, and say how to go on."""
    best = run_dir / "checkpoints" / "best.ckpt"
    if not best.is_file():
        logger.info("no validation took place, so there is no best checkpoint; see %s", run_dir)
        return
    content = build.read_checkpoint(best)
    saved = content["segunet"]["scores"]
    scores = scores_from_confusion(saved["confusion"], saved["images"])
    show_report(scores, datamodule.class_names)
    write_report(scores, datamodule.class_names, run_dir)
    for board in trainer.loggers:
        board.log_metrics({_BEST_MIOU: scores.miou}, trainer.global_step)
        board.finalize("success")
    logger.info("best epoch: %d; written to %s", content["epoch"] + 1, run_dir)
    logger.info("evaluate:  python -m segunet.evaluate checkpoint=%s", shlex.quote(str(best)))
    logger.info("go on:     python -m segunet.train resume=%s trainer.max_epochs=N", shlex.quote(str(run_dir)))
    logger.info("watch:     tensorboard --logdir %s", shlex.quote(str(run_dir)))


@command("train")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    train(cfg)


if __name__ == "__main__":
    main()
