"""The program ``segunet``, which runs the commands."""

import signal
import subprocess
import sys

import pytest

from segunet import __main__ as program
from segunet.base.paths import CONF_DIR
from segunet.base.version import __version__


def segunet(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "segunet", *words], capture_output=True, text=True, check=False)


def test_its_help_has_a_line_for_each_command() -> None:
    shown = segunet("--help").stdout
    assert shown == segunet().stdout == program.help_text() + "\n"
    commands = {path.stem for path in CONF_DIR.glob("*.yaml")} - {"command"}
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines()[2:-3])
    assert lines.keys() == commands
    assert lines["evaluate"] == "Score a checkpoint."
    assert all(text.endswith(".") and len(text) > 10 for text in lines.values())
    assert max(map(len, shown.splitlines())) < 100


def test_it_tells_its_own_version() -> None:
    assert segunet("--version").stdout == f"segunet {__version__}\n"


def test_a_command_gets_the_words_after_its_name() -> None:
    for words in (("predict", "tta"), ("report", "nowhere")):
        result = segunet(*words)
        assert result.returncode == 1
        alone = subprocess.run(
            [sys.executable, "-m", f"segunet.{words[0]}", *words[1:]], capture_output=True, text=True, check=False
        )
        assert result.stderr == alone.stderr
        assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("typed", "said"), [("trian", "Did you mean train?"), ("--checkpoint", "no command --checkpo")]
)
def test_an_unknown_command_is_refused(typed: str, said: str) -> None:
    result = segunet(typed)
    assert result.returncode == 1
    assert said in result.stderr


@pytest.mark.parametrize("words", [["--help"], ["--complete"], ["train", "--help"], ["--version"]])
def test_what_is_only_shown_ends_in_silence_with_its_reader(words: list[str]) -> None:
    command = [sys.executable, "-m", "segunet", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == -signal.SIGPIPE
