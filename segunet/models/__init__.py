"""Networks: plain PyTorch modules that know nothing of Lightning."""

from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder
from segunet.models.unet import UNet

# What a checkpoint may name: the classes that it is rebuilt from, by their dotted names.
NETWORKS: dict[str, type] = {
    f"{each.__module__}.{each.__qualname__}": each for each in (UNet, ResNetEncoder, UNetDecoder)
}
