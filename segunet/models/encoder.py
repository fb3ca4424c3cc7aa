"""A torchvision ResNet as the U-Net's encoder.

Parameters have torchvision's names (``conv1``, ``bn1``, ``layer1`` ...), so its state dicts can be loaded directly.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torchvision
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from segunet.base.errors import UserError
from segunet.base.validation import Channels, checked
from segunet.models.blocks import group_norm
from segunet.models.stages import StagedEncoder
from segunet.models.weights import IMAGENET, load_encoder_weights

Depth = Literal[18, 34, 50, 101, 152]
Maps = Annotated[int, Field(ge=2, le=5)]


@checked("model.encoder")
class ResNetEncoder(StagedEncoder):
    """ResNet (He et al. 2016) without its classifier, returning up to five maps.

    Args:
        depth: 18, 34, 50, 101 or 152 layers. ResNet-50 gives 64@/2, 256@/4, 512@/8, 1024@/16, 2048@/32.
        num_maps: number of maps, 2 to 5; 4 omits ``layer4``.
        weights: ``imagenet`` (torchvision's newest, downloaded once and cached), ``imagenet_v1`` or ``imagenet_v2``
            (of its older or newer training), the path of a file that holds a plain, perhaps partial, torchvision
            state dict or a segunet checkpoint, or None for a random start.
        ceil_pool: max-pool without padding and with the size rounded up, as in the article's code.
        frozen_stages: how many of stem, layer1, layer2 ... are frozen, with their batch-norm statistics; 0 for none.
        zero_init_residual: start each residual branch at zero (Goyal et al. 2017, section 5.1); helps a
            random start.
        in_channels: channels of the input; weights for 3 are adapted by :func:`segunet.models.weights.with_channels`.
        norm: batch or group normalisation; torchvision's weights need ``batch``.
        stride_in_1x1: halve the size in a bottleneck's first convolution, as in He et al. 2016, and not in its 3x3
            convolution, as torchvision does; for weights trained that way, not torchvision's. From 50 layers on.

    Attributes:
        stages: stem, layer1, layer2 ...; all parameters are in one of them.

    Raises:
        UserError: an unknown depth or number of maps; weights that are unavailable or do not match.
    """

    def __init__(
        self,
        depth: Depth = 50,
        num_maps: Maps = 5,
        weights: str | None = None,
        ceil_pool: bool = False,
        frozen_stages: Annotated[int, Field(ge=0)] = 0,
        zero_init_residual: bool = False,
        in_channels: Channels = 3,
        norm: Literal["batch", "group"] = "batch",
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        if frozen_stages > num_maps:
            raise UserError(
                f"model.encoder.frozen_stages={frozen_stages}: with num_maps={num_maps} it has only {num_maps} stages."
            )
        _check_weights(weights, depth, norm, stride_in_1x1)
        resnet = torchvision.models.get_model(
            f"resnet{depth}",
            weights=None,
            zero_init_residual=zero_init_residual,
            norm_layer=group_norm if norm == "group" else None,
        )
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True) if ceil_pool else resnet.maxpool
        stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4][: num_maps - 1]
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"layer{number}", stage)
        if stride_in_1x1:
            _stride_in_1x1(stages)
        self.num_maps, self.in_channels = num_maps, in_channels
        self.stages = [nn.ModuleList([self.conv1, self.bn1]), *stages]
        expansion = resnet.fc.in_features // 512
        self.channels = [64, *(64 * expansion * 2**i for i in range(num_maps - 1))]
        self.stride = 2**num_maps
        if weights is not None:
            load_encoder_weights(self, weights, depth)
        self.freeze_first(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps, finest first; the i-th is (N, channels[i], H / 2^(i+1), W / 2^(i+1))."""
        maps = [self.relu(self.bn1(self.conv1(x)))]  # (N, 64, H/2, W/2)
        x = self.maxpool(maps[0])  # (N, 64, H/4, W/4)
        for number in range(1, self.num_maps):
            x = self.get_submodule(f"layer{number}")(x)  # (N, channels[number], H/2^(number+1), ...)
            maps.append(x)
        return maps


def _check_weights(weights: str | None, depth: int, norm: str, stride_in_1x1: bool) -> None:
    """Raise a UserError for torchvision's weights of another network, or a stride that the depth does not have."""
    if weights in IMAGENET and norm != "batch":
        raise UserError(
            f"model.encoder.weights={weights} is for batch normalisation, got norm={norm}. Give null for random "
            "weights, or a file as model.encoder.weights."
        )
    if weights in IMAGENET and stride_in_1x1:
        raise UserError(
            f"model.encoder.weights={weights}: torchvision's weights were trained with the stride in the 3x3 "
            "convolution. Set model.encoder.stride_in_1x1=false, or give other weights."
        )
    if stride_in_1x1 and depth < 50:
        raise UserError(
            f"model.encoder.stride_in_1x1: the blocks of a ResNet-{depth} have no 1x1 convolution. Leave it out, "
            "or set model.encoder.depth to 50, 101 or 152."
        )


def _stride_in_1x1(stages: Iterable[nn.Module]) -> None:
    """Swap the strides of the first two convolutions, 1x1 and 3x3, of the stages' bottlenecks."""
    for stage in stages:
        for block in stage.modules():
            if isinstance(block, Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
