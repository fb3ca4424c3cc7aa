"""Output for the user: the console, its progress bar, and log messages to the console and the run's log file."""

import io
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class _Console(Console):
    """Rich's, which exits when what reads its output has ended, as ``| head`` does; a training must not."""

    def on_broken_pipe(self) -> None:
        """Go on in silence."""
        self.quiet = True
        with suppress(io.UnsupportedOperation), open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what is buffered


console = _Console()
_WIDEST = 1000  # characters

_IGNORED_WARNINGS = (
    # The number of loader processes is the user's choice (data.num_workers).
    ".*does not have many workers.*",
    # Frozen stages (model.encoder.frozen_stages) are in eval mode on purpose.
    ".*module.s. in eval mode.*",
    # A resumed run continues in its own folder.
    ".*exists and is not empty.*",
    # Lightning does not know that the sampler begins where the epoch was left.
    ".*your dataloader is not resumable.*",
    # Lightning 2.6 uses a deprecated name of torch's pytree.
    ".*isinstance.treespec, LeafSpec.*is deprecated.*",
)


def progress_bar(*columns: TextColumn) -> Progress:
    """Return a progress bar; without a terminal it prints nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def setting(name: str, value: object) -> str:
    """Return ``name=value`` as it can be typed: quoted for Hydra and the shell if needed."""
    if value is None or isinstance(value, bool | Mapping | list | tuple):
        return shlex.quote(f"{name}={hydra_text(value)}")
    text = str(value)
    if re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        return f"{name}={text}"
    return shlex.quote(f"{name}={hydra_text(text)}")


def hydra_text(value: Any) -> str:
    """Return a plain value as Hydra reads it; texts are quoted."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{hydra_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(hydra_text, value)) + "]"
    if isinstance(value, str):
        escaped = re.sub(r'(\\*)("|\Z)', _doubled, value)  # Hydra treats a backslash as an escape only before a quote
        return f'"{escaped}"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _doubled(found: re.Match[str]) -> str:
    """Return backslashes before a quote doubled, and the quote escaped."""
    slashes, end = found.groups()
    return slashes * 2 + ('\\"' if end else "")


def show_table(table: Table) -> None:
    """Print a table at its own width; a narrower terminal wraps its lines, but no name or number in it is cut."""
    table.width = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    console.print(table, crop=False)


class _ConsoleHandler(logging.Handler):
    """Print a record's message, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).encode(errors="replace").decode()  # not every file name is UTF-8
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def setup_logging(quiet: bool = False) -> None:
    """Show segunet's messages and the libraries' warnings, except those that a user cannot act on.

    Args:
        quiet: show only warnings of segunet; for all but the first process of a distributed run.
    """
    root = logging.getLogger("segunet")
    if not root.handlers:
        root.addHandler(_ConsoleHandler())
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    root.propagate = False
    for name in (
        "pytorch_lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "pytorch_lightning.utilities.rank_zero",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def log_to_file(path: Path) -> None:
    """Also append segunet's messages to ``path``, and no longer to the file of an earlier run."""
    close_log_files()
    logging.getLogger("segunet").addHandler(logging.FileHandler(path, encoding="utf-8"))


def close_log_files() -> None:
    """Close the log files that :func:`log_to_file` opened."""
    root = logging.getLogger("segunet")
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
