"""Fine-tuning: start a training from the weights of a checkpoint, ``init=PATH``."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from torch import Tensor, nn

from segunet.base.errors import UserError, abbreviated
from segunet.base.files import is_file
from segunet.base.nested import leaves
from segunet.base.terminal import setting
from segunet.base.validation import Text, check, shown
from segunet.cli.run_dir import as_path
from segunet.inference.card import CheckpointCard
from segunet.inference.checkpoint import card_of, read_checkpoint, weights_of
from segunet.losses.noise_schedule import NoiseSchedule
from segunet.models.prompts import PromptEncoder, vocabulary_of
from segunet.models.weights import IMAGENET, with_channels

logger = logging.getLogger(__name__)
_HEAD = "head"  # the part whose tensors depend on the classes
_FIRST = "encoder.conv1.weight"  # of a ResNet
_OWN = ("mean", "std")  # buffers that the config sets
_FREE = ("num_classes", "weights", "frozen_stages", "zero_init_residual", "dropout")  # settings that fit any weights
Parts = Annotated[list[str], Field(min_length=1)] | None


def check_init(cfg: DictConfig) -> None:
    """Raise a UserError if ``cfg.init`` is no file, or another setting contradicts it."""
    parts = init_parts(cfg)
    if check("init", cfg.init, Text | None) is None:
        if parts is not None:
            raise UserError("init_parts names the parts to load of the checkpoint init=PATH. Give init, too.")
        return
    path = as_path(cfg.init)
    if not is_file(path):
        best = path / "checkpoints" / "best.ckpt"
        advice = f"Give {setting('init', best)}" if is_file(best) else "Give the path of a .ckpt file."
        raise UserError(f"init: there is no checkpoint {path.absolute()}. {advice}")
    for part in ("encoder", "decoder"):
        weights = OmegaConf.select(cfg.model, f"{part}.weights")
        if weights not in (None, *IMAGENET) and (parts is None or part in parts):
            raise UserError(
                f"init={cfg.init} and model.{part}.weights={weights} both give the {part}'s weights. Leave one of them "
                "out, or name the parts that start from init, as init_parts=[...]."
            )


def init_parts(cfg: DictConfig) -> list[str] | None:
    """Return the names in ``cfg.init_parts``, one or a list; None for all parts.

    Raises:
        UserError: something else.
    """
    given = OmegaConf.to_container(cfg.init_parts) if OmegaConf.is_config(cfg.init_parts) else cfg.init_parts
    parts: list[str] | None = check("init_parts", [given] if isinstance(given, str) else given, Parts)
    return parts


@dataclass(frozen=True)
class Init:
    """The checkpoint that a training starts from.

    Attributes:
        path: the file.
        card: its card.
        state_dict: all of its weights: of its network, and of a denoiser's prompts.
        parts: names of the network's parts that start from it, such as encoder; None for all.
    """

    path: Path
    card: CheckpointCard
    state_dict: Mapping[str, Any]
    parts: Sequence[str] | None

    @classmethod
    def of(cls, cfg: DictConfig) -> Self | None:
        """Read the checkpoint of ``cfg.init``; None if none is given.

        Raises:
            UserError: not a checkpoint of segunet, or a damaged one.
        """
        if cfg.init is None:
            return None
        path = as_path(cfg.init)
        content = read_checkpoint(path)
        return cls(path, card_of(content, path), content["state_dict"], init_parts(cfg))

    def has(self, part: str) -> bool:
        """Return whether the network's ``part`` starts from the checkpoint."""
        return self.parts is None or part in self.parts

    def load_into(self, net: nn.Module, model: DictConfig, class_names: Sequence[str] | None) -> None:
        """Load the parts of the network that start from the checkpoint, and log which.

        Args:
            net: the network.
            model: its config, resolved.
            class_names: names of the logits' classes; None for a denoiser. A head for others is not loaded.

        Raises:
            UserError: the network has no such part, or a tensor of a part is not there or has another shape.
        """
        weights, wanted = weights_of(self.state_dict, self.path), self._wanted(net)
        weights = with_channels(weights, _FIRST, int(getattr(net, "in_channels", 3)))
        lines, matched = [f"weights of {self.path}:"], dict[str, Tensor]()
        for part, tensors in wanted.items():
            if part == _HEAD and not self._has_head_for(class_names):
                names = abbreviated(self.card.class_names)
                lines.append(f"  {part}: initialized at random, as the checkpoint's is for other classes ({names})")
                continue
            for name, value in tensors.items():
                found = weights.get(name)
                if found is None or (found.shape, found.dtype) != (value.shape, value.dtype):
                    got = "not in it" if found is None else f"{tuple(found.shape)}, wanted {tuple(value.shape)}"
                    raise UserError(self._does_not_fit(part, f"{name} is {got}", model))
                matched[name] = found
            lines.append(f"  {part}: {len(tensors)} tensors loaded")
        net.load_state_dict(matched, strict=False)
        logger.info("\n".join(lines))
        if others := self._other_settings(model, {name.partition(".")[0] for name in matched}):
            logger.warning("%s was trained with other settings: %s", self.path, ", ".join(others))

    def load_prompts(self, prompts: PromptEncoder) -> None:
        """Load a denoiser's hidden states of the names that the checkpoint has too, and log the others."""
        weights = weights_of(self.state_dict, self.path, "prompts.")
        names = list(vocabulary_of(self.card.class_names, self.card.data.ignore_index).values())
        known = [name for name in prompts.names if name in names]
        shapes = {"named": (len(names), len(prompts.empty)), "empty": tuple(prompts.empty.shape)}
        if self.parts is not None or not known or {name: tuple(each.shape) for name, each in weights.items()} != shapes:
            logger.info("  prompts: initialized at random")
            return
        with torch.no_grad():
            prompts.empty.copy_(weights["empty"])
            for name in known:
                prompts.named[prompts.names.index(name)] = weights["named"][names.index(name)]
        new = [name for name in prompts.names if name not in known]
        logger.info("  prompts: %d of %d loaded", len(known), len(prompts.names))
        if new:
            logger.info("  prompts initialized at random: %s", abbreviated(new))

    def check_target(self, schedule: NoiseSchedule) -> None:
        """Log a warning if the checkpoint's denoiser was trained for something else than ``schedule``."""
        denoiser = self.card.denoiser
        if denoiser and (denoiser.schedule, denoiser.prediction) != (schedule.schedule, schedule.prediction):
            logger.warning(
                "%s was trained with loss.schedule=%s loss.prediction=%s: its head predicts something else",
                self.path,
                denoiser.schedule,
                denoiser.prediction,
            )

    def _wanted(self, net: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Return the network's tensors by part, the first word of their names, for the parts that are to be loaded."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in net.state_dict().items():
            if name not in _OWN:
                parts.setdefault(name.partition(".")[0], {})[name] = tensor
        if unknown := [part for part in self.parts or () if part not in parts]:
            raise UserError(f"init_parts={unknown[0]}: the network's parts are {', '.join(parts) or 'none'}.")
        return {part: tensors for part, tensors in parts.items() if self.has(part)}

    def _has_head_for(self, class_names: Sequence[str] | None) -> bool:
        """Return whether the checkpoint's head has the outputs that are wanted.

        Raises:
            UserError: it has not, but ``init_parts`` names it.
        """
        if class_names is None:
            same = self.card.denoiser is not None
        else:
            same = self.card.denoiser is None and list(class_names) == list(self.card.class_names)
        if not same and self.parts is not None:
            raise UserError(f"init_parts={_HEAD}: the head of {self.path} is for other classes. Leave {_HEAD} out.")
        return same

    def _does_not_fit(self, part: str, why: str, model: DictConfig) -> str:
        others = self._other_settings(model, {part})
        settings = f" It was trained with {', '.join(others)}." if others else ""
        return (
            f"init={self.path}: the {part} does not fit: {why}.{settings} Set the model's settings as they were, or "
            "name the parts that fit, as in init_parts=encoder."
        )

    def _other_settings(self, model: DictConfig, parts: set[str]) -> list[str]:
        """Return the settings of the checkpoint's network and its ``parts`` that differ from those of ``model``."""
        theirs, ours = leaves(self.card.model), leaves(OmegaConf.to_container(model))
        return [
            f"model.{name}={shown(theirs[name])}"
            for name in ours
            if name in theirs
            and ours[name] != theirs[name]
            and name.rpartition(".")[2] not in _FREE
            and ("." not in name or name.partition(".")[0] in parts)
        ]
