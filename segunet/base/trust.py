"""Which code a file may name: only that of packages that the user trusts."""

import os

from hydra.utils import get_class

TRUSTED_VARIABLE = "SEGUNET_TRUSTED_PACKAGES"  # environment variable with a comma-separated list


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
