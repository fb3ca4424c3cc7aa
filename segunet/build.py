"""From a config, or a checkpoint, to objects. The only file that instantiates a model."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hydra.utils import get_class, instantiate
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from segunet.callbacks import (
    EMA,
    FreezeEncoder,
    LastCheckpoint,
    Pictures,
    RunCheckpoint,
    RunProgress,
    WholeFileCheckpointIO,
)
from segunet.data.datamodule import VOCDataModule
from segunet.errors import UserError, check_number, check_whole_number, is_list_of
from segunet.exported import READERS, read_exported
from segunet.files import check_within, read_torch_file
from segunet.tasks.segmentation import SegmentationTask
from segunet.version import __version__

logger = logging.getLogger(__name__)

_TRUSTED_VARIABLE = "SEGUNET_TRUSTED_PACKAGES"
FROM_CHECKPOINT: Literal["checkpoint"] = "checkpoint"  # the value of a setting that the checkpoint knows


@dataclass(frozen=True)
class Checkpoint:
    """A network and what was saved with it.

    Attributes:
        net: with its trained weights, in evaluation mode, on the CPU.
        class_names: K names.
        palette: uint8 (256, 3).
        inference_size: long side at which pictures enter the net; None is their own size.
        data: the data config it was trained with, resolved.
        model: the network's config, resolved; empty for an exported one.
    """

    net: nn.Module
    class_names: list[str]
    palette: NDArray[np.uint8]
    inference_size: int | None
    data: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)


def net_from_config(model: DictConfig) -> nn.Module:
    """Build the network of a ``model`` config."""
    net: nn.Module = instantiate(model)
    return net


def datamodule_from_config(cfg: DictConfig) -> VOCDataModule:
    """Build the data module of ``cfg.data``, for ``cfg.seed`` and ``cfg.inference_size``, where there are such.

    Raises:
        UserError: no data set is named, or a setting of it means nothing.
    """
    if "_target_" not in cfg.data:
        raise UserError("Which data set? Give data=sample, data=voc2012 or data=custom, and its data.root=PATH.")
    options = {"seed": cfg.get("seed", 0), "inference_size": cfg.get("inference_size")}
    datamodule: VOCDataModule = instantiate(cfg.data, **options)
    return datamodule


def task_from_config(cfg: DictConfig, datamodule: VOCDataModule, resumed: bool = False) -> SegmentationTask:
    """Build what is trained; ``datamodule`` is set up. A resumed net's weights come from its checkpoint alone.

    Raises:
        UserError: a setting that means nothing, also where only ``torch`` can tell.
    """
    check_num_classes(cfg.model, datamodule)
    net = net_from_config(without_weights(cfg.model) if resumed else cfg.model)
    if cfg.channels_last:
        net.to(memory_format=torch.channels_last)
    if cfg.compile:
        net.compile()
    loss = cfg.loss.copy()
    if (weights := loss.pixelwise.get("class_weights")) is not None:
        loss.pixelwise.class_weights = _class_weights(weights, datamodule)
    optimizer = instantiate(cfg.optimizer)
    optimizer(net)  # torch sees to its settings now, not when the training begins
    return SegmentationTask(
        net=net,
        loss=instantiate(loss),
        optimizer=optimizer,
        lr_schedule=instantiate(cfg.lr_schedule),
        class_names=datamodule.class_names,
        card=card(cfg, datamodule),
    )


def check_num_classes(model: DictConfig, datamodule: VOCDataModule) -> None:
    """Raise a UserError where a ``model`` config says another number of classes than the data set has."""
    wanted, came = len(datamodule.class_names), model.get("num_classes", len(datamodule.class_names))
    if came != wanted:
        raise UserError(f"model.num_classes={came}: data.class_names has {wanted}. Leave out model.num_classes.")


def _class_weights(weights: Any, datamodule: VOCDataModule) -> list[float]:
    """Return ``weights``, one number a class, or those of the training masks for "auto"."""
    if weights == "auto":
        weights = datamodule.class_weights()
        names = zip(datamodule.class_names, weights, strict=True)
        logger.info("class weights: %s", ", ".join(f"{name} {weight}" for name, weight in names))
    if not is_list_of(int | float, weights, len(datamodule.class_names)):
        raise UserError(
            f"loss.pixelwise.class_weights must be null, auto, or a list of {len(datamodule.class_names)} numbers, one "
            f"for each of {', '.join(datamodule.class_names[:3])}, ...; got {weights}."
        )
    return list(weights)


def callbacks_from_config(cfg: DictConfig, datamodule: VOCDataModule, run_dir: Path) -> list[Callback]:
    """Build the callbacks that ``cfg.callbacks`` asks for.

    Raises:
        UserError: a setting that means nothing.
    """
    options, checkpoints = cfg.callbacks, run_dir / "checkpoints"
    check_whole_number("callbacks.pictures", options.pictures, least=0)
    check_whole_number("callbacks.freeze_encoder_epochs", options.freeze_encoder_epochs, least=0)
    pictures = Pictures(options.pictures, datamodule.form.palette, datamodule.class_names, run_dir)
    callbacks: list[Callback] = [RunProgress(), pictures]
    if options.freeze_encoder_epochs > 0:
        callbacks.append(FreezeEncoder(options.freeze_encoder_epochs))
    if options.ema_decay is not None:
        check_number("callbacks.ema_decay (if not null)", options.ema_decay, least=0, below=1)
        callbacks.append(EMA(options.ema_decay))
    if options.early_stopping_patience is not None:
        check_whole_number("callbacks.early_stopping_patience (if not null)", options.early_stopping_patience, least=1)
        patience = options.early_stopping_patience
        callbacks.append(EarlyStopping("val/miou", mode="max", patience=patience, check_on_train_epoch_end=False))
    best = RunCheckpoint(checkpoints, "best", monitor="val/miou", mode="max", save_on_train_epoch_end=False)
    return [*callbacks, best, LastCheckpoint(checkpoints)]


def trainer_from_config(cfg: DictConfig, callbacks: list[Callback], run_dir: Path) -> Trainer:
    """Build Lightning's trainer of ``cfg.trainer``, with ``cfg.logger`` writing below ``run_dir``.

    Raises:
        UserError: a setting that means nothing, or with which something would be written elsewhere.
    """
    board = instantiate(cfg.logger, save_dir=str(run_dir))
    try:
        check_within(run_dir, [str(board.log_dir)])
    except TypeError as error:
        raise UserError(f"logger.*: name and version must be names of folders: {error}") from error
    return _trainer(cfg, callbacks, run_dir, logger=board, plugins=[WholeFileCheckpointIO()])


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
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer.*: Lightning's Trainer does not take these settings: {error}") from error


def fabric_from_settings(accelerator: str, precision: str) -> Fabric:
    """Build what puts a network on one device in a precision, outside a trainer.

    Raises:
        UserError: a setting that Lightning does not know, or a device that is not there.
    """
    chosen: Any = default_precision(accelerator) if precision == "auto" else precision
    try:
        return Fabric(accelerator=accelerator, devices=1, precision=chosen)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"accelerator={accelerator} precision={precision}: Lightning says: {error}") from error


def default_precision(accelerator: str) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """Mixed precision on a CUDA GPU (bf16 where it has it), float32 elsewhere."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild the network of a segunet checkpoint; one that segunet.export wrote is run as it is.

    Args:
        path: a .ckpt file, or one with a suffix of ``exported.READERS``.

    Raises:
        UserError: no file, no checkpoint, not segunet's, or a class that is not trusted.
    """
    if path.suffix in READERS:
        net, card = read_exported(path)
        _check_trusted(card["data"], path)
        return _with_card(net, card)
    content = read_checkpoint(path)
    card = content["segunet"]
    _check_trusted([card["model"], card["data"]], path)
    net = net_from_config(OmegaConf.create(card["model"]))
    weights = {
        name.removeprefix("net."): value for name, value in content["state_dict"].items() if name.startswith("net.")
    }
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{path}: its weights do not fit the network that it describes, as segunet {__version__} builds it "
            f"(it was written by {card['version']}): {error}"
        ) from error
    if card["channels_last"]:
        net.to(memory_format=torch.channels_last)
    return _with_card(net, card)


def _with_card(net: nn.Module, card: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        net=net.eval(),
        class_names=card["class_names"],
        palette=np.array(card["palette"], dtype=np.uint8),
        inference_size=card["inference_size"],
        data=card["data"],
        model=card.get("model", {}),
    )


def with_checkpoint_values(cfg: DictConfig, checkpoint: Checkpoint) -> DictConfig:
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


def scoring_data(cfg: DictConfig, checkpoint: Checkpoint, prepare: bool) -> tuple[DictConfig, VOCDataModule]:
    """Return ``cfg`` completed from the checkpoint, and its data set, ready to be scored.

    Args:
        cfg: of a command with ``data``, ``split`` and ``inference_size``.
        checkpoint: whose own data set is taken unless ``cfg`` names one.
        prepare: write or fetch a data set that ``cfg`` names; a checkpoint is no reason to write anything.

    Raises:
        UserError: no such data set, or one with other classes.
    """
    named = "_target_" in cfg.data
    cfg = with_checkpoint_values(cfg, checkpoint)
    datamodule = datamodule_from_config(cfg)
    check_classes(checkpoint, datamodule)
    if prepare and named:
        datamodule.prepare_data()
    datamodule.setup("test")
    return cfg, datamodule


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
    if not isinstance(content, dict) or not content.keys() >= {"segunet", "state_dict", "epoch"}:
        raise UserError(
            f"{path} was not written by segunet.train: it lacks the description of its model. A plain state dict "
            "can serve as model.encoder.weights of a new training; segunet.convert makes a checkpoint of another "
            "project's."
        )
    return content


def card(cfg: DictConfig, datamodule: VOCDataModule) -> dict[str, Any]:
    """Return what rebuilds the network, in plain containers."""
    data = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(data, dict)
    data["root"] = str(datamodule.root.absolute())
    return {
        "version": __version__,
        "model": OmegaConf.to_container(without_weights(cfg.model)),
        "class_names": datamodule.class_names,
        "palette": datamodule.form.palette.tolist(),
        "inference_size": cfg.inference_size,
        "channels_last": cfg.channels_last,
        "data": data,
    }


def without_weights(model: DictConfig) -> DictConfig:
    """Return a resolved ``model`` config that loads no encoder weights: a checkpoint brings its own."""
    resolved = OmegaConf.create(OmegaConf.to_container(model, resolve=True))
    if OmegaConf.select(resolved, "encoder.weights") is not None:
        resolved.encoder.weights = None
    assert isinstance(resolved, DictConfig)
    return resolved


def _check_trusted(configs: Any, path: Path) -> None:
    """Let a checkpoint name only classes of segunet or of packages that the user trusts."""
    trusted = {"segunet", *filter(None, os.environ.get(_TRUSTED_VARIABLE, "").split(","))}
    for target in _targets(configs):
        if not _is_class_of(trusted, target):
            raise UserError(
                f"{path} wants to build {target}, which is no class of {', '.join(sorted(trusted))}. A checkpoint can "
                "name any code; if you trust this one, name its package in the environment variable "
                f"{_TRUSTED_VARIABLE} (several with commas between them)."
            )


def _is_class_of(packages: set[str], target: str) -> bool:
    """Return whether ``target`` is the dotted name of a class that one of the packages defines itself."""
    if target.split(".")[0] not in packages:
        return False
    try:
        return get_class(target).__module__.split(".")[0] in packages
    except (ImportError, ValueError):
        return False


def _targets(config: Any) -> list[str]:
    """Collect every ``_target_`` of a nested config, and every interpolation, which could make one."""
    if isinstance(config, str):
        return [config] if "${" in config else []
    if isinstance(config, list):
        return [target for each in config for target in _targets(each)]
    if not isinstance(config, dict):
        return []
    own = [str(config["_target_"])] if "_target_" in config else []
    return own + [target for each in config.values() for target in _targets(each)]
