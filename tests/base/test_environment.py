"""What a run was made with."""

import os
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segunet.base import environment
from segunet.base.environment import hardware, memory, versions
from segunet.base.version import __version__


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


def test_the_memory_is_what_is_free_or_what_a_container_may_still_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    groups = [replace(group, folder=tmp_path / str(number)) for number, group in enumerate(environment._CONTAINERS)]
    monkeypatch.setattr(environment, "_CONTAINERS", groups)
    assert 0 < memory() <= there
    for group in groups:
        group.folder.mkdir()
        for limit, usage, stat, room in (
            ("max", 700, "inactive_file 100\n", None),
            ("9223372036854771712", 700, "inactive_file 100\n", None),  # cgroup v1's word for no limit
            ("65536", 60_000, f"anon 59000\n{group.droppable} 1000\nactive_file 7\n", 6536),
            ("65536", 70_000, "anon 70000\n", 0),
        ):
            (group.folder / group.limit).write_text(f"{limit}\n")
            (group.folder / group.usage).write_text(f"{usage}\n")
            (group.folder / "memory.stat").write_text(stat)
            assert memory() == room if room is not None else 65536 < memory() <= there
        (group.folder / "memory.stat").unlink()
        assert memory() > 65536
    monkeypatch.setattr(environment, "_MEMINFO", tmp_path / "none")  # not Linux
    assert memory() == there
