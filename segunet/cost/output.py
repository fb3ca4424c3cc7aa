"""Where a command writes its numbers."""

import json
from pathlib import Path

from segunet.base.errors import UserError


def check_output(path: Path, keys: set[str], command: str) -> None:
    """Raise a UserError unless ``path`` is a new JSON file, or one with the ``keys`` that ``command`` writes."""
    if path.suffix != ".json":
        raise UserError(f"output={path}: wanted the name of a .json file.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= keys:
        raise UserError(f"output={path} exists, and {command} did not write it. Give another name.")
