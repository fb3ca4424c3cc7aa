"""The U-Nets of Stable Diffusion, built by the diffusers package from their public configurations, without weights."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.cost.complexity import Inputs

# Settings that differ from diffusers' defaults, and the most informative ones.
PUBLISHED: dict[str, dict[str, Any]] = {
    # unet/config.json of stable-diffusion-v1-5/stable-diffusion-v1-5 on the Hugging Face Hub.
    "sd15": {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    # unet/config.json of stabilityai/stable-diffusion-xl-base-1.0 on the Hugging Face Hub.
    "sdxl": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
CLASS = "UNet2DConditionModel"
PIXELS = 8  # image pixels per latent pixel, along each side: the auto-encoder's factor
_TOKENS = 77  # of CLIP's text encoders
_TIME_IDS = 6  # SDXL's sizes and crops
# Conditioning settings, and the values whose inputs are supported here.
_SUPPORTED = {
    "addition_embed_type": (None, "text_time"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}


def read_config(source: str) -> dict[str, Any]:
    """Return the configuration of ``source``: a key of :data:`PUBLISHED`, or a diffusers folder.

    Args:
        source: the key, or the folder of a U-Net (with its config.json) or of a pipeline (with unet/config.json).

    Raises:
        UserError: no such folder, invalid JSON, or not the config of a :data:`CLASS`.
    """
    if source in PUBLISHED:
        return PUBLISHED[source]
    folder = Path(source).expanduser()
    path = next((each for each in (folder / "unet/config.json", folder / "config.json") if each.is_file()), None)
    if path is None:
        raise UserError(
            f"source={source}: wanted {', '.join(PUBLISHED)}, or a diffusers folder with config.json (a "
            f"U-Net's) or unet/config.json (a pipeline's); {folder.absolute()} has neither."
        )
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}. Give another folder as source.") from error
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name != CLASS:
        raise UserError(f"{path}: wanted the configuration of a {CLASS}, got _class_name {name}.")
    return dict(config)


def unet_from_config(config: dict[str, Any]) -> nn.Module:
    """Build the U-Net of ``config`` with random weights on the current default device, offline.

    Raises:
        UserError: diffusers is missing, or rejects the configuration.
    """
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    diffusers = import_extra("diffusers", "diffusers")
    try:
        net: nn.Module = diffusers.UNet2DConditionModel.from_config(config)
    except (ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise UserError(f"diffusers {diffusers.__version__} cannot build this {CLASS}: {error}") from error
    return net


def unet_inputs(config: dict[str, Any], batch_size: int, size: tuple[int, int]) -> Inputs:
    """Return the inputs of one denoising step, float32, on the current default device.

    Latents (N, C, H / 8, W / 8), a time step, the text's hidden states (N, 77, D); for SDXL also the pooled text
    and the image sizes.

    Args:
        config: complete config of a built net.
        batch_size: N.
        size: H and W of the image, multiples of 8.

    Raises:
        UserError: the U-Net needs other conditions.
    """
    unknown = [f"{key}={config[key]}" for key, values in _SUPPORTED.items() if config[key] not in values]
    if unknown:
        raise UserError(f"This {CLASS} needs conditions that segunet does not support: {', '.join(unknown)}.")
    width = config["encoder_hid_dim"] or config["cross_attention_dim"]
    if isinstance(width, list | tuple):  # one per block, all for the same text
        width = width[0]
    latents = torch.randn(batch_size, config["in_channels"], size[0] // PIXELS, size[1] // PIXELS)
    states = torch.randn(batch_size, _TOKENS, width)
    kwargs: dict[str, Any] = {}
    if config["addition_embed_type"] == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - _TIME_IDS * config["addition_time_embed_dim"]
        conditions = {"text_embeds": torch.randn(batch_size, pooled), "time_ids": torch.randn(batch_size, _TIME_IDS)}
        kwargs["added_cond_kwargs"] = conditions
    return Inputs((latents, torch.tensor(1), states), kwargs)


def own_size(config: dict[str, Any]) -> tuple[int, int]:
    """Return height and width of the images that the U-Net of a complete ``config`` was designed for.

    Raises:
        UserError: the config has no size.
    """
    sample = config["sample_size"]
    if sample is None:
        raise UserError("The U-Net's config.json has no sample_size: give the images' size, such as size=512.")
    height, width = sample if isinstance(sample, list | tuple) else (sample, sample)
    return height * PIXELS, width * PIXELS
