"""Device and precision of a network outside a trainer."""

from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from segunet.base.errors import UserError


def fabric_from_settings(accelerator: str, precision: str) -> Fabric:
    """Build a Fabric for one device and a precision.

    Raises:
        UserError: a setting that Lightning does not support, or an unavailable device.
    """
    chosen: Any = default_precision(accelerator) if precision == "auto" else precision
    try:
        return Fabric(accelerator=accelerator, devices=1, precision=chosen)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"accelerator={accelerator} precision={precision}: Lightning says: {error}") from error


def default_precision(accelerator: str) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """Return mixed precision on a CUDA GPU (bf16 if supported), float32 elsewhere."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
