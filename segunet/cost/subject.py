"""The network to measure."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from segunet.base.errors import UserError
from segunet.cli.run_dir import as_path
from segunet.cost.complexity import Inputs
from segunet.cost.stable_diffusion import PIXELS, own_size, read_config, unet_from_config, unet_inputs
from segunet.formats.read import READERS
from segunet.images.levels import channels_of
from segunet.inference.card import CheckpointCard
from segunet.inference.checkpoint import card_of, checkpoint_of, read_checkpoint
from segunet.inference.generator import denoiser_of
from segunet.models.build import build_network
from segunet.models.diffusion_unet import DiffusionUNet
from segunet.models.prompts import vocabulary_of
from segunet.training import build

_SIZE = 512  # of images
_SAMPLE_SIZE, _TOKENS = 64, 77  # of an untrained denoiser's samples, and the hidden states of CLIP's text encoder


@dataclass(frozen=True)
class Subject:
    """The network to measure.

    Attributes:
        title: name for display.
        make_net: builds it with random weights on the current default device.
        make_inputs: builds its inputs for a batch size and (height, width), on the current default device.
        size: (height, width) of its inputs unless another is wanted.
        segments: whether it is a segmentation network, so that a training step can be measured.
    """

    title: str
    make_net: Callable[[], nn.Module]
    make_inputs: Callable[[int, tuple[int, int]], Inputs]
    size: tuple[int, int]
    segments: bool


def subject_of(cfg: DictConfig, num_classes: int | None = None) -> Subject:
    """Return the network that ``cfg`` names; weights are not loaded, as they do not affect the cost.

    Args:
        cfg: config of a command with ``checkpoint`` and ``model``, perhaps ``source``.
        num_classes: of the network instead of its own.
    """
    if cfg.get("source") is not None:
        return _diffusion_unet(cfg)
    side, states, channels = _SAMPLE_SIZE, _TOKENS, channels_of(cfg.data.get("bands"))
    classes = {} if num_classes is None else {"num_classes": num_classes}
    if cfg.checkpoint is None:
        title = HydraConfig.get().runtime.choices["model"]
        model = build.without_weights(cfg.model)
        model.update(classes)
        make_net: Callable[[], nn.Module] = partial(build.net_from_config, model)
    else:
        title, card = str(cfg.checkpoint), _card_of(as_path(cfg.checkpoint))
        make_net, channels = partial(build_network, {**card.model, **classes}), card.data.channels
        if card.denoiser is not None:
            side, states = card.denoiser.size, len(vocabulary_of(card.class_names, card.data.ignore_index))
    with torch.device("meta"):
        net = make_net()
    if isinstance(net, DiffusionUNet):
        width = net.cross_attention_dim
        hidden = None if width is None else (states, width)
        return Subject(title, make_net, partial(noisy_samples, net.in_channels, hidden), (side, side), segments=False)
    return Subject(title, make_net, partial(images, channels), (_SIZE, _SIZE), segments=True)


def check_subject(cfg: DictConfig) -> None:
    """Raise a UserError if ``cfg`` lacks what networks and losses are built with."""
    if "_target_" not in cfg.data:
        raise UserError(
            "Which data set? It sets the number of classes. Give data=sample, or data=voc2012 or data=custom and its "
            "data.root=PATH."
        )
    if OmegaConf.select(cfg.loss, "pixelwise.class_weights") == "auto":
        raise UserError("loss.pixelwise.class_weights=auto needs training masks, not read here: leave it out.")


def device_kind(accelerator: str) -> str:
    """Return cuda or cpu for the ``accelerator`` auto, else itself."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if accelerator == "auto" else accelerator


def _card_of(checkpoint: Path) -> CheckpointCard:
    """Return a checkpoint's card, after checking that the checkpoint is valid and trusted."""
    if checkpoint.suffix in READERS:
        raise UserError(
            f"checkpoint={checkpoint}: an exported network does not expose its layers. Give the original .ckpt."
        )
    content = read_checkpoint(checkpoint)
    card = card_of(content, checkpoint)
    if card.denoiser is None:
        checkpoint_of(content, checkpoint)
    else:
        denoiser_of(content, checkpoint)
    return card


def _diffusion_unet(cfg: DictConfig) -> Subject:
    config = read_config(str(cfg.source))
    with torch.device("meta"):
        complete = dict(unet_from_config(config).config)  # type: ignore[arg-type]
    size = size_of(cfg.size) or own_size(complete)
    if size[0] % PIXELS or size[1] % PIXELS:
        raise UserError(f"size={cfg.size}: for a diffusion U-Net height and width must be multiples of {PIXELS}.")
    return Subject(
        str(cfg.source), partial(unet_from_config, config), partial(unet_inputs, complete), size, segments=False
    )


def size_of(value: Any) -> tuple[int, int] | None:
    """Return height and width of a ``size`` setting; None for null.

    Raises:
        UserError: neither a positive integer nor two of them.
    """
    sides = list(value) if isinstance(value, ListConfig) else [value, value]
    if value is None:
        return None
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"size must be a number of pixels, such as 512, or [height,width], got {value}.")
    return sides[0], sides[1]


def images(channels: int, batch_size: int, size: tuple[int, int]) -> Inputs:
    """Return random images uint8 (N, channels, H, W) on the current default device."""
    return Inputs((torch.randint(256, (batch_size, channels, *size), dtype=torch.uint8),), {})


def noisy_samples(
    channels: int, hidden_states: tuple[int, int] | None, batch_size: int, size: tuple[int, int]
) -> Inputs:
    """Return a denoising step's inputs on the current default device: samples, time step and, if any, hidden states.

    Args:
        channels: C of the samples, float32 (N, C, H, W).
        hidden_states: (L, D) of the hidden states (N, L, D); None for an unconditional denoiser.
        batch_size: N.
        size: (H, W).
    """
    conditions = () if hidden_states is None else (torch.randn(batch_size, *hidden_states),)
    return Inputs((torch.randn(batch_size, channels, *size), torch.tensor(1), *conditions), {})
