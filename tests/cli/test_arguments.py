"""What a command answers before it imports what it works with."""

import json
import subprocess
import sys

import pytest

from segunet import __main__ as program

# Runs each command as python -m does, with one word, and prints its exit status and what it has imported of the slow.
ALONE = """
import contextlib, io, json, runpy, sys

word, *commands = sys.argv[1:]
answers = {}
for command in commands:
    sys.argv = [command, word]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            runpy.run_module(f"segunet.{command}", run_name="__main__")
        except SystemExit as end:
            answers[command] = end.code or printed.getvalue()
    assert not {"torch", "pytorch_lightning", "cv2", "albumentations"} & set(sys.modules), command
print(json.dumps(answers))
"""


def answers(word: str) -> dict[str, str]:
    """Return what each command says, by name; none may import torch and its like for that."""
    command = [sys.executable, "-c", ALONE, word, *program._COMMANDS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said.keys() == set(program._COMMANDS)
    return dict(said)


def test_help_is_shown_before_torch_is_imported() -> None:
    for command, text in answers("--help").items():
        assert "Groups and their choices" in text or "There are no groups." in text, command


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nothing=1", "error: {} has no setting nothing."),
        ("--checkpoint=x", "error: --checkpoint=x: settings are typed without dashes"),
        ("a=[", "error: a=[ cannot be parsed as a setting."),
    ],
)
def test_a_wrong_setting_is_refused_before_torch_is_imported(word: str, said: str) -> None:
    for command, text in answers(word).items():
        assert text.startswith(said.format(command)), text
