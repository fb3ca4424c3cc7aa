"""What is said to the user."""

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console
from rich.table import Table

from segunet.base import terminal
from segunet.base.terminal import setting

PATHS = [
    "runs/2026-01-01_a.b/best.ckpt",
    "/a (1)/{b},[c]/d=e.ckpt",
    "it's",
    'say "hi"',
    "back\\slash",
    'end\\"',
    "ü é/道",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_setting_that_is_printed_can_be_typed(path: str) -> None:
    (typed,) = shlex.split(setting("checkpoint", path))
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert override.key_or_group == "checkpoint"
    assert override.value() == path


def test_a_plain_path_is_not_quoted() -> None:
    assert setting("resume", PATHS[0]) == f"resume={PATHS[0]}"


@pytest.mark.parametrize("width", [20, 200])
def test_a_table_is_whole_in_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=shown, width=width))
    table = Table()
    for heading in ("class", "accuracy", "pixels"):
        table.add_column(heading)
    table.add_row("swimming pool", "0.1234", "12,345,678")
    terminal.show_table(table)
    lines = shown.getvalue().splitlines()
    assert len(lines) == 5
    assert {len(line) for line in lines} == {len(lines[0])}
    for text in ("swimming pool", "0.1234", "12,345,678", "accuracy"):
        assert text in shown.getvalue()


GOES_ON = """
import sys
from pathlib import Path
from segunet.base.terminal import console

for _ in range(10_000):
    console.print("a long line " * 9)
Path(sys.argv[1]).write_text("all done")
"""


def test_a_command_goes_on_when_what_reads_its_output_has_ended(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", GOES_ON, str(tmp_path / "result")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()
    assert (tmp_path / "result").read_text() == "all done"
