"""Pretrained weights of an encoder, from torchvision or a file, matched by name."""

import logging
import sys
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from segunet.base.errors import UserError, abbreviated
from segunet.base.files import read_torch_file

logger = logging.getLogger(__name__)


def load_encoder_weights(encoder: nn.Module, weights: str, depth: int) -> None:
    """Load ``weights`` ("imagenet" or a file's path) into ``encoder`` and log what matched.

    Raises:
        UserError: no file, not a state dict, a tensor of another shape, or no match.
    """
    source = _imagenet_state_dict(depth) if weights == "imagenet" else _read_state_dict(Path(str(weights)).expanduser())
    wanted = encoder.state_dict()
    matched = {name: value for name, value in source.items() if name in wanted}
    if not matched:
        raise UserError(
            f"{weights}: none of its {len(source)} tensors has the name of one of the ResNet-{depth} encoder (wanted "
            f"torchvision's names, such as 'conv1.weight'; got, for example, "
            f"{next(iter(source), 'nothing at all')!r}). Give another file as model.encoder.weights, "
            "'imagenet', or null for random weights."
        )
    for name, value in matched.items():
        if value.shape != wanted[name].shape:
            raise UserError(
                f"{weights}: {name} has shape {tuple(value.shape)}, the ResNet-{depth} encoder needs "
                f"{tuple(wanted[name].shape)}. The file belongs to another network: choose a matching "
                "model.encoder.depth and in_channels, or another model.encoder.weights."
            )
    encoder.load_state_dict(matched, strict=False)
    logger.info(_match_report(weights, set(wanted), set(matched), set(source)))


def _match_report(weights: str, wanted: set[str], matched: set[str], offered: set[str]) -> str:
    wanted = {name for name in wanted if not name.endswith("num_batches_tracked")}  # files may lack these counters
    loaded = len(wanted & matched)
    lines = [f"encoder weights {weights}: {loaded} of the encoder's {len(wanted)} tensors loaded"]
    if missing := sorted(wanted - matched):
        lines.append(f"  not in the file, initialized at random: {abbreviated(missing)}")
    if unused := sorted(offered - matched):
        lines.append(f"  in the file, not used: {abbreviated(unused)}")
    return "\n".join(lines)


def _imagenet_state_dict(depth: int) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(f"resnet{depth}").DEFAULT
    try:
        state_dict: dict[str, Tensor] = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"model.encoder.weights=imagenet: torchvision's {weights} could not be downloaded from {weights.url} "
            f"({error}). Offline, download that file elsewhere and give its path as "
            f"model.encoder.weights, put it into {torch.hub.get_dir()}/checkpoints, or set "
            "model.encoder.weights=null for random weights."
        ) from error
    return state_dict


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"model.encoder.weights: there is no file {path.absolute()}. Give 'imagenet', the path of a "
            "torchvision ResNet state dict (.pth), or null for random weights."
        )
    content = read_torch_file(path, "Save it again with torch.save(model.state_dict(), path).")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(
            f"{path} holds a {type(content).__name__}, wanted a plain state dict (tensor name -> tensor). "
            "Save one with torch.save(model.state_dict(), path)."
        )
    return content
