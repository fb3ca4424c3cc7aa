"""Run a command of segunet in this process, as its user would type it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest


@dataclass
class Result:
    """What a command left: its exit status, what it printed, and the text of its error."""

    status: int
    output: str
    error: str


Command = Callable[..., Result]


def make_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs ``module.main`` with overrides."""

    def run(module: ModuleType, *overrides: str) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *overrides])
        status, error = 0, ""
        try:
            module.main()
        except SystemExit as stop:
            error = stop.code if isinstance(stop.code, str) else ""
            status = 1 if error else int(stop.code or 0)
        printed = capsys.readouterr()
        return Result(status, printed.out, error or printed.err)

    return run
