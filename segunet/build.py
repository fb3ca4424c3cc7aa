"""From a config, or a checkpoint, to objects. The only file that instantiates a model."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hydra.utils import get_class, instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from segunet import __version__
from segunet.callbacks import EMA, FreezeEncoder, Pictures, RunProgress, WholeFileCheckpointIO
from segunet.data.datamodule import VOCDataModule
from segunet.errors import UserError
from segunet.files import read_torch_file
from segunet.tasks.segmentation import SegmentationTask

logger = logging.getLogger(__name__)

_TRUSTED_VARIABLE = "SEGUNET_TRUSTED_PACKAGES"


@dataclass(frozen=True)
class Checkpoint:
    """A network and what was saved with it.

    Attributes:
        net: with its trained weights, in evaluation mode, on the CPU.
        class_names: K names.
        palette: uint8 (256, 3).
        ignore_index: mask value that is no class.
        inference_size: long side at which pictures enter the net; None is their own size.
        data: the data config it was trained with, resolved.
    """

    net: nn.Module
    class_names: list[str]
    palette: NDArray[np.uint8]
    ignore_index: int
    inference_size: int | None
    data: dict[str, Any]


def net_from_config(model: DictConfig) -> nn.Module:
    """Build the network of a ``model`` config."""
    net: nn.Module = instantiate(model)
    return net


def datamodule_from_config(cfg: DictConfig) -> VOCDataModule:
    """Build the data module of ``cfg.data``, for ``cfg.seed`` and ``cfg.inference_size``."""
    datamodule: VOCDataModule = instantiate(cfg.data, seed=cfg.seed, inference_size=cfg.inference_size)
    return datamodule


def task_from_config(cfg: DictConfig, datamodule: VOCDataModule) -> SegmentationTask:
    """Build what is trained; ``datamodule`` is set up."""
    net = net_from_config(cfg.model)
    if cfg.channels_last:
        net.to(memory_format=torch.channels_last)
    if cfg.compile:
        net.compile()
    loss = cfg.loss.copy()
    if loss.pixelwise.class_weights == "auto":
        loss.pixelwise.class_weights = datamodule.class_weights()
        names = zip(datamodule.class_names, loss.pixelwise.class_weights, strict=True)
        logger.info("class weights: %s", ", ".join(f"{name} {weight}" for name, weight in names))
    return SegmentationTask(
        net=net,
        loss=instantiate(loss),
        optimizer=instantiate(cfg.optimizer),
        lr_schedule=instantiate(cfg.lr_schedule),
        class_names=datamodule.class_names,
        card=_card(cfg, datamodule),
    )


def callbacks_from_config(cfg: DictConfig, datamodule: VOCDataModule, run_dir: Path) -> list[Callback]:
    """Build the callbacks that ``cfg.callbacks`` asks for."""
    options, checkpoints = cfg.callbacks, run_dir / "checkpoints"
    pictures = Pictures(options.pictures, datamodule.form.palette, datamodule.class_names, run_dir)
    callbacks: list[Callback] = [RunProgress(), pictures]
    if options.freeze_encoder_epochs > 0:
        callbacks.append(FreezeEncoder(options.freeze_encoder_epochs))
    if options.ema_decay is not None:
        callbacks.append(EMA(options.ema_decay))
    if options.early_stopping_patience is not None:
        callbacks.append(EarlyStopping("val/miou", mode="max", patience=options.early_stopping_patience))
    same_name: dict[str, Any] = {
        "dirpath": checkpoints,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    best = ModelCheckpoint(filename="best", monitor="val/miou", mode="max", save_on_train_epoch_end=False, **same_name)
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **same_name)
    return [*callbacks, best, last]


def trainer_from_config(cfg: DictConfig, callbacks: list[Callback], run_dir: Path) -> Trainer:
    """Build Lightning's trainer of ``cfg.trainer``, with ``cfg.logger`` writing below ``run_dir``."""
    logger = instantiate(cfg.logger, save_dir=str(run_dir))
    return _trainer(cfg, callbacks, run_dir, logger=logger, plugins=[WholeFileCheckpointIO()])


def scorer_from_config(cfg: DictConfig, callbacks: list[Callback], run_dir: Path) -> Trainer:
    """Build Lightning's trainer for an evaluation: nothing is logged or saved by it."""
    return _trainer(cfg, callbacks, run_dir, logger=False, enable_checkpointing=False)


def _trainer(cfg: DictConfig, callbacks: list[Callback], run_dir: Path, **options: Any) -> Trainer:
    given = dict(cfg.trainer)
    if given["precision"] == "auto":
        given["precision"] = default_precision(given["accelerator"])
    try:
        return Trainer(
            **given,
            **options,
            callbacks=callbacks,
            default_root_dir=str(run_dir),
            use_distributed_sampler=False,  # the data module deals the pictures out
            enable_progress_bar=False,  # RunProgress and ScoringProgress
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer.*: Lightning's Trainer does not take these settings: {error}") from error


def default_precision(accelerator: str) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """Mixed precision on a CUDA GPU (bf16 where it has it), float32 elsewhere."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild the network of a segunet checkpoint.

    Raises:
        UserError: no file, no checkpoint, not segunet's, or a model class that is not trusted.
    """
    content = read_checkpoint(path)
    card = content["segunet"]
    _check_trusted(card["model"], path)
    net = net_from_config(OmegaConf.create(card["model"]))
    weights = {
        name.removeprefix("net."): value for name, value in content["state_dict"].items() if name.startswith("net.")
    }
    net.load_state_dict(weights)
    net.to(memory_format=torch.channels_last).eval()
    return Checkpoint(
        net=net,
        class_names=card["class_names"],
        palette=np.array(card["palette"], dtype=np.uint8),
        ignore_index=card["ignore_index"],
        inference_size=card["inference_size"],
        data=card["data"],
    )


def check_classes(checkpoint: Checkpoint, datamodule: VOCDataModule) -> None:
    """Raise a UserError unless the data set has as many classes as the checkpoint's network."""
    wanted, came = checkpoint.class_names, datamodule.class_names
    if len(wanted) != len(came):
        raise UserError(
            f"The checkpoint's network has {len(wanted)} classes ({', '.join(wanted[:5])}, ...), the data set "
            f"{datamodule.root} has {len(came)} ({', '.join(came[:5])}, ...). Give the data set that the checkpoint "
            "was trained for (data=..., data.root=...), or another checkpoint."
        )
    if wanted != came:
        logger.warning("The data set names its classes otherwise than the checkpoint: %s; %s", came, wanted)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the content of a segunet checkpoint; plain data and tensors only, nothing in it is run.

    Raises:
        UserError: no file, no checkpoint, or not segunet's.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path.absolute()}. Give the path of a run's checkpoints/best.ckpt.")
    advice = "Give a checkpoint that segunet.train wrote, such as a run's checkpoints/best.ckpt."
    content: Any = read_torch_file(path, advice)
    if not isinstance(content, dict) or "segunet" not in content or "state_dict" not in content:
        raise UserError(
            f"{path} was not written by segunet.train: it lacks the description of its model. A plain state dict "
            "can serve as model.encoder.weights of a new training."
        )
    return content


def _card(cfg: DictConfig, datamodule: VOCDataModule) -> dict[str, Any]:
    """Return what rebuilds the network, in plain containers."""
    model = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(model, dict)
    if "encoder" in model:
        model["encoder"]["weights"] = None  # the checkpoint brings its own
    data = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(data, dict)
    data["root"] = str(datamodule.root.absolute())
    return {
        "version": __version__,
        "model": model,
        "class_names": datamodule.class_names,
        "palette": datamodule.form.palette.tolist(),
        "ignore_index": datamodule.form.ignore_index,
        "inference_size": cfg.inference_size,
        "data": data,
    }


def _check_trusted(model: Any, path: Path) -> None:
    """Let a checkpoint name only network classes of segunet or of packages that the user trusts."""
    trusted = {"segunet", *filter(None, os.environ.get(_TRUSTED_VARIABLE, "").split(","))}
    for target in _targets(model):
        package = target.split(".")[0]
        known = package in trusted and issubclass(get_class(target), nn.Module)
        if not known or get_class(target).__module__.split(".")[0] not in trusted:
            raise UserError(
                f"{path} wants to build {target}, which is not a network of segunet. A checkpoint can name any "
                f"code; if you trust this one, set the environment variable {_TRUSTED_VARIABLE}={package}."
            )


def _targets(config: Any) -> list[str]:
    """Collect every ``_target_`` of a nested config."""
    if isinstance(config, list):
        return [target for each in config for target in _targets(each)]
    if not isinstance(config, dict):
        return []
    own = [str(config["_target_"])] if "_target_" in config else []
    return own + [target for each in config.values() for target in _targets(each)]
