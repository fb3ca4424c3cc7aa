"""The file that describes a data set, for ``data=PATH``."""

from collections.abc import Mapping
from typing import Any

import yaml

DATA_FILE = "data.yaml"
_BATCH = 8  # images in a batch, unless it is said: as in conf/data/custom.yaml


def smaller_batch(images: int) -> dict[str, int]:
    """Return the setting that a list of so many training ``images`` needs: none if it fills a batch."""
    return {} if images >= _BATCH else {"batch_size": max(images // 2, 1)}


def as_text(settings: Mapping[str, Any], head: str) -> str:
    """Return settings of ``data`` as the file's text; ``head`` is a comment above them."""
    text: str = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return f"# {head}\n{text}"
