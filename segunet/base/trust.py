"""Classes by their dotted names, ``_target_`` in a config: whose code a file may name is what the user trusts."""

import os
from typing import Any

from hydra.utils import get_class

from segunet.base.errors import UserError

TRUSTED_VARIABLE = "SEGUNET_TRUSTED_PACKAGES"  # environment variable with a comma-separated list


def target_of(kind: type) -> str:
    """Return the dotted name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def check_targets(name: str, entries: Any, what: str, example: str) -> list[dict[str, Any]]:
    """Return the ``entries`` of the setting ``name``, each a mapping with a ``_target_``.

    Raises:
        UserError: something else is given; the message has ``what`` is listed, and an ``example``.
    """
    for each in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entries, list) or not isinstance(each, dict) or "_target_" not in each:
            raise UserError(f"{name} is a list of {what}, such as [{{_target_: {example}}}], got {str(each)[:80]}.")
    return list(entries)


def is_class_of_trusted_package(target: str) -> bool:
    """Return whether ``target`` is the dotted name of a class that a trusted package defines itself.

    Only that package is imported.
    """
    package = target.split(".")[0]
    if not package or package not in os.environ.get(TRUSTED_VARIABLE, "").split(","):
        return False
    try:
        return get_class(target).__module__.split(".")[0] == package
    except (ImportError, ValueError):
        return False
