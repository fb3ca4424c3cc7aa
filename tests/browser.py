"""A headless Chromium through Playwright, where both are installed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def program() -> str | None:
    """Return the browser's path; None if it or Playwright is missing."""
    return next(filter(None, map(shutil.which, _NAMES)), None) if find_spec("playwright") else None


@contextmanager
def browser() -> Iterator["Browser"]:
    """Start the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])
