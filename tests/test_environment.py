"""What a run was made with."""

import os
import platform
import re

import torch

from segunet.environment import hardware, versions
from segunet.version import __version__


def test_versions_are_those_in_use() -> None:
    found = versions()
    assert found["segunet"] == __version__
    assert found["Python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["pytorch-lightning"].startswith("2.6")
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())
    assert ("CUDA" in found) == torch.cuda.is_available()


def test_the_hardware_has_a_name() -> None:
    found = hardware()
    assert found["system"].startswith(platform.system().replace("Darwin", "macOS"))
    assert len(found["processor"]) > 2
    assert 1 <= int(found["cores"]) <= (os.cpu_count() or 1)
    assert ("GPU" in found) == torch.cuda.is_available()
