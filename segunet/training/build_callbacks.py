"""The callbacks of a training, from its config."""

from pathlib import Path
from typing import Annotated, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from pytorch_lightning import Callback

from segunet.base.errors import UserError
from segunet.base.trust import check_targets
from segunet.base.validation import Above0, Count, Positive, check
from segunet.data.datamodule import VOCDataModule
from segunet.training.build_diffusion import is_denoising, sample_grid
from segunet.training.callbacks import (
    EMA,
    EarlyStopping,
    FreezeEncoder,
    ImageStrips,
    MaxSteps,
    MaxTime,
    StepSeed,
    max_steps_of,
)
from segunet.training.checkpoints import LastCheckpoint, RunCheckpoint
from segunet.training.history import History
from segunet.training.monitor import LOSS, MIOU
from segunet.training.progress import RunProgress


def callbacks_from_config(cfg: DictConfig, datamodule: VOCDataModule, run_dir: Path) -> list[Callback]:
    """Build the callbacks of ``cfg.callbacks`` and ``cfg.checkpoint``.

    Raises:
        UserError: an invalid setting.
    """
    options, checkpoints = cfg.callbacks, run_dir / "checkpoints"
    for name in ("images", "freeze_encoder_epochs"):
        check(f"callbacks.{name}", options[name], Count)
    denoising = is_denoising(cfg.loss)
    monitor = LOSS if denoising else MIOU
    images = sample_grid(cfg, datamodule) if denoising else ImageStrips(options.images, datamodule.colours, run_dir)
    max_steps = max_steps_of(cfg.trainer)
    callbacks: list[Callback] = [StepSeed(cfg.seed), RunProgress(max_steps), History(), images]
    callbacks.append(MaxTime(cfg.trainer.get("max_time")))
    if max_steps is not None:
        callbacks.append(MaxSteps(max_steps))
    if options.freeze_encoder_epochs > 0:
        callbacks.append(FreezeEncoder(options.freeze_encoder_epochs))
    if options.ema_decay is not None:
        check("callbacks.ema_decay", options.ema_decay, Annotated[float, Field(ge=0, lt=1)])
        callbacks.append(EMA(options.ema_decay))
    if options.early_stopping_patience is not None:
        patience = check("callbacks.early_stopping_patience", options.early_stopping_patience, Positive)
        callbacks.append(EarlyStopping(patience, monitor))
    callbacks += extra_callbacks(options.extra)
    best = RunCheckpoint(checkpoints, "best", monitor=monitor.name, mode=monitor.mode, save_on_train_epoch_end=False)
    every_minutes = check("checkpoint.every_minutes", cfg.checkpoint.every_minutes, Above0 | None)
    every_steps = check("checkpoint.every_steps", cfg.checkpoint.every_steps, Positive | None)
    return [*callbacks, best, LastCheckpoint(checkpoints, every_minutes, every_steps)]


def extra_callbacks(extra: Any) -> list[Callback]:
    """Build the callbacks that ``callbacks.extra`` lists, each by its ``_target_``.

    Raises:
        UserError: something else is listed, or a class that is no callback of Lightning.
    """
    given = OmegaConf.to_container(extra) if OmegaConf.is_config(extra) else extra
    example = "pytorch_lightning.callbacks.DeviceStatsMonitor"
    built = [(each["_target_"], _built(each)) for each in check_targets("callbacks.extra", given, "callbacks", example)]
    for target, callback in built:
        if not isinstance(callback, Callback):
            raise UserError(f"callbacks.extra: {target} is no callback of Lightning, but {type(callback).__name__}.")
    return [callback for _, callback in built]


def _built(config: dict[str, Any]) -> Any:
    try:
        return instantiate(config, _convert_="all")
    except (InstantiationException, ImportError, AttributeError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"callbacks.extra: {config['_target_']} cannot be built: {cause}. Lightning's are called "
            "pytorch_lightning.callbacks.NAME."
        ) from error
