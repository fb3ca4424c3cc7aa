"""What --help shows."""

import itertools
import re

import pytest
import yaml

from segunet import check_data, convert, evaluate, export, predict, summary, train
from segunet.help import comments_of
from tests.commands import Command

# All but what Hydra builds, and convert's choice of names, which is a group.
KEY = re.compile(r" *(?!_target_|_partial_|from:)(\w+):")
FILE = """\
# On the whole.
#
# More.
_target_: a.B
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


def test_comments_belong_to_the_setting_below_them() -> None:
    assert comments_of(FILE, "group") == {
        "group": ["# On the whole."],
        "group.two": ["# On two,", "# in two lines."],
        "group.two.three": ["# On three."],
        "group.five": ["# On five."],
    }
    assert comments_of(FILE)["two.three"] == ["# On three."]


@pytest.mark.parametrize("module", [train, evaluate, predict, check_data, export, summary, convert])
def test_the_settings_are_all_there_and_explained(run: Command, module: object) -> None:
    help_text = run(module, "--help").output
    assert help_text.count("python -m segunet.") > 1
    settings = help_text[help_text.index("Every setting") :]
    settings = settings[settings.index("\n") : settings.index("--cfg job")]
    assert yaml.safe_load(settings) == yaml.safe_load(run(module, "--cfg", "job").output)
    before = ["", *settings.splitlines()]
    pairs = [pair for pair in itertools.pairwise(before) if KEY.match(pair[1])]
    assert [setting for above, setting in pairs if not above.lstrip().startswith("#")] == []


def test_it_follows_the_choices(run: Command) -> None:
    text = run(train, "optimizer=sgd", "optimizer.lr=0.5", "data=custom", "--help").output
    assert "optimizer=adam|adamw|sgd*" in text
    assert "lr: 0.5" in text
    assert "# Your own folder in VOC's layout." in text
    assert "# side in pixels of the square crop" in text  # from the docstring
    assert "``" not in text
