"""Completion of the command line, as bash asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segunet.__main__ import _COMMANDS
from segunet.base.paths import CONF_DIR
from segunet.cli.completion import completions


def complete(line: str) -> list[str]:
    return completions(line, _COMMANDS)


def test_commands_settings_and_choices() -> None:
    assert complete("segunet ex") == ["export"]
    assert complete("segunet ") == _COMMANDS
    assert complete("segunet train model=un") == ["unet_resnet50", "unet_resnet50_scratch", "unet_timm"]
    assert complete("segunet train trainer.max_e") == ["trainer.max_epochs="]
    assert complete("segunet train model.encoder.stride") == ["model.encoder.stride_in_1x1="]
    assert complete("segunet train data/tr") == ["data/transform="]
    assert complete("segunet train data/transform=aer") == ["aerial"]
    assert complete("segunet train logger=w") == ["wandb"]
    assert complete("segunet train logger.") == [
        f"logger.tensorboard.{name}=" for name in ("default_hp_metric", "name", "version")
    ]
    assert complete("segunet  train logger=[csv,wandb] logger.wandb.o") == ["logger.wandb.offline="]
    assert complete("segunet export float") == ["float_input="]
    assert complete("segunet train seed=0 resu") == ["resume="]


def test_the_settings_are_those_of_what_is_chosen() -> None:
    assert complete("segunet train model.w") == []
    assert complete("segunet train model=classic_unet model.w") == ["model.widths="]


@pytest.mark.parametrize("line", ["segunet", "segunet nothing x", "segunet train =", "x y z"])
def test_what_cannot_be_completed_is_left(line: str) -> None:
    assert complete(line) in ([], _COMMANDS)


def test_every_command_has_settings() -> None:
    for command in _COMMANDS:
        assert complete(f"segunet {command} "), command


def test_bash_completes_it(tmp_path: Path) -> None:
    program = tmp_path / "segunet"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m segunet "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"COMP_LINE": "segunet train model=art more", "COMP_POINT": "23"}
    shown = subprocess.run(
        [program, "--complete", "segunet", "art", "="],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        cwd=CONF_DIR.parent,
    )
    assert shown.stdout == "article\n"
    assert shown.stderr == ""
