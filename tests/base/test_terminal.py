"""What is said to the user."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

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
