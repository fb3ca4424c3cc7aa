"""Photograph the top of a run's report.html, for the README.

Run: python -m tests.report_image RUN_DIR OUTPUT.png
"""

import sys
from pathlib import Path

from segunet.report.page import PAGE
from tests.browser import browser


def photograph(run_dir: Path, output: Path) -> None:
    """Write what a desktop's window shows of ``run_dir``'s report to ``output``."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
        page.goto((run_dir / PAGE).absolute().as_uri())
        page.screenshot(path=output)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.report_image RUN_DIR OUTPUT.png")
    photograph(Path(sys.argv[1]), Path(sys.argv[2]))
