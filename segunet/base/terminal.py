"""What is said to the user: one console, its progress bar, and log lines that go to it and to the run's log file."""

import logging
import re
import shlex
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console()

_NOT_FOR_USERS = (
    # Loader processes are the user's choice (data.num_workers).
    ".*does not have many workers.*",
    # Frozen stages (model.encoder.frozen_stages) are in eval mode on purpose.
    ".*module.s. in eval mode.*",
    # A resumed run goes on in its own folder.
    ".*exists and is not empty.*",
    # Lightning 2.6 calls an older name of torch's pytree.
    ".*isinstance.treespec, LeafSpec.*is deprecated.*",
)


def progress_bar(*columns: TextColumn) -> Progress:
    """Return a bar for a terminal; elsewhere it prints nothing."""
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
    """Return ``name=value`` as it is to be typed: quoted for Hydra and for the shell where they need it."""
    text = str(value)
    if re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        return f"{name}={text}"
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)  # Hydra: a backslash counts as one only before a quote
    return shlex.quote(f'{name}="{escaped}"')


class _ConsoleHandler(logging.Handler):
    """Print a record's message as it is, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).encode(errors="replace").decode()  # not every name of a file is UTF-8
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def setup_logging(quiet: bool = False) -> None:
    """Show segunet's messages; of the libraries, only what warns, and nothing that a user cannot act on.

    Args:
        quiet: only segunet's warnings; for all but the first process of a distributed run.
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
    for message in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)


def log_to_file(path: Path) -> None:
    """Append segunet's messages to ``path`` as well, and no longer to an earlier run's file."""
    close_log_files()
    logging.getLogger("segunet").addHandler(logging.FileHandler(path, encoding="utf-8"))


def close_log_files() -> None:
    """Write no more to the files of :func:`log_to_file`."""
    root = logging.getLogger("segunet")
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
