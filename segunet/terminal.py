"""What is said to the user: one console, and log lines that go to it and to the run's log file."""

import logging
import warnings
from pathlib import Path

from rich.console import Console

console = Console()


class _ConsoleHandler(logging.Handler):
    """Print a record's message as it is, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), soft_wrap=True, highlight=False, markup=False)


def setup_logging() -> None:
    """Show segunet's messages; of the libraries, only what warns, and nothing that a user cannot act on."""
    root = logging.getLogger("segunet")
    if not root.handlers:
        root.addHandler(_ConsoleHandler())
    root.setLevel(logging.INFO)
    root.propagate = False
    for name in (
        "pytorch_lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "pytorch_lightning.utilities.rank_zero",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning's advice about loader workers: the number is the user's choice (data.num_workers).
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def log_to_file(path: Path) -> None:
    """Append segunet's messages to ``path`` as well."""
    logging.getLogger("segunet").addHandler(logging.FileHandler(path, encoding="utf-8"))
