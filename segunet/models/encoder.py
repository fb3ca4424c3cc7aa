"""A torchvision ResNet as the U-Net's encoder.

Parameters have torchvision's names (``conv1``, ``bn1``, ``layer1`` ...), so that its state dicts fit as they are.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.error import URLError

import torch
import torchvision
from pydantic import Field
from torch import Tensor, nn

from segunet.errors import UserError, abbreviated
from segunet.files import read_torch_file
from segunet.validation import checked

logger = logging.getLogger(__name__)

Depth = Literal[18, 34, 50, 101, 152]
Maps = Annotated[int, Field(ge=2, le=5)]


@checked("model.encoder")
class ResNetEncoder(nn.Module):
    """ResNet (He et al. 2016) without its classifier, giving up to five maps.

    Args:
        depth: 18, 34, 50, 101 or 152 layers. ResNet-50 gives 64@/2, 256@/4, 512@/8, 1024@/16, 2048@/32.
        num_maps: how many maps, 2 to 5; 4 leaves ``layer4`` out.
        weights: ``imagenet`` (torchvision's, downloaded once and cached), the path of a file that holds a
            plain, perhaps partial, torchvision state dict, or None for a random start.
        ceil_pool: max-pool without padding and with the size rounded up, as in the article's code line.
        frozen_stages: how many of stem, layer1, layer2 ... stay as they are, batch-norm statistics too; 0 is none.
        zero_init_residual: start each residual branch at zero (Goyal et al. 2017, section 5.1); helps a
            random start.

    Raises:
        UserError: an unknown depth or number of maps; weights that cannot be had or do not fit.
    """

    def __init__(
        self,
        depth: Depth = 50,
        num_maps: Maps = 5,
        weights: str | None = None,
        ceil_pool: bool = False,
        frozen_stages: Annotated[int, Field(ge=0)] = 0,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if frozen_stages > num_maps:
            raise UserError(
                f"model.encoder.frozen_stages={frozen_stages}: with num_maps={num_maps} it has only {num_maps} stages."
            )
        resnet = torchvision.models.get_model(f"resnet{depth}", weights=None, zero_init_residual=zero_init_residual)
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True) if ceil_pool else resnet.maxpool
        stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4][: num_maps - 1]
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"layer{number}", stage)
        self.num_maps = num_maps
        self._frozen = [nn.ModuleList([self.conv1, self.bn1]), *stages][:frozen_stages]
        expansion = resnet.fc.in_features // 512
        self.channels = [64, *(64 * expansion * 2**i for i in range(num_maps - 1))]
        self.stride = 2**num_maps
        if weights is not None:
            load_encoder_weights(self, weights, depth)
        for stage in self._frozen:
            stage.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for stage in self._frozen:
            stage.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps, finest first (see the head of this file)."""
        maps = [self.relu(self.bn1(self.conv1(x)))]  # (N, 64, H/2, W/2)
        x = self.maxpool(maps[0])  # (N, 64, H/4, W/4)
        for number in range(1, self.num_maps):
            x = self.get_submodule(f"layer{number}")(x)  # (N, channels[number], H/2^(number+1), ...)
            maps.append(x)
        return maps


def load_encoder_weights(encoder: nn.Module, weights: str, depth: int) -> None:
    """Load ``weights`` ("imagenet" or a file's path) into ``encoder`` and log what matched.

    Raises:
        UserError: no file, not a state dict, a tensor of another shape, or nothing that matches.
    """
    source = _imagenet_state_dict(depth) if weights == "imagenet" else _read_state_dict(Path(str(weights)).expanduser())
    wanted = encoder.state_dict()
    matched = {name: value for name, value in source.items() if name in wanted}
    if not matched:
        raise UserError(
            f"{weights}: none of its {len(source)} tensors has a name of the ResNet-{depth} encoder's (wanted "
            f"torchvision's names, such as 'conv1.weight'; it has, for one, "
            f"{next(iter(source), 'nothing at all')!r}). Give another file as model.encoder.weights, "
            "'imagenet', or null for a random start."
        )
    for name, value in matched.items():
        if value.shape != wanted[name].shape:
            raise UserError(
                f"{weights}: {name} has shape {tuple(value.shape)}, the ResNet-{depth} encoder's has "
                f"{tuple(wanted[name].shape)}. The file is of another network: choose a matching "
                "model.encoder.depth or another model.encoder.weights."
            )
    encoder.load_state_dict(matched, strict=False)
    logger.info(_match_report(weights, set(wanted), set(matched), set(source)))


def _match_report(weights: str, wanted: set[str], matched: set[str], offered: set[str]) -> str:
    wanted = {name for name in wanted if not name.endswith("num_batches_tracked")}  # files may lack these counters
    loaded = len(wanted & matched)
    lines = [f"encoder weights {weights}: {loaded} of the encoder's {len(wanted)} tensors loaded"]
    if missing := sorted(wanted - matched):
        lines.append(f"  left at random, not in the file: {abbreviated(missing)}")
    if unused := sorted(offered - matched):
        lines.append(f"  in the file, not used: {abbreviated(unused)}")
    return "\n".join(lines)


def _imagenet_state_dict(depth: int) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(f"resnet{depth}").DEFAULT
    try:
        state_dict: dict[str, Tensor] = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"model.encoder.weights=imagenet: torchvision's {weights} could not be fetched from {weights.url} "
            f"({error}). Download that file on a machine with a network and give its path as "
            f"model.encoder.weights, put it into {torch.hub.get_dir()}/checkpoints, or set "
            "model.encoder.weights=null to start at random."
        ) from error
    return state_dict


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"model.encoder.weights: there is no file {path.absolute()}. Give 'imagenet', the path of a "
            "torchvision ResNet state dict (.pth), or null for a random start."
        )
    content = read_torch_file(path, "Save it again with torch.save(model.state_dict(), path).")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(
            f"{path} holds a {type(content).__name__}, wanted a plain state dict (tensor name -> tensor). "
            "Save one with torch.save(model.state_dict(), path)."
        )
    return content
