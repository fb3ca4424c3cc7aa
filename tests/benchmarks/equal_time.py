"""How good each network is after the same time: the class mean IoU over the wall clock.

segunet's recipe voc2012_cpu beside segmentation_models_pytorch's Unet("resnet50") and the article's network, each
trained for as many steps as the minutes allow, at full length of its learning rate schedule. All have the same images,
weights, augmentation, loss, optimizer, learning rates, weight averaging and validation, those of the recipe, and run in
channels_last through segunet.train, which is faster than these networks are on their own. What differs is the network:
segunet's has its first stages frozen, a context module and the stride where the weights were trained with it.
segmentation_models_pytorch's ends at layer3 as segunet's does (encoder_depth=4), as the weights do.

Run: python -m tests.benchmarks.equal_time DATA_ROOT WEIGHTS OUTPUT_FOLDER [MINUTES]
Writes OUTPUT_FOLDER/<network>/, a run folder each, and OUTPUT_FOLDER/curves.json. The number of steps follows from a
short training of each network first, which is not part of its time. Nothing else may run on the machine meanwhile. A
network that is in curves.json already is not trained again, so that a stopped call can go on.
"""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from segunet.base.trust import TRUSTED_VARIABLE
from segunet.cli.overrides import composed
from segunet.train import built, fit, new_run
from tests.benchmarks.class_mean import class_mean
from tests.benchmarks.timing import hardware

CLASSES = ["background", "cat", "cow", "dog", "horse", "person", "sheep"]
NETWORKS = {
    "segunet": ["model.encoder.stride_in_1x1=true"],
    "segmentation_models_pytorch": ["model=smp"],
    "article": ["model=article"],
}
_TRIAL = 24  # steps that are timed
_RESERVE = 0.98  # of the time is planned for


class SmpUnet(nn.Module):
    """segmentation_models_pytorch's Unet with segunet's interface: uint8 images of any size (N, 3, H, W) to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int, weights: str | None, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = smp.Unet(
            "resnet50", encoder_depth=4, encoder_weights=None, decoder_channels=(256, 128, 64, 32), classes=num_classes
        )
        if weights is not None:
            self.net.encoder.load_state_dict(torch.load(weights, weights_only=True), strict=False)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def encoder(self) -> nn.Module:
        """The encoder, for its own learning rate and for freezing."""
        encoder: nn.Module = self.net.encoder
        return encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K, H, W); the images are padded to a multiple of the stride."""
        height, width = images.shape[-2:]
        normalized = (images - self.mean) / self.std
        logits: Tensor = self.net(F.pad(normalized, (0, -width % 16, 0, -height % 16)))
        return logits[..., :height, :width]


class Clock(pl.Callback):
    """Notes when each step and validation ended, and the score."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.images = 0  # of the training list
        self.steps: list[float] = []
        self.validation_began = 0.0
        self.validation_seconds = 0.0
        self.curve: list[tuple[float, float]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the number of images."""
        self.images = len(trainer.datamodule.train_pairs)  # type: ignore[attr-defined]

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.steps.append(time.monotonic())

    def on_validation_start(self, *_: Any) -> None:
        """Note the time."""
        self.validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time and the mean of the classes' IoU."""
        self.validation_seconds = time.monotonic() - self.validation_began
        scores = [float(trainer.callback_metrics[f"val/iou/{name}"]) for name in CLASSES]
        self.curve.append((time.monotonic() - self.began, statistics.mean(scores)))


def recipe(network: str, root: str, weights: str, run_dir: Path) -> DictConfig:
    """Return the config of a training."""
    cfg = composed(
        "train",
        [
            "experiment=voc2012_cpu",
            f"data.root={root}",
            f"model.encoder.weights={weights}",
            f"run_dir={run_dir}",
            "trainer.check_val_every_n_epoch=1",
            "trainer.num_sanity_val_steps=0",
            *NETWORKS[network],
        ],
    )
    if network == "segmentation_models_pytorch":
        own = {"_target_": "tests.benchmarks.equal_time.SmpUnet", "weights": weights}
        cfg.model = OmegaConf.create(own | {name: cfg.model[name] for name in ("num_classes", "mean", "std")})
    return cfg


def trained(cfg: DictConfig) -> Clock:
    """Train in this process, and return when each step and validation ended."""
    os.environ[TRUSTED_VARIABLE] = "tests"
    clock = Clock()
    start = new_run(cfg)
    parts = built(start)
    parts.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    fit(start, parts)
    return clock


def steps_in(minutes: float, network: str, root: str, weights: str, folder: Path) -> int:
    """Return how many steps two short trainings say that the minutes allow, with a validation an epoch."""
    cfg = recipe(network, root, weights, folder / network)
    of_epoch, frozen_epochs = cfg.trainer.limit_train_batches, cfg.callbacks.freeze_encoder_epochs
    left, steps = _RESERVE * 60 * minutes, 0.0
    for freeze, most in ((1, frozen_epochs), (0, math.inf)):  # frozen epochs are faster
        rest, step, validation, of_list = trial(network, root, weights, folder, freeze)
        of_epoch = int(of_list * of_epoch) if isinstance(of_epoch, float) else of_epoch
        left -= 0 if steps else rest
        epochs = min(most, left / (of_epoch * step + validation))
        left -= epochs * (of_epoch * step + validation)
        steps += epochs * of_epoch
    return max(1, int(steps))


def trial(network: str, root: str, weights: str, folder: Path, freeze: int) -> tuple[float, float, float, int]:
    """Train a few steps; return the seconds of everything else, a step and a validation, and the batches of a list."""
    cfg = recipe(network, root, weights, folder / f"{network}-trial-{freeze}")
    cfg.callbacks.freeze_encoder_epochs = freeze
    cfg.trainer.max_epochs, cfg.trainer.limit_train_batches = 1, _TRIAL
    began = time.monotonic()
    clock = trained(cfg)
    spent = time.monotonic() - began
    step = statistics.median(later - earlier for earlier, later in pairwise(clock.steps))
    rest = spent - (clock.steps[-1] - clock.began) - clock.validation_seconds
    return rest, step, clock.validation_seconds, clock.images // cfg.data.batch_size


def compete(network: str, root: str, weights: str, folder: Path, minutes: float) -> dict[str, Any]:
    """Train a network for the minutes and return its steps, seconds, score and curve."""
    cfg = recipe(network, root, weights, folder / network)
    cfg.trainer.max_steps = steps = steps_in(minutes, network, root, weights, folder)
    cfg.trainer.max_epochs = steps  # more than enough
    began = time.monotonic()
    clock = trained(cfg)
    seconds = time.monotonic() - began
    best = class_mean(folder / network, CLASSES)
    return {"steps": steps, "seconds": seconds, "best": best, "curve": clock.curve}


def main(root: str, weights: str, output: str, minutes: float = 30) -> None:
    """Train the networks one after the other, each in a process of its own, and write and print how good they get."""
    folder = Path(output)
    done = folder / "curves.json"
    results = json.loads(done.read_text(encoding="utf-8"))["networks"] if done.exists() else {}
    for network in [each for each in NETWORKS if each not in results]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            results[network] = fresh.submit(compete, network, root, weights, folder, minutes).result()
        curves = {"hardware": hardware(), "minutes": minutes, "networks": results}
        done.write_text(json.dumps(curves, indent=1), encoding="utf-8")
    print(f"mean IoU of {', '.join(CLASSES)} after {minutes:g} minutes ({hardware()})")
    for network, result in results.items():
        print(f"{network:30s}{result['best']:.4f}  {result['steps']} steps, {result['seconds'] / 60:.1f} min")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3], *map(float, sys.argv[4:]))
