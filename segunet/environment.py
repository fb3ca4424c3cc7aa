"""What a run was made with: versions of the software, names of the hardware, the memory there is."""

import os
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch

from segunet.version import __version__

_MEMINFO = Path("/proc/meminfo")
# Of the container that this process may be in: cgroup v2, and v1.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_PACKAGES = ("torchvision", "pytorch-lightning", "hydra-core", "albumentations", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of segunet, Python and what they stand on, by name; CUDA's where there is a GPU."""
    found = {"segunet": __version__, "Python": platform.python_version(), "torch": str(torch.__version__)}
    found |= {package: version(package) for package in _PACKAGES}
    if torch.cuda.is_available():
        found["CUDA"] = str(torch.version.cuda)
    return found


def hardware() -> dict[str, str]:
    """Return the system, the processor, the cores that this process may use, and the CUDA GPUs if there are any."""
    found = {"system": platform.platform(terse=True), "processor": _processor(), "cores": str(_cores())}
    if torch.cuda.is_available():
        names = Counter(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        found["GPU"] = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())
    return found


def memory() -> int:
    """Return the bytes of memory that a process can have: what is free or, where that is not known, what there is.

    A container's limit counts where it is lower.
    """
    if _MEMINFO.is_file():
        free = proc_bytes(_MEMINFO, "MemAvailable")
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (path.read_text().strip() for path in _MEMORY_LIMITS if path.is_file())
    return min([free, *(int(limit) for limit in limits if limit.isdigit())])  # "max": no limit


def proc_bytes(file: Path, name: str) -> int:
    """Return the bytes that a ``Name:   123 kB`` line of a file in /proc tells; the kernel means 1,024 bytes."""
    words = file.read_text().split()
    return 1024 * int(words[words.index(f"{name}:") + 1])


def _processor() -> str:
    """Return the processor's name as Linux says it, or as Python does elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
