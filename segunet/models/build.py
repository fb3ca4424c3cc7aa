"""Build a network from its config in a file: listed or trusted classes, called with plain values."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeGuard

from hydra.utils import get_class

from segunet.base.errors import UserError
from segunet.base.nested import leaves
from segunet.base.trust import TRUSTED_VARIABLE, is_class_of_trusted_package
from segunet.base.validation import shown
from segunet.models import NETWORKS
from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder
from segunet.models.timm_encoder import TimmEncoder


def build_network(config: Mapping[str, Any]) -> Any:
    """Build the network of a card's config: a listed or trusted class, called with plain values.

    Args:
        config: ``_target_``, optionally ``_partial_``, and the arguments; nested configs are built first.

    Raises:
        UserError: a class that is not trusted; arguments that it does not accept.
    """
    target = config.get("_target_")
    if not _is_trusted(target):
        raise UserError(
            f"it names the class {shown(target)}, which is none of segunet's networks ({', '.join(NETWORKS)}). A "
            f"checkpoint can name any code; if you trust this one, list its package in the environment variable "
            f"{TRUSTED_VARIABLE} (comma-separated)."
        )
    cls = NETWORKS.get(target) or get_class(target)
    arguments = {name: _built(value) for name, value in config.items() if name not in ("_target_", "_partial_")}
    if cls in (ResNetEncoder, TimmEncoder, UNetDecoder):
        arguments["weights"] = None  # a checkpoint has its own: nothing is downloaded or read
    if unknown := arguments.keys() - inspect.signature(cls).parameters.keys():
        raise UserError(f"{target} does not accept {', '.join(shown(name) for name in sorted(unknown)[:3])}.")
    return partial(cls, **arguments) if config.get("_partial_") is True else cls(**arguments)


def check_can_be_rebuilt(config: Mapping[str, Any]) -> None:
    """Raise a UserError if :func:`build_network` will refuse a class of this config, which a training is to save."""
    for name, target in leaves(config).items():
        if name.rpartition(".")[2] == "_target_" and not _is_trusted(target):
            package = str(target).partition(".")[0]
            raise UserError(
                f"model.{name}={target} is none of segunet's networks, and a checkpoint of another class is only "
                "loaded if the package that defines it is trusted: set the environment variable "
                f"{TRUSTED_VARIABLE}={package}, for this training and whatever uses its checkpoints."
            )


def _is_trusted(target: Any) -> TypeGuard[str]:
    return isinstance(target, str) and (target in NETWORKS or is_class_of_trusted_package(target))


def _built(value: Any) -> Any:
    return build_network(value) if isinstance(value, dict) and "_target_" in value else value
