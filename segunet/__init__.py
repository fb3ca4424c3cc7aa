"""segunet trains, evaluates and ships a ResNet-50 U-Net for semantic segmentation."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from segunet.base.version import __version__

if TYPE_CHECKING:
    from segunet.base.errors import UserError
    from segunet.inference.generator import Generator
    from segunet.inference.loading import load
    from segunet.inference.predictor import Predictor

__all__ = ["Generator", "Predictor", "UserError", "__version__", "load"]
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise importing albumentations queries PyPI for updates

_MODULES = {
    "Generator": "segunet.inference.generator",
    "Predictor": "segunet.inference.predictor",
    "UserError": "segunet.base.errors",
    "load": "segunet.inference.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562): torch, and what builds on it, takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
