"""Train a network: ``python -m segunet.train [group=choice] [key=value] ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("train")

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils.tensorboard.summary import hparams

from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.failures import enough_memory
from segunet.base.files import DRAFTS, locked, remove_abandoned
from segunet.base.nested import leaves
from segunet.base.stopping import saying_when_stopped
from segunet.base.terminal import log_to_file, setting
from segunet.cli.command import command
from segunet.cli.comparison import check_job, read_scores, record_resumed
from segunet.cli.run_dir import (
    CONFIG,
    check_one_process,
    check_places,
    chosen,
    command_on_same_data,
    has_checkpoints,
    is_main_process,
    open_run_dir,
    planned_run_dir,
    started_from_outside,
)
from segunet.cost.tuning import CHOICES, largest_batch, rate_curve, show_batch_size, show_rates
from segunet.data.datamodule import VOCDataModule
from segunet.inference.precision import default_precision, gpu_precision
from segunet.report.denoising import BEST_LOSS, conclude_denoiser
from segunet.report.ending import BEST
from segunet.report.model_card import CARD
from segunet.report.page import PAGE
from segunet.report.scores import FILES
from segunet.report.training import BEST_MIOU, conclude
from segunet.training import build
from segunet.training.board import begun, board_of, drop_lost
from segunet.training.build_callbacks import callbacks_from_config
from segunet.training.build_trainer import trainer_from_config
from segunet.training.checkpoints import LAST, PREVIOUS, LastCheckpoint, restoring
from segunet.training.diffusion import DiffusionTask
from segunet.training.fine_tuning import check_init
from segunet.training.resume import Resumed, check_same_data, first_batch, found_run, read_resumed
from segunet.training.saved_config import naming, resume_changes, resumed_config

logger = logging.getLogger("segunet.train")  # __name__ is "__main__" when run as a program
RESULTS = (*FILES, PAGE, "train.log")  # written besides config and checkpoints
WRITTEN = (CONFIG, "job.json", "checkpoints", f"checkpoints/{LAST}", f"checkpoints/{PREVIOUS}", BEST, CARD)

_LESS_MEMORY = (
    "Lower data.batch_size (trainer.accumulate_grad_batches compensates for it) or data.transform.crop_size, or set "
    "gradient_checkpointing=true or trainer.precision=bf16-mixed; if main memory ran out, not the GPU's, lower "
    "data.num_workers. Then resume."
)


@dataclass(frozen=True)
class Start:
    """Where training starts.

    Attributes:
        cfg: config of the run.
        run_dir: folder of the run.
        resumed: state to resume from; None for a new run.
    """

    cfg: DictConfig
    run_dir: Path
    resumed: Resumed | None = None


class Parts(NamedTuple):
    """The objects that a training needs."""

    datamodule: VOCDataModule
    task: build.Task
    trainer: pl.Trainer


def train(cfg: DictConfig) -> Path:
    """Train as ``cfg`` says and return the run's folder.

    Raises:
        UserError: anything the user can fix; nothing is written before data and config are checked.
    """
    if cfg.resume:
        run_dir = found_run(cfg.resume)
        with own(run_dir):
            start = resumed_run(run_dir)
            fit(start, built(start))
            if is_main_process():
                record_resumed(run_dir, resume_changes())
    else:
        start = new_run(cfg)
        parts = built(start)
        with own(start.run_dir):
            check_new(start.run_dir)
            fit(start, parts)
    return start.run_dir


def tune(cfg: DictConfig) -> None:
    """Try what ``cfg.tune`` names, and print what was found; nothing is written.

    Raises:
        UserError: anything the user can fix.
    """
    wanted = [str(each) for each in cfg.tune] if OmegaConf.is_list(cfg.tune) else str(cfg.tune).split(",")
    if not wanted or not {*wanted} <= {*CHOICES}:
        raise UserError(f"tune={cfg.tune}: there is no such thing to try. Give {' or '.join(CHOICES)}, or both.")
    if cfg.resume:
        raise UserError("tune is for a new run, and resume goes on with another. Give one of them.")
    if not is_main_process():
        raise UserError("tune runs in one process. Start it without torchrun or srun.")
    start = new_run(cfg)
    datamodule, task, _ = built(start)
    if "batch_size" in wanted:
        show_batch_size(largest_batch(start.cfg, task, datamodule), datamodule)
    if "lr" in wanted:
        show_rates(rate_curve(start.cfg, task, datamodule), start.cfg.optimizer, datamodule.batch_size)


def new_run(cfg: DictConfig) -> Start:
    """Return the start of a new run."""
    cfg = with_loggers(cfg)
    build.check_settings(cfg)
    check_init(cfg)
    run_dir = planned_run_dir(cfg, "train", (*RESULTS, "checkpoints"))
    return Start(with_precision(cfg, default_precision), run_dir)


def resumed_run(run_dir: Path) -> Start:
    """Return the start of a run that resumes from its last checkpoint."""
    check_places(run_dir, (*WRITTEN, *RESULTS))
    check_job(run_dir)
    cfg = resumed_config(run_dir)
    with naming(run_dir / CONFIG, resume_changes()):
        build.check_settings(cfg)
    cfg = with_precision(cfg, gpu_precision)  # of an older version, whose auto was float32 on CPUs
    return Start(cfg, run_dir, read_resumed(cfg, run_dir))


def with_loggers(cfg: DictConfig) -> DictConfig:
    """Return ``cfg`` with the chosen loggers alone: none of a logger that is null, an empty ``logger`` without any."""
    chosen_loggers = {name: each for name, each in (cfg.get("logger") or {}).items() if each is not None}
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.logger = chosen_loggers
    return cfg


def with_precision(cfg: DictConfig, choose: Callable[[str], str]) -> DictConfig:
    """Return ``cfg`` with what ``auto`` stands for, so that a resumed run keeps its precision."""
    if cfg.trainer.precision != "auto":
        return cfg
    cfg = cfg.copy()
    cfg.trainer.precision = choose(cfg.trainer.accelerator)
    return cfg


def own(run_dir: Path) -> AbstractContextManager[None]:
    """Lock the folder against other runs; the first process does so for all."""
    return locked(run_dir) if is_main_process() else nullcontext()


def check_new(run_dir: Path) -> None:
    """Raise a UserError if another process has trained in the folder while this one waited for it."""
    if is_main_process() and has_checkpoints(run_dir):
        raise UserError(f"{run_dir} now holds another training run. Give another run_dir, or resume that one.")


def built(start: Start) -> Parts:
    """Build the objects, and check data and settings; nothing is written."""
    cfg, run_dir, resumed = start.cfg, start.run_dir, start.resumed
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    with naming(run_dir / CONFIG, resume_changes()) if resumed else nullcontext():
        datamodule = build.datamodule_from_config(cfg)
        datamodule.first_epoch = resumed.progress.epochs if resumed else 0
        set_up(datamodule, resumed is not None)
        if resumed:
            check_same_data(resumed.card, datamodule)
        task = build.task_from_config(cfg, datamodule, resumed=resumed is not None)
        callbacks = callbacks_from_config(cfg, datamodule, run_dir)
        trainer = trainer_from_config(cfg, callbacks, run_dir, resumed.progress.steps if resumed else 0)
        if resumed:
            datamodule.first_batch = first_batch(resumed.progress, datamodule, trainer)
        if resumed and (resumed.finished or cfg.trainer.max_epochs < resumed.progress.epochs):
            trainer.fit_loop.max_epochs = resumed.progress.epochs  # config.yaml keeps the original value
    if cfg.callbacks.freeze_encoder_epochs and not hasattr(task.net, "encoder"):
        raise UserError(
            "callbacks.freeze_encoder_epochs needs a model with an encoder; this one has none. Set it to 0."
        )
    check_one_process(trainer)
    return Parts(datamodule, task, trainer)


def fit(start: Start, parts: Parts) -> None:
    """Train, and write everything to the run's folder."""
    datamodule, task, trainer = parts
    with begun(trainer, start.resumed is not None):
        open_run_dir(start.cfg, start.run_dir)
        if is_main_process():
            remove_abandoned(start.run_dir.rglob(DRAFTS))
            log_to_file(start.run_dir / "train.log")
        introduce(start, datamodule, trainer)
        prepare_loggers(start, trainer, BEST_LOSS if isinstance(task, DiffusionTask) else BEST_MIOU)
        _fit(start, parts)


def _fit(start: Start, parts: Parts) -> None:
    datamodule, task, trainer = parts
    checkpoint = start.resumed.checkpoint if start.resumed else None
    last = next(each for each in trainer.callbacks if isinstance(each, LastCheckpoint))  # type: ignore[attr-defined]
    with enough_memory("in the training", _LESS_MEMORY), restoring(checkpoint, last):
        try:
            trainer.fit(task, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        finally:
            trainer.fit_loop.teardown()  # ends all loader processes; Lightning, stopped in a validation, only its own
    if trainer.is_global_zero:
        unwritten = f"its report is missing; write it: python -m segunet.train {setting('resume', start.run_dir)}"
        with saying_when_stopped(lambda: unwritten):
            finish(start, parts)


def finish(start: Start, parts: Parts) -> None:
    """Show and write the results, and log the next steps."""
    datamodule, task, trainer = parts
    if isinstance(task, DiffusionTask):
        conclude_denoiser(trainer, start.run_dir, datamodule, start.cfg.callbacks.images)
    else:
        conclude(trainer, start.run_dir, datamodule, task.inference)


def set_up(datamodule: VOCDataModule, resumed: bool = False) -> None:
    """Prepare and check the data in the first process, and read the lists in each.

    A resumed run does not write data, as its config is untrusted.

    Raises:
        UserError: invalid data; a process that did not wait for the first one also gets advice.
    """
    if is_main_process() and resumed:
        if not datamodule.download:  # only the command line can set it, not a run's config
            datamodule.check_root()
        datamodule.prepare_scoring()
    elif is_main_process():
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
            f"{error} Of processes started together (torchrun, srun), only the first one writes or downloads data, and "
            "the others do not wait for it. Prepare the data with one process, then start them again: "
            + command_on_same_data("check_data")
        ) from error


def prepare_loggers(start: Start, trainer: pl.Trainer, best: str) -> None:
    """Log a new run's config: to TensorBoard's HPARAMS page beside the ``best`` score, which is logged at the end.

    Of a resumed run, remove what it logs to TensorBoard again.
    """
    if not is_main_process():
        return
    board, resumed = board_of(trainer), start.resumed
    if resumed is None:
        log_settings(OmegaConf.to_container(start.cfg, resolve=True), trainer, best)
    elif board is not None:
        drop_lost(Path(board.log_dir), resumed.progress.steps, resumed.progress.validated)


def log_settings(values: Any, trainer: pl.Trainer, best: str) -> None:
    """Log the ``values`` of a config, in plain containers, to all loggers."""
    board = board_of(trainer)
    for other in trainer.loggers:
        if other is not board:
            other.log_hyperparams(values)
    if board is not None:
        plain = {
            key: value if isinstance(value, int | float | str) else str(value) for key, value in leaves(values).items()
        }
        for summary in hparams(plain, {best: 0.0}):  # type: ignore[no-untyped-call]  # only names the score
            board.experiment.file_writer.add_summary(summary)


def introduce(start: Start, datamodule: VOCDataModule, trainer: pl.Trainer) -> None:
    """Log the recipe, the start, the data and the device of the training."""
    if (recipe := chosen("experiment")) is not None:
        unless = " (the default if neither data nor experiment is given)" if recipe == "sample" else ""
        logger.info("recipe: experiment=%s%s", recipe, unless)
    if start.cfg.init is not None and start.resumed is None:
        logger.info("starts from %s: %s", start.cfg.init, start.cfg.init_parts or "all parts that fit the classes")
    logger.info(
        "training on %s of %s (%d classes), validating on %d; %s, %s; run folder %s",
        counted(len(datamodule.train_pairs), "image"),
        datamodule.root,
        len(datamodule.class_names),
        len(datamodule.val_pairs),
        trainer.strategy.root_device,
        trainer.precision,
        start.run_dir,
    )
    names = {pair.name for pair in datamodule.train_pairs}
    if both := [pair.name for pair in datamodule.val_pairs if pair.name in names]:
        logger.warning(
            "%s on both lists (%s): their scores will be too high. Details: python -m segunet.check_data.",
            counted(len(both), "name"),
            abbreviated(both),
        )


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Run the command; a sweep can maximise the best mIoU, or the negative of the best loss of a denoiser."""
    if cfg.tune is not None:
        tune(cfg)
        return None
    scores = read_scores(train(cfg))
    loss = scores.get("val_loss")
    return scores.get("miou") if loss is None else -loss


if __name__ == "__main__":
    main()
