"""The examples in the docstrings run, on a real checkpoint and a real image."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import segunet


def test_every_example_gives_what_it_says(trained: Path, denoiser: Path, tmp_path: Path) -> None:
    names = {
        "checkpoint": trained / "checkpoints" / "best.ckpt",
        "denoiser": denoiser / "checkpoints" / "best.ckpt",
        "image": trained / "voc" / "JPEGImages" / "val_1.jpg",
        "overlay": tmp_path / "overlay.png",
    }
    tried = 0
    for module in pkgutil.walk_packages(segunet.__path__, "segunet."):
        results = doctest.testmod(importlib.import_module(module.name), extraglobs=names)
        assert results.failed == 0, module.name
        tried += results.attempted
    assert tried >= 7
    assert (tmp_path / "overlay.png").is_file()
