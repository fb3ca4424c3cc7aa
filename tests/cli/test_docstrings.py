"""Docstrings of classes that are not imported."""

import inspect
import re
from pathlib import Path

from hydra.utils import get_class

from segunet.base.paths import CONF_DIR
from segunet.cli.docstrings import docstrings


def targets() -> set[str]:
    """Return the classes of segunet that conf/ names."""
    texts = [path.read_text(encoding="utf-8") for path in Path(CONF_DIR).rglob("*.yaml")]
    return {name for text in texts for name in re.findall(r"_target_: (segunet\.[\w.]+)", text)}


def test_they_are_those_of_the_classes_and_their_bases() -> None:
    assert len(targets()) > 15
    for target in targets():
        bases = [each for each in reversed(get_class(target).__mro__) if each.__module__.startswith("segunet.")]
        assert list(docstrings(target)) == [inspect.cleandoc(each.__doc__ or "") for each in bases], target


def test_what_is_no_class_of_segunet_has_none() -> None:
    for target in ("", "UNet", "torch.optim.SGD", "segunet.models.unet.NoClass", "segunet.nowhere.UNet", "segunet"):
        assert list(docstrings(target)) == [], target
