"""Score a checkpoint: ``python -m segunet.evaluate checkpoint=PATH [key=value] ...``."""

import logging
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from segunet import build
from segunet.callbacks import Pictures, SavePredictions, ScoringProgress
from segunet.commands import command, open_run_dir, planned_run_dir
from segunet.errors import UserError
from segunet.metrics import Scores
from segunet.report import show_report, write_report
from segunet.tasks.segmentation import ScoringTask

logger = logging.getLogger("segunet.evaluate")  # __name__ is "__main__" when run as a program

FROM_CHECKPOINT = "checkpoint"


def evaluate(cfg: DictConfig) -> Scores:
    """Score ``cfg.checkpoint`` as ``cfg`` says, every picture at its own size, and write the report.

    Raises:
        UserError: whatever the user can mend; nothing is written before checkpoint and data are seen to be sound.
    """
    if cfg.checkpoint is None:
        raise UserError("Which checkpoint? Give checkpoint=PATH, such as a run's checkpoints/best.ckpt.")
    checkpoint = build.load_checkpoint(Path(cfg.checkpoint).expanduser())
    cfg = with_checkpoint_values(cfg, checkpoint)
    datamodule = build.datamodule_from_config(cfg)
    build.check_classes(checkpoint, datamodule)
    datamodule.prepare_data()
    datamodule.setup("test")
    num_classes, ignore_index = len(checkpoint.class_names), datamodule.form.ignore_index
    task = ScoringTask(checkpoint.net, num_classes, ignore_index, cfg.tta, cfg.boundary_iou)
    run_dir = planned_run_dir(cfg, "evaluate")
    pictures = Pictures(cfg.pictures, checkpoint.palette, checkpoint.class_names, run_dir)
    callbacks: list[pl.Callback] = [ScoringProgress(), pictures]
    if cfg.save_predictions:
        callbacks.append(SavePredictions(run_dir / "predictions", checkpoint.palette))
    trainer = build.scorer_from_config(cfg, callbacks, run_dir)
    open_run_dir(cfg, run_dir)
    trainer.test(task, datamodule=datamodule, verbose=False)
    assert task.scores is not None
    if trainer.is_global_zero:
        show_report(task.scores, checkpoint.class_names)
        write_report(task.scores, checkpoint.class_names, run_dir)
        logger.info("written to %s", run_dir)
    return task.scores


def with_checkpoint_values(cfg: DictConfig, checkpoint: build.Checkpoint) -> DictConfig:
    """Fill in from the checkpoint what ``cfg`` leaves to it: the data set, the split, the inference size."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    if "_target_" not in cfg.data:
        given = {key: value for key, value in cfg.data.items() if value is not None}
        cfg.data = OmegaConf.merge(checkpoint.data, given)
        if "download" in cfg.data:
            cfg.data.download = False  # a checkpoint is no reason to fetch anything
    if cfg.split is not None:
        cfg.data.val_split = cfg.split
    if cfg.inference_size == FROM_CHECKPOINT:
        cfg.inference_size = checkpoint.inference_size
    return cfg


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    evaluate(cfg)


if __name__ == "__main__":
    main()
