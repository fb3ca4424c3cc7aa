"""segunet trains, evaluates and ships a ResNet-50 U-Net for semantic segmentation."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise importing albumentations queries PyPI for updates

from segunet.base.errors import UserError
from segunet.base.version import __version__
from segunet.inference.generator import Generator
from segunet.inference.loading import load
from segunet.inference.predictor import Predictor

__all__ = ["Generator", "Predictor", "UserError", "__version__", "load"]
