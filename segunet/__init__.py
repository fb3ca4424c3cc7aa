"""segunet trains, evaluates and ships a ResNet-50 U-Net for semantic segmentation."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing albumentations would ask PyPI for a newer one

from segunet.errors import UserError
from segunet.predictor import Predictor, load
from segunet.version import __version__

__all__ = ["Predictor", "UserError", "__version__", "load"]
