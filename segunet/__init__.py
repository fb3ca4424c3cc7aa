"""segunet trains, evaluates and ships a ResNet-50 U-Net for semantic segmentation."""

__version__ = "0.1.0"
