"""Weights that an encoder or decoder starts from, from torchvision, a file or another training, matched by name."""

import logging
import sys
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from segunet.base.errors import UserError, abbreviated
from segunet.base.safetensors_file import read_weights

logger = logging.getLogger(__name__)
_OF_SHAPE = {"encoder": "model.encoder.depth (or in_channels)", "decoder": "model.decoder and encoder"}
IMAGENET = {"imagenet": "DEFAULT", "imagenet_v1": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
_SOURCES = {
    "encoder": f"{', '.join(IMAGENET)}, the path of a torchvision ResNet state dict (.pth) or of a segunet checkpoint",
    "decoder": "the path of a segunet checkpoint or of a decoder's state dict",
}


def load_encoder_weights(encoder: nn.Module, weights: str, depth: int) -> None:
    """Load ``weights`` into ``encoder`` and log what matched.

    Args:
        encoder: with torchvision's names.
        weights: a key of :data:`IMAGENET`, or the path of a state dict or of a segunet checkpoint.
        depth: number of its layers.

    Raises:
        UserError: no file, not a state dict, a tensor of another shape, or no match.
    """
    source = _imagenet_state_dict(depth, weights) if weights in IMAGENET else read_state_dict(weights, "encoder")
    source = with_channels(source, "conv1.weight", encoder.get_parameter("conv1.weight").shape[1])
    load_matching(encoder, source, weights, f"ResNet-{depth} encoder", "encoder")


def with_channels(source: dict[str, Tensor], name: str, channels: int) -> dict[str, Tensor]:
    """Return a state dict whose first convolution, ``name``, for RGB takes other ``channels``, and log it.

    The weights of channel i are those of colour i mod 3, times 3 / channels, so that the sums keep their size; a single
    channel gets the sum of the colours' weights, as a grey image's colours are equal.
    """
    weight = source.get(name)
    if weight is None or weight.dim() != 4 or weight.shape[1] != 3 or channels == 3:
        return source
    if channels == 1:
        adapted = weight.sum(dim=1, keepdim=True)
    else:
        adapted = weight[:, [channel % 3 for channel in range(channels)]] * (3 / channels)
    logger.info("%s is for 3 channels: adapted to %d", name, channels)
    return source | {name: adapted}


def load_decoder_weights(decoder: nn.Module, weights: str) -> None:
    """Load ``weights``, the path of a segunet checkpoint or of a state dict, into ``decoder`` and log what matched.

    Raises:
        UserError: no file, not a state dict, a tensor of another shape, or no match.
    """
    load_matching(decoder, read_state_dict(weights, "decoder"), weights, "decoder", "decoder")


def load_matching(module: nn.Module, source: dict[str, Tensor], weights: str, name: str, part: str) -> None:
    """Load the tensors of ``source`` that ``module`` has, and log what matched.

    Args:
        module: the encoder or decoder.
        source: a state dict.
        weights: where it is from, for messages.
        name: what the module is called in messages.
        part: "encoder" or "decoder", as in the settings.

    Raises:
        UserError: no tensor has the name of one of the module's, or one has another shape or is not finite.
    """
    wanted = module.state_dict()
    matched = {key: value for key, value in source.items() if key in wanted}
    if not matched:
        raise UserError(
            f"{weights}: none of its {len(source)} tensors has the name of one of the {name} (wanted names such as "
            f"{next(iter(wanted))!r}; got, for example, {next(iter(source), 'nothing at all')!r}). Give as "
            f"model.{part}.weights {_SOURCES[part]}, or null for random weights."
        )
    for key, value in matched.items():
        if value.shape != wanted[key].shape:
            raise UserError(
                f"{weights}: {key} has shape {tuple(value.shape)}, the {name} needs {tuple(wanted[key].shape)}. The "
                f"file belongs to another network: choose a matching {_OF_SHAPE[part]} or another model.{part}.weights."
            )
        if not bool(value.isfinite().all()):
            raise UserError(f"{weights}: {key} contains NaN or infinity. Give another model.{part}.weights.")
    module.load_state_dict(matched, strict=False)
    logger.info(_match_report(weights, part, set(wanted), set(matched), set(source)))


def _match_report(weights: str, part: str, wanted: set[str], matched: set[str], offered: set[str]) -> str:
    wanted = {name for name in wanted if not name.endswith("num_batches_tracked")}  # files may lack these counters
    loaded = len(wanted & matched)
    lines = [f"{part} weights {weights}: {loaded} of the {part}'s {len(wanted)} tensors loaded"]
    if missing := sorted(wanted - matched):
        lines.append(f"  not in the file, initialized at random: {abbreviated(missing)}")
    if unused := sorted(offered - matched):
        lines.append(f"  in the file, not used: {abbreviated(unused)}")
    return "\n".join(lines)


def _imagenet_state_dict(depth: int, name: str) -> dict[str, Tensor]:
    versions = torchvision.models.get_model_weights(f"resnet{depth}")
    if (weights := getattr(versions, IMAGENET[name], None)) is None:
        raise UserError(f"model.encoder.weights={name}: torchvision has none of a ResNet-{depth}. Give imagenet.")
    try:
        state_dict: dict[str, Tensor] = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"model.encoder.weights={name}: torchvision's {weights} could not be downloaded from {weights.url} "
            f"({error}). Offline, download that file elsewhere and give its path as "
            f"model.encoder.weights, put it into {torch.hub.get_dir()}/checkpoints, or set "
            "model.encoder.weights=null for random weights."
        ) from error
    return state_dict


def read_state_dict(weights: str, part: str) -> dict[str, Tensor]:
    """Return the state dict in a file: of a segunet checkpoint, that of its network's ``part``.

    Raises:
        UserError: no file, or not a plain state dict.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"model.{part}.weights: there is no file {path.absolute()}. Give {_SOURCES[part]}, or null for random "
            "weights."
        )
    content = read_weights(path, "Save it again with torch.save(model.state_dict(), path).")
    if isinstance(content, dict) and "segunet" in content:
        content = content.get("state_dict")
        prefix = f"net.{part}."
        if isinstance(content, dict):
            named = {str(name): value for name, value in content.items() if str(name).startswith(prefix)}
            content = {name.removeprefix(prefix): value for name, value in named.items()}
            if not content:
                raise UserError(
                    f"{path}: its network has no {part}. Give another file as model.{part}.weights, or null."
                )
    if not isinstance(content, dict) or not all(isinstance(key, str) and _is_plain(content[key]) for key in content):
        raise UserError(
            f"{path} holds a {type(content).__name__}, wanted a plain state dict (tensor name -> tensor). "
            "Save one with torch.save(model.state_dict(), path)."
        )
    return content


def _is_plain(value: object) -> bool:
    """Return whether ``value`` is a tensor that can be copied from: neither sparse, quantized nor without memory."""
    if not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not value.is_quantized and value.device.type != "meta"
