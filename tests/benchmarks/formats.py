"""Images per second of the default network in PyTorch and in each exported format, 512 x 512, batch 1.

In float32, PyTorch also in bfloat16, ONNX and OpenVINO also in 8 bits.

Run: python -m tests.benchmarks.formats
"""

import tempfile
from collections.abc import Callable
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
        nets: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"PyTorch": net.to(memory_format=torch.channels_last)}
        network = traced(net)
        nets["PyTorch, bfloat16"] = torch.autocast("cpu", torch.bfloat16)(net)
        for name, each in FORMATS.items():
            for bits, calibration in (("", None), (", 8 bits", [images.numpy()])):
                path = Path(folder) / f"{len(nets)}{each.suffix}"
                if calibration is None or name != "torch_export":
                    each.write(network, card, path, calibration)
                    nets[name + bits], _ = read_exported(path)
        seconds = medians({name: partial(each, images) for name, each in nets.items()}, ROUNDS)
    print(hardware())
    for name, median in seconds.items():
        print(f"{name:<18}{1 / median:6.2f} images/s  {seconds['PyTorch'] / median:5.2f} times")


if __name__ == "__main__":
    main()
