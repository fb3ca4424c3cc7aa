"""Networks: plain PyTorch modules, independent of Lightning."""

from segunet.base.trust import target_of
from segunet.models.classic_unet import ClassicUNet
from segunet.models.decoder import UNetDecoder
from segunet.models.diffusion_unet import DiffusionUNet
from segunet.models.encoder import ResNetEncoder
from segunet.models.timm_encoder import TimmEncoder
from segunet.models.unet import UNet

# The classes that a checkpoint may be rebuilt from, by their dotted names.
NETWORKS: dict[str, type] = {
    target_of(each): each for each in (UNet, ResNetEncoder, TimmEncoder, UNetDecoder, ClassicUNet, DiffusionUNet)
}

__all__ = ["NETWORKS", "ClassicUNet", "DiffusionUNet", "ResNetEncoder", "TimmEncoder", "UNet", "UNetDecoder"]
