"""Images per second of the default network in PyTorch and in each exported format, 512 x 512, batch 1, float32.

Run: python -m tests.benchmarks.formats
"""

import tempfile
from functools import partial
from pathlib import Path

import torch

from segunet.cli.overrides import composed
from segunet.formats.read import read_exported
from segunet.formats.write import FORMATS, traced
from segunet.training import build
from tests.benchmarks.timing import hardware, medians

ROUNDS = 5


def main() -> None:
    """Print images per second by format."""
    cfg = composed("train", ["data=voc2012", "model.encoder.weights=null"])
    net = build.net_from_config(cfg.model).eval()
    images = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    card = {**build.card(cfg, build.datamodule_from_config(cfg)), "ignore_index": 255, "input": "", "output": ""}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        nets = {"PyTorch": net.to(memory_format=torch.channels_last)}
        network = traced(net)
        for name, each in FORMATS.items():
            path = Path(folder) / f"net{each.suffix}"
            each.write(network, card, path, None)
            nets[name], _ = read_exported(path)
        seconds = medians({name: partial(each, images) for name, each in nets.items()}, ROUNDS)
    print(hardware())
    for name, median in seconds.items():
        print(f"{name:<13}{1 / median:6.2f} images/s")


if __name__ == "__main__":
    main()
