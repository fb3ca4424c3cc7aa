"""The environment of a run: software versions, hardware names, available memory."""

import os
import platform
import shutil
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from segunet.base.version import __version__

_MEMINFO = Path("/proc/meminfo")
_SHARED_MEMORY = Path("/dev/shm")
_PACKAGES = ("torchvision", "pytorch-lightning", "hydra-core", "albumentations", "numpy")


@dataclass(frozen=True)
class ControlGroup:
    """Where the kernel reports a container's memory.

    Attributes:
        folder: folder of the three files.
        limit, usage: names of files with a number of bytes; "max" or a number beyond all memory means no limit.
        droppable: the line of memory.stat with the bytes of cached file pages not used recently.
    """

    folder: Path
    limit: str
    usage: str
    droppable: str

    def room(self) -> int | None:
        """Return how many bytes the container may still use; None for no limit."""
        try:
            limit = (self.folder / self.limit).read_text().strip()
            usage = int((self.folder / self.usage).read_text())
            stat = (self.folder / "memory.stat").read_text().split()
        except (OSError, ValueError):
            return None
        droppable = dict(zip(stat[::2], stat[1::2], strict=False)).get(self.droppable, "0")
        return max(int(limit) - usage + int(droppable), 0) if limit.isdigit() else None


# The container that this process may run in: cgroup v2 and v1.
_CONTAINERS = (
    ControlGroup(Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    ControlGroup(
        Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    ),
)


def versions() -> dict[str, str]:
    """Return the versions of segunet, Python and their dependencies by name; CUDA's if there is a GPU."""
    found = {"segunet": __version__, "Python": platform.python_version(), "torch": str(torch.__version__)}
    found |= {package: version(package) for package in _PACKAGES}
    if torch.cuda.is_available():
        found["CUDA"] = str(torch.version.cuda)
    return found


def hardware() -> dict[str, str]:
    """Return the system, the processor, the cores that this process may use, and any CUDA GPUs."""
    found = {"system": platform.platform(terse=True), "processor": processor(), "cores": str(cores())}
    if torch.cuda.is_available():
        names = Counter(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        found["GPU"] = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())
    return found


def memory() -> int:
    """Return the bytes of memory available to a process: the free memory or, if unknown, the total.

    A lower container limit applies: the limit minus the memory in use, not counting cached file pages, which the
    kernel drops when it needs the space.
    """
    if _MEMINFO.is_file():
        free = proc_bytes(_MEMINFO, "MemAvailable")
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *(room for group in _CONTAINERS if (room := group.room()) is not None)])


def shared_memory() -> int | None:
    """Return the free bytes of the shared memory that loader processes pass batches in; None if unknown."""
    return shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def proc_bytes(file: Path, name: str) -> int:
    """Return the bytes that a ``Name:   123 kB`` line of a file in /proc states; kB means 1,024 bytes."""
    words = file.read_text().split()
    return 1024 * int(words[words.index(f"{name}:") + 1])


def processor() -> str:
    """Return the processor's name as Linux reports it, elsewhere as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
