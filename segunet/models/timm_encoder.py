"""A convolutional network of timm as the U-Net's encoder."""

import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from segunet.base.errors import UserError, abbreviated, did_you_mean
from segunet.base.extras import import_extra
from segunet.base.normalization import IMAGENET_MEAN, IMAGENET_STD
from segunet.base.validation import MOST_CHANNELS, Channels, checked, one_line
from segunet.models.stages import StagedEncoder
from segunet.models.weights import load_matching, read_state_dict

logger = logging.getLogger(__name__)
_IMAGENET = "imagenet"
_SIDE = 128  # of the image that a network is tried on, in pixels


@checked("model.encoder")
class TimmEncoder(StagedEncoder):
    """A network of timm (``features_only``) without its classifier, returning its maps.

    Networks whose finest map has a quarter of the image's size, such as ConvNeXt, get one of half of it by a
    convolution of their own.

    Args:
        name: as in ``timm.list_models()``, such as convnext_tiny.
        weights: ``imagenet`` (timm's own, downloaded once and cached), the path of a state dict of timm or of a segunet
            checkpoint, or None for a random start.
        frozen_stages: how many stages, one for each map, are frozen, with their batch-norm statistics; 0 for none.
        stem_width: channels of the convolution that makes the finest map, where it is needed; 0 for a map without any.
        in_channels: channels of the input; timm adapts its own weights for 3, those of a segunet checkpoint must fit.

    Attributes:
        least_side: side of the images in pixels from which the coarsest map has more than one.

    Raises:
        UserError: timm is not installed; an unknown name; maps that are not each half of the one before; weights that
            are unavailable or do not match.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        frozen_stages: Annotated[int, Field(ge=0)] = 0,
        stem_width: Annotated[int, Field(ge=0, le=MOST_CHANNELS)] = 32,
        in_channels: Channels = 3,
    ) -> None:
        super().__init__()
        given = None if weights in (None, _IMAGENET) else read_state_dict(str(weights), "encoder")
        own = given is not None and any(each.startswith("body.") for each in given)  # of a segunet checkpoint
        self.in_channels = in_channels
        self.body = _network(name, in_channels, weights, None if own else given)
        reductions, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        if reductions[0] not in (2, 4) or any(coarse != 2 * fine for fine, coarse in pairwise(reductions)):
            raise UserError(
                f"model.encoder.name={name}: its maps have 1/{', 1/'.join(map(str, reductions))} of the image's size; "
                "wanted 1/2 or 1/4, and then each half of the one before. Choose another network."
            )
        self.stem = _stem(in_channels, stem_width) if reductions[0] == 4 else None
        self.channels: list[int] = [*([] if self.stem is None else [stem_width]), *channels]
        self.stride = int(reductions[-1])
        self.least_side = self.stride + 1
        self.stages = self._stages()
        if frozen_stages > len(self.stages):
            raise UserError(f"model.encoder.frozen_stages={frozen_stages}: {name} has only {len(self.stages)} stages.")
        self._check_maps(name)
        if own and given is not None:
            load_matching(self, given, str(weights), f"encoder {name}", "encoder")
        self.freeze_first(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps, finest first; the i-th is (N, channels[i], H / 2^(i+1), W / 2^(i+1))."""
        maps: list[Tensor] = self.body(x)
        return maps if self.stem is None else [self.stem(x), *maps]

    def _stages(self) -> list[nn.ModuleList]:
        """Return the network's layers up to each map, those of the stem in the first stage."""
        ends = {str(each).replace(".", "_") for each in self.body.feature_info.module_name()}
        stages = [nn.ModuleList([] if self.stem is None else [self.stem])]
        for name, layer in _layers(self.body, ends):
            stages[-1].append(layer)
            if name in ends:
                stages.append(nn.ModuleList())
        return [stage for stage in stages if len(stage)]

    @torch.no_grad()
    def _check_maps(self, name: str) -> None:
        """Raise a UserError unless the network takes images of any size and its maps are as announced."""
        training, side = self.training, _SIDE + self.stride
        try:
            maps = self.eval()(torch.zeros(1, self.in_channels, _SIDE, side))
        except Exception as error:  # each network has its own errors
            reason = one_line(str(error), 200)
            raise UserError(f"model.encoder.name={name} does not take images of any size: {reason}.") from error
        finally:
            self.train(training)
        for number, (each, channels) in enumerate(zip(maps, self.channels, strict=True), start=1):
            if tuple(each.shape) != (1, channels, _SIDE >> number, side >> number):
                raise UserError(
                    f"model.encoder.name={name}: map {number} is {tuple(each.shape)}. Choose another network."
                )


def _layers(body: nn.Module, ends: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a network of timm; instead of a block in which a stage ends, those of the block."""
    for name, layer in body.named_children():
        inner = {f"{name}_{each}": child for each, child in layer.named_children()}
        yield from inner.items() if ends & inner.keys() else [(name, layer)]


def _network(name: str, channels: int, weights: str | None, state_dict: dict[str, Tensor] | None) -> Any:
    """Return a network of timm with its own weights, those of a state dict of timm, or random ones."""
    timm = import_extra("timm", "timm")
    known = timm.list_models()
    if name.partition(".")[0] not in known:  # other names could be addresses
        raise UserError(f"model.encoder.name={name}: timm has no such network.{did_you_mean(name, known)}")
    if state_dict is not None:
        _check_names(timm, name, str(weights), state_dict)
    overlay = None if state_dict is None else {"state_dict": state_dict}
    pretrained = weights == _IMAGENET or overlay is not None
    try:
        network = timm.create_model(
            name, features_only=True, in_chans=channels, pretrained=pretrained, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # of the network itself, of a download, of weights that do not match
        raise UserError(
            f"model.encoder.name={name} with weights={weights} cannot be built: {one_line(str(error), 300)}. Give "
            "imagenet (online), the path of timm's state dict of this network, or null for random weights."
        ) from error
    if weights is not None and channels == 3:
        warn_of_normalization(name, IMAGENET_MEAN, IMAGENET_STD)
    return network


def _check_names(timm: Any, name: str, weights: str, state_dict: dict[str, Tensor]) -> None:
    """Raise a UserError unless the state dict has the names of timm's network, besides those of its classifier."""
    with torch.device("meta"):
        wanted = timm.create_model(name, num_classes=0).state_dict().keys()
    classifier = timm.get_pretrained_cfg(name).classifier
    ends = tuple(f"{each}." for each in ([classifier] if isinstance(classifier, str) else classifier or ()))
    missing = sorted(wanted - state_dict.keys())
    others = sorted(each for each in state_dict.keys() - wanted if not each.startswith(ends))
    if missing or others:
        raise UserError(
            f"model.encoder.weights={weights} is not of {name}: it lacks {abbreviated(missing) or 'nothing'}, and has "
            f"{abbreviated(others) or 'nothing'} besides. Give the state dict of timm's network, or null."
        )


def warn_of_normalization(name: str, own_mean: Sequence[float], own_std: Sequence[float]) -> None:
    """Log which mean and standard deviation timm's weights were trained with, if these are not one's own."""
    about = import_extra("timm", "timm").get_pretrained_cfg(name)
    if about is None:
        return
    mean, std = ([round(255 * value, 3) for value in values] for values in (about.mean, about.std))
    if (mean, std) != ([*own_mean], [*own_std]):
        logger.warning("the weights of %s were trained with model.mean=%s model.std=%s: set them so", name, mean, std)


class _NoChannels(nn.Module):
    """Make the map (N, 0, H/2, W/2) of images (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0, ::2, ::2]


def _stem(channels: int, width: int) -> nn.Module:
    """Return what makes the map (N, width, H/2, W/2) of images (N, channels, H, W)."""
    if width == 0:
        return _NoChannels()
    convolution = nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
