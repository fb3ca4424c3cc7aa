"""From latents to images, by the user's own autoencoder of the library diffusers."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from segunet.base.errors import UserError, abbreviated
from segunet.base.extras import import_extra
from segunet.losses.denoising import as_images

Decode = Callable[[Tensor], Tensor]


def load_autoencoder(folder: Path, channels: int, device: torch.device) -> Decode:
    """Return a function that decodes latents (N, C, h, w), as they were stored, to images uint8 (N, H, W, 3).

    Args:
        folder: of an ``AutoencoderKL``, with config.json and weights in .safetensors; nothing is downloaded.
        channels: C.
        device: where it runs, in float32.

    Raises:
        UserError: no such folder, it cannot be read, it lacks weights, or its channels do not fit.
    """
    diffusers = import_extra("diffusers", "diffusers")
    if not (folder / "config.json").is_file():
        raise UserError(
            f"vae: {folder.absolute()} has no config.json. Give the folder of an AutoencoderKL of diffusers, such as "
            "the folder vae of a Stable Diffusion model."
        )
    try:
        network, loaded = diffusers.AutoencoderKL.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # of any of the libraries that read it
        raise UserError(
            f"vae: {folder.absolute()} cannot be read as an AutoencoderKL ({' '.join(str(error).split())[:300]}). Its "
            "weights must be diffusion_pytorch_model.safetensors."
        ) from error
    if missing := sorted(loaded["missing_keys"]):
        raise UserError(
            f"vae: {folder.absolute()} lacks weights of its AutoencoderKL: {abbreviated(missing)}. Download the folder "
            "again, or give another one."
        )
    if (made := network.config.out_channels) != 3:
        raise UserError(f"vae: {folder.absolute()} decodes to {made} channels, images have 3. Give another folder.")
    if (own := network.config.latent_channels) != channels:
        raise UserError(f"vae: {folder} decodes latents of {own} channels, the denoiser's have {channels}.")
    network = network.to(device).float().eval()

    def decode(latents: Tensor) -> Tensor:
        return as_images(network.decode(latents.to(device).float()).sample)

    return decode
