"""State dicts of other projects' U-Nets, and how their names map to segunet's network.

``article`` is the article's code (bubbliiiing/unet-pytorch, ResNet backbone), ``smp`` is
``segmentation_models_pytorch.Unet`` with a ResNet encoder. Both keep torchvision's names within the encoder. In
``smp_timm`` the encoder is one of timm ("tu-..."), whose names it keeps.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segunet.base.errors import UserError, abbreviated

StateDict = dict[str, Tensor]
CONTAINERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts save a state dict
_WRAPPED = re.compile(r"((?:(?:module|model|net|_orig_mod)\.)*)(.*)")  # by DataParallel, Lightning, torch.compile


@dataclass(frozen=True)
class Origin:
    """The naming scheme of a project.

    Attributes:
        names: prefix of a name there -> prefix in segunet.
        ignored: prefix of tensors that do not affect the logits.
        up_first: its decoder concatenates (up, skip), segunet's (skip, up).
    """

    names: dict[str, str]
    ignored: str
    up_first: bool

    def name_of(self, ours: str) -> str:
        """Return the project's name for segunet's ``ours``; an unmapped name is returned unchanged."""
        beginnings = ((there, here) for there, here in self.names.items() if ours.startswith(here))
        there, here = next(beginnings, ("", ""))
        return there + ours.removeprefix(here)


_SMP = (
    {"segmentation_head.0.": "head."}
    | {f"decoder.blocks.{i}.": f"decoder.steps.{i}." for i in range(4)}
    | {"decoder.blocks.4.": "decoder.to_full_resolution."}
)
ORIGINS = {
    "article": Origin(
        names={"resnet.": "encoder.", "final.": "head."}
        | {f"up_concat{4 - i}.conv{j}.": f"decoder.steps.{i}.conv{j}.0." for i in range(4) for j in (1, 2)}
        | {f"up_conv.{2 * j - 1}.": f"decoder.to_full_resolution.conv{j}.0." for j in (1, 2)},
        ignored="resnet.fc.",
        up_first=False,
    ),
    "smp": Origin(names={"encoder.": "encoder."} | _SMP, ignored="classification_head.", up_first=True),
    "smp_timm": Origin(names={"encoder.model.": "encoder.body."} | _SMP, ignored="classification_head.", up_first=True),
}


def state_dict_in(content: Any) -> StateDict:
    """Return the state dict that ``content`` is, or holds under one of the :data:`CONTAINERS`.

    Raises:
        UserError: there is none, or more than one.
    """
    candidates = {"": content}
    if isinstance(content, dict):
        candidates |= {key: content[key] for key in CONTAINERS if key in content}
    found = {key: value for key, value in candidates.items() if _is_state_dict(value)}
    if len(found) == 1:
        return dict(next(iter(found.values())))
    what = f"state dicts under each of {', '.join(found)}" if found else f"a {type(content).__name__} without one"
    raise UserError(
        f"wanted a state dict (tensor name -> tensor), alone or under one of {', '.join(CONTAINERS)}; it holds {what}. "
        "Save one with torch.save(model.state_dict(), path)."
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def wrappers_in(state: StateDict, origin: Origin) -> set[str]:
    """Return the prefixes of ``origin``'s names in ``state``, such as ``module.`` or "".

    Empty if no name is the origin's; more than one if there are several networks.
    """
    beginnings = tuple(origin.names)
    matches = (_WRAPPED.match(name) for name in state)
    return {match[1] for match in matches if match and match[2].startswith(beginnings)}


def resnet_depth(state: StateDict) -> int:
    """Return the N of a ResNet-N: its branches' convolutions, its stem and its classifier (He et al. 2016, table 1)."""
    return sum(re.search(r"layer\d\.\d+\.conv\d\.weight$", name) is not None for name in state) + 2


def decoder_widths(state: StateDict, origin: Origin) -> list[int]:
    """Return the widths of the decoder's steps in ``state``, coarsest first, the full-resolution step last."""
    steps = [*(f"decoder.steps.{i}" for i in range(4)), "decoder.to_full_resolution"]
    names = [origin.name_of(f"{step}.conv1.0.weight") for step in steps]
    return [len(state[name]) for name in names if name in state]


def with_background(state: StateDict, origin: Origin) -> StateDict:
    """Return ``state`` with a zero logit before its only logit x: the softmax of (0, x) is the sigmoid of x."""
    heads = {origin.name_of(name) for name in ("head.weight", "head.bias")}
    return {
        name: torch.cat([torch.zeros_like(value), value]) if name in heads else value for name, value in state.items()
    }


def to_segunet(state: StateDict, origin: Origin, own: StateDict, skip_channels: Sequence[int]) -> StateDict:
    """Convert ``state`` to segunet's names and channel order.

    Args:
        state: with ``origin``'s names, without a prefix.
        origin: naming scheme of ``state``.
        own: state dict of the target network.
        skip_channels: channels of the skip of each decoder step, coarsest first.

    Raises:
        UserError: tensors are missing, unexpected or of another shape; lists them by the origin's names.
    """
    names = {origin.name_of(name): name for name in own if name not in ("mean", "std")}
    _check(state, {name: own[ours] for name, ours in names.items()})
    translated = {names[name]: value for name, value in state.items()}
    if origin.up_first:
        for i, channels in enumerate(skip_channels):
            name = f"decoder.steps.{i}.conv1.0.weight"  # (out, up + skip, 3, 3) -> (out, skip + up, 3, 3)
            translated[name] = translated[name].roll(channels, dims=1)
    return translated


def _check(state: StateDict, wanted: StateDict) -> None:
    """Raise a UserError unless ``state`` has the names and shapes of ``wanted``."""
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if found := [f"{len(names)} {kind} ({abbreviated(names, most=3)})" for kind, names in kinds.items() if names]:
        raise UserError(f"its tensors do not fit the network: {'; '.join(found)}.")
