"""Optional packages, imported only by the commands that need them."""

import importlib
from typing import Any

from segunet.base.errors import UserError


def import_extra(module: str, extra: str) -> Any:
    """Import ``module``, which the extra ``segunet[extra]`` installs.

    Raises:
        UserError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"This needs the package {module.split('.')[0]}, which cannot be imported ({error}). "
            f"It comes with the extra segunet[{extra}]: pip install -e '.[{extra}]' in the project's folder."
        ) from error
