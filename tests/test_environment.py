"""What a run was made with."""

import os
import platform
import re
from pathlib import Path

import pytest
import torch

from segunet import environment
from segunet.environment import hardware, memory, versions
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


def test_the_memory_is_what_is_free_or_what_a_container_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [tmp_path / "none", tmp_path / "v2", tmp_path / "v1"]
    monkeypatch.setattr(environment, "_MEMORY_LIMITS", limits)
    limits[1].write_text("max\n")
    limits[2].write_text("9223372036854771712\n")  # cgroup v1's word for no limit
    assert 0 < memory() <= there
    limits[1].write_text("65536\n")
    assert memory() == 65536
    monkeypatch.setattr(environment, "_MEMORY_LIMITS", [])
    monkeypatch.setattr(environment, "_MEMINFO", tmp_path / "none")  # not Linux
    assert memory() == there
