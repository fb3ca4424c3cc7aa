"""segunet trains, evaluates and ships a ResNet-50 U-Net for semantic segmentation."""

from segunet.errors import UserError
from segunet.predictor import Predictor, load
from segunet.version import __version__

__all__ = ["Predictor", "UserError", "__version__", "load"]
