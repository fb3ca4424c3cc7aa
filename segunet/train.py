"""Train a network: ``python -m segunet.train [group=choice] [key=value] ...``."""

import logging
import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from pytorch_lightning.loggers import TensorBoardLogger

from segunet.base.errors import UserError, abbreviated
from segunet.base.files import DRAFTS, check_within, locked, remove_abandoned
from segunet.base.terminal import log_to_file, setting
from segunet.base.validation import AtLeast0, Count, check
from segunet.cli.command import command
from segunet.cli.comparison import read_scores, record_resumed
from segunet.cli.run_dir import (
    as_path,
    check_one_process,
    chosen,
    command_on_same_data,
    is_main_process,
    open_run_dir,
    planned_run_dir,
    started_from_outside,
)
from segunet.data.datamodule import VOCDataModule
from segunet.inference.checkpoint import load_checkpoint, read_card, read_checkpoint
from segunet.metrics.scores import Scores, scores_from_confusion
from segunet.report.examples import examples
from segunet.report.facts import command_line, duration, facts
from segunet.report.history import read_history
from segunet.report.page import PAGE, Report, write_page
from segunet.report.scores import FILES, show_report, write_report
from segunet.training import build
from segunet.training.resume import check_same_network, naming, resume_changes, resumed_config

logger = logging.getLogger("segunet.train")  # __name__ is "__main__" when run as a program
_BEST_MIOU = "best/miou"
# The least values of what Lightning does not check itself, or checks only when the training begins.
_WHOLE_NUMBERS = {"max_epochs": 1, "max_steps": -1, "accumulate_grad_batches": 1}
_WHOLE_NUMBERS_OR_NULL = {"num_sanity_val_steps": -1, "log_every_n_steps": 0, "check_val_every_n_epoch": 1}
RESULTS = (*FILES, PAGE, "train.log", "tensorboard")  # what is written to a run's folder beside these
WRITTEN = ("config.yaml", "job.json", "checkpoints", "checkpoints/last.ckpt", "checkpoints/best.ckpt")


def train(cfg: DictConfig) -> Path:
    """Train as ``cfg`` says and return the run's folder.

    Raises:
        UserError: whatever the user can fix; nothing is written before data and config are seen to be sound.
    """
    with ExitStack() as whole_run:
        return _train(cfg, whole_run)


def _train(cfg: DictConfig, whole_run: ExitStack) -> Path:
    started, epochs_done = time.monotonic(), 0
    resume = as_path(cfg.resume).absolute() if cfg.resume else None
    config = resume / "config.yaml" if resume else None
    if resume:
        cfg = resumed_config(resume)
        if is_main_process():
            whole_run.enter_context(locked(resume))
        check_within(resume, (*WRITTEN, *RESULTS))
    with naming(config):
        check_settings(cfg)
    if resume:
        epochs_done = check_unfinished(cfg, resume)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    with naming(config):
        datamodule = build.datamodule_from_config(cfg)
    datamodule.first_epoch = epochs_done
    set_up(datamodule)
    run_dir = resume or planned_run_dir(cfg, "train", RESULTS)
    with naming(config):
        task = build.task_from_config(cfg, datamodule, resumed=resume is not None)
        callbacks = build.callbacks_from_config(cfg, datamodule, run_dir)
        trainer = build.trainer_from_config(cfg, callbacks, run_dir)
    check_one_process(trainer)
    if is_main_process() and not resume:
        whole_run.enter_context(locked(run_dir))
    open_run_dir(cfg, run_dir)
    if is_main_process():
        remove_abandoned((run_dir / "checkpoints").glob(DRAFTS))
        log_to_file(run_dir / "train.log")
    hyperparameters_to_board(cfg, trainer)
    introduce(datamodule, trainer, run_dir)
    checkpoint = run_dir / "checkpoints" / "last.ckpt" if resume else None
    trainer.fit(task, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        conclude(trainer, run_dir, datamodule, started)
        if resume:
            record_resumed(run_dir, resume_changes())
    return run_dir


def check_settings(cfg: DictConfig) -> None:
    """Raise a UserError for values that no run can have."""
    check("seed", cfg.seed, Count)
    for name in ("channels_last", "compile"):
        check(name, cfg[name], bool)
    for name, least in (_WHOLE_NUMBERS | _WHOLE_NUMBERS_OR_NULL).items():
        value = cfg.trainer.get(name)
        if value is not None or name in _WHOLE_NUMBERS:
            check(f"trainer.{name}", value, Annotated[int, Field(ge=least)])
    check("trainer.gradient_clip_val", cfg.trainer.get("gradient_clip_val"), AtLeast0 | None)


def check_unfinished(cfg: DictConfig, run_dir: Path) -> int:
    """Return how many epochs the run in ``run_dir`` has done; warn if the last of them is not whole.

    Where all are done and only the results are missing, no epoch is added: ``cfg.trainer.max_epochs`` is set so.

    Raises:
        UserError: it has done all of them, and has its results.
    """
    content = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    check_same_network(cfg.model, content["segunet"]["model"], run_dir / "config.yaml")
    done: int = content["epoch"] + 1
    loops = content["loops"]["fit_loop"]
    last_epoch = loops["epoch_loop.batch_progress"]
    if not last_epoch["is_last_batch"]:
        logger.warning(
            "trainer.max_steps cut epoch %d of %s short after %d batches. The run goes on with the next epoch; what is "
            "missing of that one is not trained.",
            done,
            run_dir,
            last_epoch["current"]["completed"],
        )
    validated = loops["epoch_progress"]["current"]["processed"] == done
    stopped_early = _stopped_early(cfg, content["callbacks"])
    if validated and (cfg.trainer.max_epochs <= done or stopped_early):
        if has_results(run_dir):
            how = f"was stopped early after {done}" if stopped_early else f"has done all of its {done}"
            longer = (
                "callbacks.early_stopping_patience=null" if stopped_early else "trainer.max_epochs=N with N above it"
            )
            raise UserError(f"resume={run_dir}: that run {how} epochs. To train it for longer, add {longer}.")
        logger.info("all of its %d epochs are done; what is missing is the report", done)
        cfg.trainer.max_epochs = done
    return done


def _stopped_early(cfg: DictConfig, callbacks: Mapping[str, Any]) -> bool:
    patience = cfg.callbacks.early_stopping_patience
    waited = [state["wait_count"] for name, state in callbacks.items() if name.startswith("EarlyStopping")]
    return patience is not None and any(count >= patience for count in waited)


def has_results(run_dir: Path) -> bool:
    """Return whether the report, which is written last, is there and is of the newest checkpoint."""
    page, last = run_dir / PAGE, run_dir / "checkpoints" / "last.ckpt"
    return page.is_file() and page.stat().st_mtime >= last.stat().st_mtime


def set_up(datamodule: VOCDataModule) -> None:
    """Prepare the data and look through it, in the first process, and read the lists, in each.

    Raises:
        UserError: what is wrong with the data; to a process that did not wait for the first one, what to do.
    """
    if is_main_process():
        datamodule.prepare_data()
    try:
        datamodule.setup("fit")
        if is_main_process():
            datamodule.check_labels()
            datamodule.check_shared_memory()
    except UserError as error:
        if not started_from_outside():
            raise
        raise UserError(
            f"{error} Of processes started together (torchrun, srun) only the first one writes or downloads data, and "
            "the others do not wait for it. Prepare the data with one process, then start them again: "
            + command_on_same_data("check_data")
        ) from error


def hyperparameters_to_board(cfg: DictConfig, trainer: pl.Trainer) -> None:
    """Show the config's single values in TensorBoard's HPARAMS page, beside the best mIoU."""
    if isinstance(trainer.logger, TensorBoardLogger):
        values = OmegaConf.to_container(cfg, resolve=True)
        trainer.logger.log_hyperparams({"config": values}, {_BEST_MIOU: 0.0})


def introduce(datamodule: VOCDataModule, trainer: pl.Trainer, run_dir: Path) -> None:
    """Say what is about to be trained on what, by which recipe."""
    if (recipe := chosen("experiment")) is not None:
        unless = " (taken unless the command line names data or experiment)" if recipe == "sample" else ""
        logger.info("recipe: experiment=%s%s", recipe, unless)
    logger.info(
        "training on %d images of %s (%d classes), validating on %d; %s, %s; run folder %s",
        len(datamodule.train_pairs),
        datamodule.root,
        len(datamodule.class_names),
        len(datamodule.val_pairs),
        trainer.strategy.root_device,
        trainer.precision,
        run_dir,
    )
    names = {pair.name for pair in datamodule.train_pairs}
    if both := [pair.name for pair in datamodule.val_pairs if pair.name in names]:
        logger.warning(
            "%d name(s) on both lists (%s): the scores on them say nothing. python -m segunet.check_data tells more.",
            len(both),
            abbreviated(both),
        )


def conclude(trainer: pl.Trainer, run_dir: Path, datamodule: VOCDataModule, started: float) -> None:
    """Show and write the scores of the best checkpoint, and say how to go on."""
    best = run_dir / "checkpoints" / "best.ckpt"
    if not best.is_file():
        last = run_dir / "checkpoints" / "last.ckpt"
        logger.info("no validation took place, so there is no best checkpoint; the weights are in %s", last)
        return
    content = read_checkpoint(best)
    saved = read_card(best).scores
    assert saved is not None
    scores = scores_from_confusion(
        saved.confusion, saved.images, saved.image_miou, ignore_index=datamodule.form.ignore_index
    )
    show_report(scores, datamodule.class_names)
    write_report(scores, datamodule.class_names, run_dir)
    for board in trainer.loggers:
        board.log_metrics({_BEST_MIOU: scores.miou}, trainer.global_step)
        board.finalize("success")
    logger.info("best epoch: %d; written to %s", content["epoch"] + 1, run_dir)
    logger.info("evaluate:  python -m segunet.evaluate %s", setting("checkpoint", best))
    logger.info("go on:     python -m segunet.train %s trainer.max_epochs=N", setting("resume", run_dir))
    logger.info("watch:     tensorboard --logdir %s", shlex.quote(str(run_dir)))
    report = report_of(trainer, run_dir, datamodule, scores, content["epoch"] + 1, time.monotonic() - started)
    write_page(report, run_dir / PAGE)
    logger.info("report:    %s", run_dir / PAGE)


def report_of(
    trainer: pl.Trainer, run_dir: Path, datamodule: VOCDataModule, scores: Scores, best_epoch: int, seconds: float
) -> Report:
    """Gather what the page tells of a finished run, whose best checkpoint has ``scores``."""
    net = load_checkpoint(run_dir / "checkpoints" / "best.ckpt").net
    palette = datamodule.form.palette
    board = trainer.logger
    return Report(
        kind="Training",
        name=run_dir.name,
        subject=f"Best checkpoint, after epoch {best_epoch} of {max(trainer.current_epoch, datamodule.first_epoch)}, "
        f"on the {scores.images} images of {datamodule.val_split}",
        scores=scores,
        class_names=datamodule.class_names,
        palette=palette,
        examples=examples(scores.image_miou, net, trainer, datamodule, palette),
        facts=facts(trainer, datamodule, duration(seconds) + (", since resumed" if datamodule.first_epoch else "")),
        command=command_line(),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
        history=read_history(Path(board.log_dir)) if isinstance(board, TensorBoardLogger) else {},
        best_epoch=best_epoch,
    )


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Run the command; a sweep can maximise the best mIoU."""
    return read_scores(train(cfg)).get("miou")


if __name__ == "__main__":
    main()
