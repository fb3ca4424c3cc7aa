"""Build Lightning's trainer and its loggers from a config."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.files import check_within
from segunet.base.paths import CONF_DIR
from segunet.base.trust import target_of
from segunet.inference.precision import default_precision
from segunet.training.board import TensorBoardLogger
from segunet.training.checkpoints import WholeFileCheckpointIO
from segunet.training.mlflow_logger import MLFlowLogger


def trainer_from_config(cfg: DictConfig, callbacks: list[Callback], run_dir: Path, steps_done: int = 0) -> Trainer:
    """Build Lightning's trainer of ``cfg.trainer``, with the loggers of ``cfg.logger``.

    Args:
        cfg: config of segunet.train.
        callbacks: callbacks of the trainer.
        run_dir: the run's folder.
        steps_done: steps done before; TensorBoard drops what was logged after them, as it is trained again.

    Raises:
        UserError: an invalid setting, or one that would write outside the run's folder.
    """
    boards = [_logger(str(name), each, run_dir, steps_done) for name, each in cfg.logger.items()]
    return _trainer(cfg, callbacks, run_dir, logger=boards, plugins=[WholeFileCheckpointIO()])


def _logger(name: str, config: Any, run_dir: Path, steps_done: int) -> Logger:
    """Build the logger ``cfg.logger.<name>``; files of those of conf/ are below the run's folder, of others as set."""
    own = sorted(path.stem for path in (CONF_DIR / "logger").glob("*.yaml"))
    if name in own and isinstance(config, DictConfig) and "_target_" not in config:
        raise UserError(f"logger.{name}: {name} is not chosen: add 'logger=[tensorboard,{name}]'.")
    if not isinstance(config, DictConfig) or "_target_" not in config:
        raise UserError(
            f"logger.{name}={config}: each logger has its own settings, such as logger.tensorboard.{name}. Loggers "
            f"are {', '.join(own)}, or one of Lightning's by its _target_."
        )
    if name == "wandb":
        import_extra("wandb", "wandb")
    has_files = name in own and config._target_ != target_of(MLFlowLogger)
    below = {"save_dir": str(run_dir)} if has_files else {}
    again = {"purge_step": steps_done} if below and config._target_ == target_of(TensorBoardLogger) else {}
    try:
        board = instantiate(config, **below, **again)
        if not isinstance(board, Logger):
            raise UserError(f"logger.{name}: {config._target_} is no logger of Lightning.")
        if has_files:
            check_within(run_dir, ["wandb", ".wandb"] if board.log_dir is None else [str(board.log_dir)])
    except TypeError as error:
        raise UserError(f"logger.{name}: name and version must be folder names: {error}") from error
    return board


def scorer_from_config(cfg: DictConfig, callbacks: list[Callback], run_dir: Path) -> Trainer:
    """Build Lightning's trainer for an evaluation, without logging or checkpoints."""
    return _trainer(cfg, callbacks, run_dir, logger=False, enable_checkpointing=False)


def _trainer(cfg: DictConfig, callbacks: list[Callback], run_dir: Path, **options: Any) -> Trainer:
    given = dict(cfg.trainer)
    for name in ("max_steps", "max_time"):  # for MaxSteps and MaxTime
        given.pop(name, None)
    if given["precision"] == "auto":
        given["precision"] = default_precision(given["accelerator"])
    try:
        trainer = Trainer(
            **given,
            **options,
            callbacks=callbacks,
            default_root_dir=str(run_dir),
            use_distributed_sampler=False,  # the data module distributes the images
            enable_progress_bar=False,  # replaced by RunProgress and ScoringProgress
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer.*: Lightning's Trainer does not accept these settings: {error}") from error
    # Lightning's handlers take over signals that are ignored, and hang where one process alone gets a signal.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    device = trainer.strategy.root_device.type
    if given.get("sync_batchnorm") and device != "cuda":
        raise UserError(
            f"trainer.sync_batchnorm=true: torch synchronizes batch normalization on GPUs alone, not {device}."
        )
    return trainer
