"""What a run was made with: versions of the software, names of the hardware."""

import os
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch

from segunet.version import __version__

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


def _processor() -> str:
    """Return the processor's name as Linux says it, or as Python does elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
