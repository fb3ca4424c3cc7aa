"""Load the network of a checkpoint or exported file; file contents are validated before use."""

import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segunet.base.errors import UserError, abbreviated
from segunet.base.files import is_file
from segunet.base.safetensors_file import SUFFIX, read_tensors, write_tensors
from segunet.base.terminal import setting
from segunet.base.torch_file import read_torch_file
from segunet.base.validation import one_line
from segunet.base.version import __version__
from segunet.formats.interface import check_gives_scores
from segunet.formats.read import EXPORT_AGAIN, READERS, read_exported
from segunet.images.palette import ClassColours
from segunet.inference.card import Card, CheckpointCard, DataCard, ExportedCard, parsed
from segunet.inference.logits import TTA
from segunet.models.build import build_network
from segunet.models.classic_unet import border_of

logger = logging.getLogger(__name__)
FROM_CHECKPOINT: Literal["checkpoint"] = "checkpoint"  # value of a setting that the checkpoint provides
_CARD, _EPOCH = "segunet", "epoch"  # keys of a .ckpt file's content
_PARTS = ("net.", "prompts.")  # what the names of a network's weights begin with
_ADVICE = "Give a checkpoint that segunet.train wrote, such as a run's checkpoints/best.ckpt."

_DTYPES = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
}


@dataclass(frozen=True)
class Checkpoint:
    """A network and the data saved with it.

    Attributes:
        net: the trained network, in evaluation mode, on the CPU.
        colours: names and colours of the K classes.
        inference_size: long side at which images enter the net; None is their own size.
        data: the data set that it was trained on.
        model: the network's config, in plain values; None for an exported network.
    """

    net: nn.Module
    colours: ClassColours
    inference_size: int | None
    data: DataCard
    model: dict[str, Any] | None = None

    @property
    def class_names(self) -> list[str]:
        """The K names."""
        return list(self.colours.names)


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild the network of a segunet checkpoint; an exported file is run as it is.

    Args:
        path: a .ckpt or .safetensors file, or one with a suffix of ``formats.read.READERS``.

    Raises:
        UserError: no file, not a checkpoint, not segunet's, damaged, a denoiser's, or of a class that is not trusted.
    """
    if path.suffix in READERS:
        exported, content = read_exported(path)
        about = parsed(ExportedCard, content, path, EXPORT_AGAIN)
        if about.denoiser is not None:
            raise UserError(
                f"{path} is a denoiser that segunet.export wrote for other programs: it does one denoising step, which "
                "their scheduler calls. To generate images with segunet, give python -m segunet.generate the .ckpt "
                "that it was made from; evaluate and predict need a segmentation network."
            )
        exported.border, exported.stride = about.border, about.stride
        exported.float_input = about.interface.float_input
        if size := about.interface.size:
            logger.info("%s takes images of %d x %d (height x width) alone: others are resized to it", path, *size)
        return _checkpoint(about.interface.for_any_images(exported, len(about.class_names)), about, path)
    return checkpoint_of(read_checkpoint(path), path)


def checkpoint_of(content: Mapping[str, Any], path: Path) -> Checkpoint:
    """Rebuild the segmentation network of a .ckpt file's ``content``; raises as :func:`load_checkpoint`."""
    card = card_of(content, path)
    if card.denoiser is not None:
        raise UserError(
            f"{path} holds a denoiser, which generates images and has no classes to predict. Use it with: "
            f"python -m segunet.generate {setting('checkpoint', path)}"
        )
    weights = weights_of(content["state_dict"], path)
    net = with_weights(lambda: build_network(card.model), weights, card.version, path)
    if card.channels_last:
        net.to(memory_format=torch.channels_last)
    return _checkpoint(net, card, path)


def read_checkpoint(path: Path, advice: str = _ADVICE) -> dict[str, Any]:
    """Read the content of a segunet checkpoint; plain data and tensors only, no code is run.

    Args:
        path: a .ckpt or .safetensors file.
        advice: what to do if it is damaged.

    Raises:
        UserError: no file, not a checkpoint, damaged (with ``advice``), or not segunet's.
    """
    if not is_file(path):
        raise UserError(f"There is no checkpoint {path.absolute()}. {_instead_of(path)}")
    if path.suffix == SUFFIX:
        return _read_safetensors(path, advice)
    if not zipfile.is_zipfile(path):  # torch's old format has no checksums; segunet never wrote it
        raise UserError(f"{path} is not a segunet checkpoint, or is damaged: it is not a torch.save archive. {advice}")
    content: Any = read_torch_file(path, advice)
    if not isinstance(content, dict) or not content.keys() >= {_CARD, "state_dict", _EPOCH}:
        raise UserError(
            f"{path} was not written by segunet.train: it has no description of its model. A plain state dict "
            "can be used as model.encoder.weights of a new training; segunet.convert converts state dicts of "
            "other projects."
        )
    return content


def write_safetensors(content: Mapping[str, Any], path: Path) -> None:
    """Write the weights and the card of a .ckpt file's ``content``, without what only a training needs."""
    weights = {name: each for name, each in content["state_dict"].items() if name.startswith(_PARTS)}
    write_tensors(weights, {_CARD: json.dumps(content[_CARD]), _EPOCH: str(content[_EPOCH])}, path)


def _read_safetensors(path: Path, advice: str) -> dict[str, Any]:
    """Return what :func:`write_safetensors` wrote, as the content of a .ckpt file."""
    weights, text = read_tensors(path, advice)
    try:
        return {_CARD: json.loads(text[_CARD]), "state_dict": weights, _EPOCH: int(text[_EPOCH])}
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path} was not written by segunet.export: it has no description of its model.") from error


def _instead_of(path: Path) -> str:
    """Return which checkpoint lies near ``path``, where there is none."""
    near = [path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt", path.with_name("last.ckpt")]
    found = next((each for each in near if is_file(each)), None)
    return "Give the path of a run's checkpoints/best.ckpt." if found is None else f"There is {found.absolute()}."


def read_card(path: Path, advice: str = _ADVICE) -> CheckpointCard:
    """Return the card of a .ckpt file.

    Raises:
        UserError: as :func:`read_checkpoint`, or an invalid card.
    """
    return card_of(read_checkpoint(path, advice), path, advice)


def card_of(content: Mapping[str, Any], path: Path, advice: str = _ADVICE) -> CheckpointCard:
    """Return the card in the ``content`` of a .ckpt file."""
    return parsed(CheckpointCard, content[_CARD], path, advice)


def check_augmentation(checkpoint: Checkpoint, tta: str) -> None:
    """Log a warning if ``tta`` mirrors images but training did not: classes may depend on left and right.

    Raises:
        UserError: there is something to average, but the network gives masks.
    """
    if TTA.get(tta):
        check_gives_scores(checkpoint.net, f"tta={tta}")
    if TTA.get(tta) and checkpoint.data.flip is False:
        logger.warning(
            "tta=%s mirrors images, but this network was trained without mirrored ones (data.transform.flip=0): if "
            "classes depend on left and right, its predictions get worse. Compare with tta=none.",
            tta,
        )


def with_weights(make: Callable[[], nn.Module], weights: dict[str, Tensor], version: str, path: Path) -> nn.Module:
    """Build a network and load its weights; no memory is allocated before they are checked.

    Args:
        make: builds the network.
        weights: its state dict.
        version: version of segunet that wrote them.
        path: where they come from.

    Raises:
        UserError: it cannot be built, or the weights are not its own.
    """
    try:
        with torch.device("meta"):
            net = make()
        _check_fit(weights, net.state_dict())
        net.load_state_dict(weights, assign=True)
        if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):  # a trusted class's own buffers
            net = make()
            net.load_state_dict(weights)
    except UserError as error:
        raise UserError(
            f"{path} cannot be used: {one_line(str(error), 600)} It was written by segunet {one_line(version)}, "
            f"this is {__version__}. {_ADVICE}"
        ) from error
    except Exception as error:  # constructors of other projects may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{path}: its network cannot be built: {reason}. {_ADVICE}") from error
    return net


def weights_of(state_dict: Any, path: Path, part: str = "net.") -> dict[str, Tensor]:
    """Return the tensors of a ``part`` of a training's state dict, by their names in it; the network's is "net.".

    Raises:
        UserError: a weight is not a tensor of finite real numbers with its own memory.
    """
    weights = {
        name.removeprefix(part): value
        for name, value in (state_dict.items() if isinstance(state_dict, dict) else ())
        if isinstance(name, str) and name.startswith(part)
    }
    for name, value in weights.items():
        name = one_line(name)
        if not _is_real_tensor(value):
            raise UserError(f"{path}: {name} is not a tensor of real numbers. {_ADVICE}")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise UserError(f"{path}: {name} is larger than its stored data. {_ADVICE}")
        if not bool(value.isfinite().all()):
            raise UserError(
                f"{path}: {name} contains NaN or infinity: the training diverged, or the file is damaged. Give an "
                "earlier checkpoint."
            )
    return weights


def _is_real_tensor(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and value.dtype in _DTYPES
    )


def _check_fit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise a UserError unless the weights have the names, shapes and types of the network's."""
    missing, unknown = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    others = [
        f"{name} is {weights[name].dtype} {tuple(weights[name].shape)}, not {value.dtype} {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and (weights[name].shape, weights[name].dtype) != (value.shape, value.dtype)
    ]
    found = {"missing": sorted(missing), "unknown": sorted(unknown), "of another shape or type": others}
    if any(found.values()):
        parts = "; ".join(f"{what}: {abbreviated(names, most=3)}" for what, names in found.items() if names)
        raise UserError(f"its weights do not match the network that it describes ({parts}).")


def _checkpoint(net: nn.Module, card: Card, path: Path) -> Checkpoint:
    """Return the checkpoint, after checking that the network runs and has a logit per class."""
    side = max(64, border_of(net) + 1)
    try:
        with torch.inference_mode():
            logits = net.eval()(torch.zeros(1, card.data.channels, side, side, dtype=torch.uint8))
        fits = tuple(logits.shape) == (1, len(card.class_names), side, side)
    except Exception as error:  # each runtime and class has its own errors
        raise UserError(f"{path}: its network cannot be run: {' '.join(str(error).split())[:300]}.") from error
    if not fits:
        raise UserError(
            f"{path}: its network returns logits {tuple(logits.shape)} for an image of {side} x {side} pixels, but it "
            f"has {len(card.class_names)} class names. It is damaged, or was not written by segunet."
        )
    model = card.model if isinstance(card, CheckpointCard) else None
    return Checkpoint(net, card.colours, card.inference_size, card.data, model)
