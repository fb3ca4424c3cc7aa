"""What --help shows."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from segunet import check_data, convert, evaluate, export, generate, predict, summary, train
from segunet.base.paths import CONF_DIR
from segunet.cli.help import comments_of, settings_help
from segunet.demo import __main__ as demo
from segunet.report import __main__ as report
from tests.commands import Command

# All but what Hydra builds, and convert's choice of names, which is a group.
KEY = re.compile(r" *(?!_target_|_partial_|from:)(\w+):")
FILE = """\
# On the whole.
#
# More.
defaults:
  - base
  - _self_
one: 1
# On two,
# in two lines.
two:
  # On three.
  three: [1, 2]
  four: 4
# On five.
five: null
"""


def unexplained(settings: str) -> list[str]:
    """Return the lines of settings without a comment above."""
    pairs = [pair for pair in itertools.pairwise(["", *settings.splitlines()]) if KEY.match(pair[1])]
    return [setting for above, setting in pairs if not above.lstrip().startswith("#")]


def test_comments_belong_to_the_setting_below_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "own.yaml").write_text(FILE)
    (tmp_path / "group" / "base.yaml").write_text(
        "# The base.\n_target_: a.B\n# On one.\none: 0\n# Not on five.\nfive: 0\n"
    )
    monkeypatch.setattr("segunet.cli.help.CONF_DIR", tmp_path)
    assert comments_of("group", "own") == {
        "group": ["# On the whole."],
        "group.one": ["# On one."],
        "group.two": ["# On two,", "# in two lines."],
        "group.two.three": ["# On three."],
        "group.five": ["# On five."],
    }
    assert comments_of("group", "none") == {}


def test_every_setting_of_every_choice_is_explained() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for path in sorted(CONF_DIR.glob("*/*.yaml")):
            group, root = path.parent.name, {"from": "convert"}.get(path.parent.name, "train")
            root = "evaluate" if path.stem == "from_checkpoint" else root
            cfg = compose(root, [f"{group}={path.stem}", f"hydra.job.config_name={root}"], return_hydra_config=True)
            assert unexplained(settings_help(cfg)) == [], path


@pytest.mark.parametrize(
    "module", [train, evaluate, predict, check_data, export, summary, convert, generate, report, demo]
)
def test_the_settings_are_all_there_and_explained(run: Command, module: object) -> None:
    help_text = run(module, "--help").output
    assert help_text.count("python -m segunet.") > 1
    settings = help_text[help_text.index("Every setting") :]
    settings = settings[settings.index("\n") : settings.index("--cfg job")]
    assert yaml.safe_load(settings) == yaml.safe_load(run(module, "--cfg", "job").output)
    assert unexplained(settings) == []
    assert "every value below" not in settings  # the file's head is not about the entries of lists


def test_it_follows_the_choices(run: Command) -> None:
    text = run(train, "optimizer=sgd", "optimizer.lr=0.5", "data=custom", "--help").output
    assert "optimizer=adam|adamw|adamw_scratch|sgd*" in text
    assert "lr: 0.5" in text
    assert "# Your own folder in VOC's layout." in text
    assert "# side in pixels of the square crop" in text  # from the docstring
    assert "``" not in text
