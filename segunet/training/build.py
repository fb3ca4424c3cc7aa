"""Build objects from a config: network, data, task; ``build_trainer.py`` builds the trainer."""

import copy
import logging
from collections.abc import Sequence
from inspect import signature
from typing import Annotated, Any, Literal

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, ValidationError
from torch import nn

from segunet.base.errors import UserError, counted
from segunet.base.validation import Above0, AtLeast0, Count, Positive, Text, check, explained
from segunet.base.version import __version__
from segunet.data.datamodule import VOCDataModule
from segunet.data.transforms import check_named
from segunet.inference.card import CheckpointCard, ListCard
from segunet.inference.tiling import Inference, check_tile_alone
from segunet.losses.denoising import DenoisingLoss
from segunet.losses.segmentation import SegmentationLoss
from segunet.models.build import check_can_be_rebuilt
from segunet.models.classic_unet import border_of
from segunet.models.diffusion_unet import DiffusionUNet
from segunet.models.gradient_checkpointing import checkpoint_gradients
from segunet.training.build_diffusion import check_fit, check_samples, denoiser_card, diffusion_task
from segunet.training.callbacks import max_steps_of
from segunet.training.diffusion import DiffusionTask
from segunet.training.fine_tuning import Init
from segunet.training.segmentation import SegmentationTask

logger = logging.getLogger(__name__)
Task = SegmentationTask | DiffusionTask
_WEIGHTS_OF = ("encoder", "decoder")  # parts of a network that have a setting ``weights``

# Settings that Lightning does not check, or checks only when training starts, or that prevent resuming.
_TRAINER_TYPES = {
    "max_epochs": Positive,
    "max_steps": Positive | Literal[-1],
    "max_time": Text | None,
    "accumulate_grad_batches": Positive,
    "limit_train_batches": Above0 | None,
    "num_sanity_val_steps": Annotated[int, Field(ge=-1)] | None,
    "log_every_n_steps": Count | None,
    "check_val_every_n_epoch": Positive,
    "gradient_clip_val": AtLeast0 | None,
    "sync_batchnorm": bool | None,
}


def check_settings(cfg: DictConfig) -> None:
    """Raise a UserError for invalid values that no constructor checks."""
    check("seed", cfg.seed, Count)
    if not isinstance(cfg.checkpoint, DictConfig):
        raise UserError(
            f"checkpoint={cfg.checkpoint}: its settings are checkpoint.every_minutes and checkpoint.every_steps. To go "
            "on with a run give resume=RUN; to start from a checkpoint's weights, init=PATH."
        )
    for name in ("channels_last", "compile", "gradient_checkpointing"):
        check(name, cfg[name], bool)
    if cfg.compile and cfg.gradient_checkpointing:
        raise UserError("compile=true and gradient_checkpointing=true cannot be combined. Leave out one of them.")
    for name, kind in _TRAINER_TYPES.items():
        check(f"trainer.{name}", cfg.trainer.get(name), kind)
    if str(cfg.trainer.precision) in ("16-true", "bf16-true", "64-true", "64"):
        raise UserError(
            f"trainer.precision={cfg.trainer.precision}: checkpoints hold weights in float32, so the weights are "
            "trained in float32. Set 32-true, 16-mixed or bf16-mixed, in which the layers compute in 16 bits, or auto."
        )
    interval = cfg.trainer.get("val_check_interval")
    if interval is not None and not (isinstance(interval, float) and interval == 1):  # the integer is a batch
        raise UserError(
            "trainer.val_check_interval: a run is validated and saved after whole epochs, so that it can be resumed. "
            "Leave it out; with trainer.limit_train_batches=0.5 an epoch has half of the images."
        )
    check_tile_alone(cfg.tile, cfg.inference_size)
    check_can_be_rebuilt(OmegaConf.to_container(cfg.model))  # type: ignore[arg-type]


def net_from_config(model: DictConfig, gradient_checkpointing: bool = False) -> nn.Module:
    """Build the network of a ``model`` config.

    Raises:
        UserError: gradient checkpointing of a network that has no blocks for it.
    """
    net: nn.Module = instantiate(model, _convert_="all")
    if gradient_checkpointing:
        checkpoint_gradients(net)
    return net


def datamodule_from_config(cfg: DictConfig) -> VOCDataModule:
    """Build the data module of ``cfg.data``, with ``cfg.seed`` and ``cfg.inference_size`` if given.

    Raises:
        UserError: no data set is given, or one of its settings is invalid.
    """
    if "_target_" not in cfg.data:
        raise UserError("Which data set? Give data=sample, data=voc2012 or data=custom, and its data.root=PATH.")
    options = {"seed": cfg.get("seed", 0), "inference_size": cfg.get("inference_size")}
    if (more := OmegaConf.select(cfg, "data.transform.more")) is not None:
        check_named(OmegaConf.to_container(more) if OmegaConf.is_config(more) else more)
    datamodule: VOCDataModule = instantiate(cfg.data, **options, _convert_="all")
    return datamodule


def task_from_config(cfg: DictConfig, datamodule: VOCDataModule, resumed: bool = False) -> Task:
    """Build the training task; ``datamodule`` is set up. A resumed run loads its weights from the checkpoint only.

    Raises:
        UserError: an invalid setting, including those that only ``torch`` checks.
    """
    check_num_classes(cfg.model, datamodule)
    check_fit(cfg.model, cfg.loss)
    init = None if resumed else Init.of(cfg)
    given = [part for part in _WEIGHTS_OF if resumed or (init is not None and init.has(part))]
    net = net_from_config(without_weights(cfg.model, given) if given else cfg.model, cfg.gradient_checkpointing)
    if init is not None:
        names = None if isinstance(net, DiffusionUNet) else datamodule.class_names
        init.load_into(net, without_weights(cfg.model), names)
    if cfg.channels_last:
        net.to(memory_format=torch.channels_last)
    if not isinstance(net, DiffusionUNet):
        return _segmentation_task(cfg, datamodule, net)
    task = _diffusion_task(cfg, datamodule, net)
    if init is not None:
        init.check_target(task.loss.noise_schedule)
        if task.prompts is not None:
            init.load_prompts(task.prompts)
    return task


def _segmentation_task(cfg: DictConfig, datamodule: VOCDataModule, net: nn.Module) -> SegmentationTask:
    if datamodule.latent_scale is not None:
        raise UserError(
            "data=latents has prompts, not masks: it trains a denoiser, model=diffusion_unet loss=denoising. For "
            "segmentation choose another data set."
        )
    check_channels(net, datamodule)
    check_crop(net, datamodule)
    check_batch_norm(net, datamodule)
    if cfg.compile:
        net.compile()
    loss = cfg.loss.copy()
    if (weights := loss.pixelwise.get("class_weights")) is not None:
        loss.pixelwise.class_weights = _class_weights(weights, datamodule)
    criterion: SegmentationLoss = instantiate(loss, _convert_="all")
    if datamodule.border_weights is not None:
        check_border_weights(criterion)
    optimizer = instantiate(cfg.optimizer, _convert_="all")
    optimizer(net)  # so that torch checks its settings now, not when training starts
    return SegmentationTask(
        net=net,
        loss=criterion,
        optimizer=optimizer,
        lr_schedule=instantiate(cfg.lr_schedule, _convert_="all"),
        class_names=datamodule.class_names,
        card=card(cfg, datamodule),
        inference=Inference(tile=cfg.tile),
        objects=datamodule.objects,
        max_steps=max_steps_of(cfg.trainer),
    )


def _diffusion_task(cfg: DictConfig, datamodule: VOCDataModule, net: DiffusionUNet) -> DiffusionTask:
    check_samples(net, cfg, datamodule)
    if cfg.compile:
        net.compile()
    loss: DenoisingLoss = instantiate(cfg.loss, _convert_="all")
    optimizer, lr_schedule = (instantiate(cfg[name], _convert_="all") for name in ("optimizer", "lr_schedule"))
    about = card(cfg, datamodule, denoiser_card(loss, datamodule))
    return diffusion_task(cfg, datamodule, net, loss, optimizer, lr_schedule, about)


def check_num_classes(model: DictConfig, datamodule: VOCDataModule) -> None:
    """Raise a UserError if the ``model`` config and the data set have different numbers of classes."""
    wanted, got = len(datamodule.class_names), model.get("num_classes", len(datamodule.class_names))
    if got != wanted:
        raise UserError(f"model.num_classes={got}: data.class_names has {wanted}. Leave out model.num_classes.")


def check_channels(net: nn.Module, datamodule: VOCDataModule) -> None:
    """Raise a UserError if the network is for images of another number of channels than the data set's."""
    images = datamodule.channels
    takes = getattr(net, "in_channels", images)
    where = "model.encoder.in_channels" if hasattr(net, "encoder") else "model.in_channels"
    if takes != images and not (takes == 1 and datamodule.form.bands is None):  # the grey of a colour image
        raise UserError(
            f"The network takes images of {counted(takes, 'channel')}, the data set's have {images} "
            f"(data.bands={datamodule.form.bands or 'null'}). Set {where}={images}, and model.mean and model.std to as "
            "many numbers."
        )


def check_crop(net: nn.Module, datamodule: VOCDataModule) -> None:
    """Raise a UserError if an unpadded network cannot mirror the training crops at their borders."""
    if datamodule.transform is not None and (size := datamodule.transform.crop_size) <= (border := border_of(net)):
        raise UserError(
            f"data.transform.crop_size={size} is too small for the unpadded network, which mirrors {border} pixels at "
            f"each border. Set it to {border + 1} or more, or model.padded=true."
        )


def check_border_weights(loss: SegmentationLoss) -> None:
    """Raise a UserError if the loss would ignore border weights, or does not take them."""
    if loss.pixelwise_weight == 0:
        raise UserError(
            "loss.pixelwise_weight=0: data.border_weights are for that term. Set data.border_weights.w0=0 too."
        )
    try:
        signature(getattr(loss.pixelwise, "forward", loss.pixelwise)).bind(*[None] * 4)
    except TypeError as error:
        raise UserError(
            f"loss.pixelwise ({type(loss.pixelwise).__name__}) takes no border weights. Set data.border_weights.w0=0, "
            "or let the loss take them as its fourth argument, float (N, P)."
        ) from error


def check_batch_norm(net: nn.Module, datamodule: VOCDataModule) -> None:
    """Raise a UserError if a batch norm would see one value per channel: batches of one, maps of one pixel."""
    if datamodule.batch_size > 1 or datamodule.transform is None:
        return
    size = datamodule.transform.crop_size
    try:
        with torch.no_grad():
            copy.deepcopy(net).train()(torch.zeros(1, datamodule.channels, size, size, dtype=torch.uint8))
    except ValueError as error:  # from torch's batch norm
        raise UserError(
            f"data.batch_size=1 with data.transform.crop_size={size}: {error}. A batch norm needs more than one value "
            "per channel: set data.batch_size=2 or more, or a crop larger than the encoder's stride."
        ) from error


def _class_weights(weights: Any, datamodule: VOCDataModule) -> list[float]:
    """Return ``weights``, one number per class; for "auto", computed from the training masks."""
    if weights == "auto":
        weights = datamodule.class_weights()
        names = zip(datamodule.class_names, weights, strict=True)
        logger.info("class weights: %s", ", ".join(f"{name} {weight}" for name, weight in names))
    if not isinstance(weights, Sequence) or len(weights) != len(datamodule.class_names):
        raise UserError(
            f"loss.pixelwise.class_weights must be null, auto, or a list of {len(datamodule.class_names)} numbers, one "
            f"for each of {', '.join(datamodule.class_names[:3])}, ...; got {weights}."
        )
    return list(weights)


def card(cfg: DictConfig, datamodule: VOCDataModule, denoiser: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the checkpoint card, which describes how to rebuild the network, in plain containers.

    Args:
        cfg: config of segunet.train.
        datamodule: the data set.
        denoiser: what it says of a denoiser; None for a segmentation network.

    Raises:
        UserError: a setting that a checkpoint cannot store.
    """
    flip = OmegaConf.select(cfg, "data.transform.flip")
    data = {
        "root": str(datamodule.root.absolute()),
        "ignore_index": datamodule.form.ignore_index,
        "train_split": datamodule.train_split,
        "val_split": datamodule.val_split,
        "fold": datamodule.fold,
        "folds": datamodule.folds,
        "val_batch_size": datamodule.val_batch_size,
        "num_workers": cfg.data.get("num_workers"),
        "image_range": datamodule.form.image_range,
        "bands": datamodule.form.bands,
        "shown_bands": datamodule.shown_bands,
        "objects": datamodule.objects,
        "background": datamodule.background,
        "mask_values": datamodule.form.values and [list(pair) for pair in datamodule.form.values.items()],
        "flip": None if flip is None else bool(flip),
    }
    content = {
        "version": __version__,
        "model": OmegaConf.to_container(without_weights(cfg.model)),
        "class_names": datamodule.class_names,
        "palette": datamodule.form.palette.tolist(),
        "inference_size": cfg.inference_size,
        "channels_last": cfg.channels_last,
        "data": data,
        "lists": lists_of(datamodule) if datamodule.train_pairs else None,
        "denoiser": denoiser,
    }
    try:
        return CheckpointCard.model_validate(content).model_dump(exclude={"scores"})
    except ValidationError as error:
        raise UserError(f"A checkpoint cannot store these settings: {explained(error)}") from error


def lists_of(datamodule: VOCDataModule) -> dict[str, Any]:
    """Return the fingerprints of the lists of ``datamodule``, which is set up for training."""
    lists = {"train": datamodule.train_pairs, "val": datamodule.val_pairs}
    return {name: ListCard.of([pair.name for pair in pairs]).model_dump() for name, pairs in lists.items()}


def without_weights(model: DictConfig, parts: Sequence[str] = _WEIGHTS_OF) -> DictConfig:
    """Return a resolved ``model`` config without weights that its ``parts`` start from, as a checkpoint has its own."""
    resolved = OmegaConf.create(OmegaConf.to_container(model, resolve=True))
    for part in parts:
        if OmegaConf.select(resolved, f"{part}.weights") is not None:
            OmegaConf.update(resolved, f"{part}.weights", None)
    assert isinstance(resolved, DictConfig)
    return resolved
