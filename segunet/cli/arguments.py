"""What a command line gets before its command's own imports: help, or what is wrong with it.

Those imports, torch and Lightning, take seconds, and neither needs them. So a command calls :func:`before_imports`
at the top of its file; garbage collection is off from there until the command runs.
"""

import gc
import os
import re
import sys
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from segunet.base.errors import UserError
from segunet.base.paths import CONF_DIR
from segunet.base.stopping import end_with_reader
from segunet.cli.help import choices_help, settings_help
from segunet.cli.overrides import check_command_line, check_flags, with_name, with_quoted_text, with_recipe
from segunet.cli.own_files import own_files, with_own_files

_checked: list[str] = []  # the command, and sys.argv as it was left
_SHOWN_BY_HYDRA = ("help", "hydra_help", "info", "cfg", "version")  # flags that run no command
OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
OmegaConf.register_new_resolver("choices_help", choices_help, replace=True)


def before_imports(command: str) -> None:
    """Check the arguments of a command, and turn garbage collection off for its imports.

    What they make stays, and collecting takes a fifth of their time; :func:`after_imports` turns it on again.
    """
    check_arguments(command)
    gc.disable()


def after_imports() -> None:
    """Turn garbage collection on again, without the objects of the imports."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def check_arguments(command: str) -> None:
    """Make of ``sys.argv`` what Hydra reads; answer --help and its like; exit with a message for invalid settings.

    What has been checked is not checked again.

    Args:
        command: name of the command and of its file in conf/.
    """
    if _checked == [command, *sys.argv]:
        return
    files = [str(path) for path in own_files(sys.argv)]
    try:
        check_flags(command, sys.argv)
        named = with_recipe(command, with_name(command, sys.argv))
        sys.argv = with_quoted_text(command, with_own_files(named))
        check_command_line(command)
    except UserError as error:
        if full_errors():
            raise
        unnamed = ", ".join(path for path in files if not re.search(rf"(^|\s){re.escape(path)}\b", str(error)))
        sys.exit(f"error: {error}{f' Settings are also read from {unnamed}.' if unnamed else ''}")
    given = get_args_parser().parse_args()
    if any(getattr(given, flag, None) for flag in _SHOWN_BY_HYDRA):
        end_with_reader()
        hydra.main(**hydra_config(command))(lambda _: None)()
        sys.exit()
    _checked[:] = [command, *sys.argv]


def hydra_config(command: str) -> dict[str, Any]:
    """Return where Hydra finds the config of a command, as arguments of ``hydra.main``."""
    return {"version_base": "1.3", "config_path": str(CONF_DIR), "config_name": command}


def full_errors() -> bool:
    """Return whether to show errors with their traceback."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"
