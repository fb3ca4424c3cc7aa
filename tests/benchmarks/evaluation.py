"""Scoring a split at the images' own size: ``segunet.evaluate``'s loop against one image at a time with torchmetrics.

Both take the same checkpoint's network. The peer's loop is what torchmetrics' documentation shows: Pillow, a float
image, a forward pass in the default memory format, and the same scores in a MetricCollection.

Run: python -m tests.benchmarks.evaluation CHECKPOINT [IMAGES]
"""

import itertools
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from segunet.data.datamodule import VOCDataModule
from segunet.data.voc import Pair
from segunet.inference.checkpoint import load_checkpoint
from segunet.inference.precision import default_precision
from segunet.training.build_scoring import data_of
from segunet.training.scoring import ScoringTask
from tests.benchmarks.timing import hardware, medians

IMAGES, ROUNDS = 48, 3


class Peer(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images uint8 (3, H, W) and masks int64 (H, W)."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = np.array(Image.open(self.pairs[index].image).convert("RGB"))
        mask = np.array(Image.open(self.pairs[index].mask)).astype(np.int64)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)


def main() -> None:
    """Print images per second of both, and their mean IoU."""
    path, *number = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    checkpoint = load_checkpoint(Path(path))
    names, ignore = checkpoint.class_names, checkpoint.data.ignore_index
    data = VOCDataModule(**data_of(checkpoint, OmegaConf.create()))
    data.setup("test")
    data.val_pairs = list(itertools.islice(data.val_pairs, int(number[0]) if number else IMAGES))
    task = ScoringTask(checkpoint.net, len(names), ignore)
    contiguous = load_checkpoint(Path(path)).net.eval().to(memory_format=torch.contiguous_format)
    scores: dict[str, float] = {}

    def ours() -> None:
        trainer = pl.Trainer(
            accelerator="cpu", precision=default_precision("cpu"), logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.test(task, datamodule=data, verbose=False)
        assert task.scores is not None
        scores["segunet"] = float(task.scores.miou or 0)

    @torch.inference_mode()
    def peer() -> None:
        options: Any = {"num_classes": len(names), "ignore_index": ignore}
        metrics = MetricCollection(
            {
                "miou": MulticlassJaccardIndex(**options),
                "fwiou": MulticlassJaccardIndex(**options, average="weighted"),
                "iou": MulticlassJaccardIndex(**options, average="none"),
                "accuracy": MulticlassAccuracy(**options, average="micro"),
                "mean accuracy": MulticlassAccuracy(**options),
                "confusion": MulticlassConfusionMatrix(**options),
            }
        )
        for images, masks in DataLoader(Peer(data.val_pairs), num_workers=data.num_workers):
            metrics.update(contiguous(images.float()).argmax(dim=1), masks)
        scores["torchmetrics"] = float(metrics.compute()["miou"])

    times = medians({"segunet": ours, "torchmetrics": peer}, ROUNDS)
    print(f"{len(data.val_pairs)} images of {data.root}, {default_precision('cpu')} ({hardware()})")
    for name, seconds in times.items():
        print(f"  {name:14s} {len(data.val_pairs) / seconds:6.2f} images/s   mIoU {scores[name]:.4f}")
    print(f"  segunet is {times['torchmetrics'] / times['segunet']:.2f} times as fast")


if __name__ == "__main__":
    main()
