"""What the training of a denoiser needs besides what any training does: checks, its prompts, its card, its task."""

from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from segunet.base.errors import UserError
from segunet.base.trust import target_of
from segunet.data.datamodule import VOCDataModule
from segunet.data.transforms import TrainTransform
from segunet.images.reading import read_size
from segunet.losses.denoising import DenoisingLoss
from segunet.models.diffusion_unet import DiffusionUNet, check_side
from segunet.models.prompts import PromptEncoder, check_names, vocabulary_of
from segunet.training.callbacks import max_steps_of
from segunet.training.diffusion import DiffusionTask
from segunet.training.lr_schedule import WarmupCosine
from segunet.training.optimizer import OptimizerFactory
from segunet.training.samples import SampleGrid


def is_denoising(loss: DictConfig) -> bool:
    """Return whether a ``loss`` config is a denoiser's objective; it decides what is trained."""
    return bool(loss.get("_target_") == target_of(DenoisingLoss))


def check_fit(model: DictConfig, loss: DictConfig) -> None:
    """Raise a UserError unless the ``model`` and ``loss`` configs are both of a denoiser, or neither is.

    No network is built, which could download weights.
    """
    try:
        target = get_object(str(model.get("_target_")))
    except (ImportError, AttributeError, ValueError):
        return  # building it says what is wrong
    is_denoiser = isinstance(target, type) and issubclass(target, DiffusionUNet)
    if is_denoiser and not is_denoising(loss):
        raise UserError(
            "The model is a denoiser, which returns no logits: train it with loss=denoising or loss=flow_matching, or "
            "choose a segmentation network, see --help."
        )
    if is_denoising(loss) and not is_denoiser:
        raise UserError(
            "The loss is a denoiser's, but the model is a segmentation network: add model=diffusion_unet, or choose "
            "a loss of segmentation, see --help."
        )


def check_samples(net: DiffusionUNet, cfg: DictConfig, datamodule: VOCDataModule) -> None:
    """Raise a UserError unless ``net`` can be trained on the crops of ``datamodule``."""
    wanted, kind = datamodule.channels, "images" if datamodule.latent_scale is None else "latents"
    for name in ("in_channels", "out_channels"):
        if (channels := getattr(net, name)) != wanted:
            raise UserError(
                f"model.{name}={channels}: the {kind} that it is trained on have {wanted} channels. Set it to {wanted}."
            )
    for name, given in {"objects": datamodule.objects, "border_weights.w0": datamodule.border_weights}.items():
        if given:
            raise UserError(f"data.{name} is for segmentation, which a denoiser does not learn. Leave it out.")
    for name in ("tile", "inference_size"):
        if cfg[name] is not None:
            raise UserError(f"{name}={cfg[name]}: a denoiser is validated on squares of crop_size. Leave it out.")
    if datamodule.form.bands is not None:
        raise UserError(f"data.bands={datamodule.form.bands}: a denoiser makes colour images. Leave it out.")
    check_unpadded(datamodule)
    try:
        check_side(datamodule.side, net.encoder.stride)
    except UserError as error:
        where = "data.transform.crop_size" if datamodule.latent_scale is None else f"the latents of {datamodule.root}"
        raise UserError(f"{where}: {error}") from error


def check_unpadded(datamodule: VOCDataModule) -> None:
    """Raise a UserError if a training image can be smaller than the crop: the padding would be learned as content."""
    if not isinstance(transform := datamodule.transform, TrainTransform) or transform.fill_crop:
        return
    for pair in datamodule.train_pairs:
        if transform.pads(shape := read_size(pair.image)):
            raise UserError(
                f"{pair.image} has {shape[1]} x {shape[0]} pixels: data.transform.scale and base_size can make it "
                f"smaller than data.transform.crop_size={transform.crop_size}, and a denoiser would learn the black "
                "padding. Set data.transform.fill_crop=true, which enlarges such images."
            )


def denoiser_card(loss: DenoisingLoss, datamodule: VOCDataModule) -> dict[str, Any]:
    """Return what a checkpoint's card says of a denoiser, in plain values."""
    noise = loss.noise_schedule
    return {
        "schedule": noise.schedule,
        "steps": noise.steps,
        "prediction": noise.prediction,
        "size": datamodule.side,
        "latent_scale": datamodule.latent_scale,
    }


def prompts_for(net: DiffusionUNet, vocabulary: dict[int, str]) -> PromptEncoder | None:
    """Return a new encoder of prompts; None for an unconditional network.

    Raises:
        UserError: there is no class to make prompts of; a name that no prompt can hold.
    """
    if net.cross_attention_dim is None:
        return None
    if not vocabulary:
        raise UserError("model.cross_attention_dim: data.class_names has no class besides background and ignored one.")
    check_names(list(vocabulary.values()))
    return PromptEncoder(list(vocabulary.values()), net.cross_attention_dim)


def diffusion_task(
    cfg: DictConfig,
    datamodule: VOCDataModule,
    net: DiffusionUNet,
    loss: DenoisingLoss,
    optimizer: OptimizerFactory,
    lr_schedule: WarmupCosine,
    card: dict[str, Any],
) -> DiffusionTask:
    """Build the training task of a denoiser.

    Raises:
        UserError: an invalid setting, including those that only ``torch`` checks.
    """
    vocabulary = vocabulary_of(datamodule.class_names, datamodule.form.ignore_index)
    prompts = prompts_for(net, vocabulary)
    task = DiffusionTask(
        net=net,
        prompts=prompts,
        loss=loss,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        vocabulary=vocabulary,
        card=card,
        size=datamodule.side,
        val_names=[pair.name for pair in datamodule.val_pairs],
        seed=cfg.seed,
        max_steps=max_steps_of(cfg.trainer),
    )
    task.new_optimizer()  # so that torch checks its settings now, not when training starts
    return task


def sample_grid(cfg: DictConfig, datamodule: VOCDataModule) -> SampleGrid:
    """Return the callback that shows samples, but for latents, which are no images."""
    count = cfg.callbacks.images if datamodule.latent_scale is None else 0
    names = vocabulary_of(datamodule.class_names, datamodule.form.ignore_index)
    return SampleGrid(count, list(names.values()), cfg.seed)
