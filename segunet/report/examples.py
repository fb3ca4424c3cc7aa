"""The images that a network does best, middling and worst on, predicted once more to be shown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn

from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import Batch, EvalDataset
from segunet.images.drawing import ImageArray, at_size_of, differences, overlay
from segunet.images.resizing import resize_long_side
from segunet.inference.logits import naming
from segunet.inference.tiling import Inference

_EACH = 3  # images of a kind
_LONG_SIDE = 256  # pixels of a panel, at the most


@dataclass(frozen=True)
class Example:
    """An image to be shown.

    Attributes:
        name: its name.
        miou: its mean IoU, 0..1.
        panels: image, truth, prediction and where they differ, by these names: uint8 (H, W, 3) each, small.
    """

    name: str
    miou: float
    panels: dict[str, ImageArray]


def chosen(image_miou: Mapping[str, float]) -> dict[str, list[str]]:
    """Return the names of the best, the median and the worst images, three of each and no image twice.

    Few images give fewer of each: of three, one is the best, one the median and one the worst. An image without a
    score (NaN) is none of them.
    """
    defined = [name for name, miou in image_miou.items() if not math.isnan(miou)]
    order = sorted(defined, key=lambda name: (-image_miou[name], name))
    each = max(min(len(order) // 3, _EACH), 1)
    middle = len(order) // 2 - each // 2
    return {
        "best": order[:each],
        "median": order[middle : middle + each] if len(order) > 2 else [],
        "worst": order[each:][-each:][::-1],
    }


def examples(
    image_miou: Mapping[str, float],
    net: nn.Module,
    trainer: pl.Trainer,
    datamodule: VOCDataModule,
    palette: ImageArray,
    inference: Inference,
) -> dict[str, list[Example]]:
    """Return the images of :func:`chosen`, predicted as they were scored.

    Args:
        image_miou: mean IoU of each image that was scored, by name; may be empty. Those that are not on the data
            module's validation list any more are left out.
        net: images (N, 3, H, W) uint8 -> logits, in evaluation mode.
        trainer: whose device and precision it was scored in; the net is moved there.
        datamodule: set up, with the inference size that was scored.
        palette: uint8 (256, 3).
        inference: as it was scored.

    Raises:
        UserError: a file that was there to be scored cannot be read any more.
    """
    device = trainer.strategy.root_device
    net.to(device)
    dataset = EvalDataset(datamodule.val_pairs, datamodule.form, datamodule.inference_size)
    index_of = {pair.name: index for index, pair in enumerate(datamodule.val_pairs)}

    def example(name: str) -> Example:
        batch = dataset[index_of[name]]
        height, width = batch.masks.shape
        with naming([name]):
            predictions = inference.predict(net, batch.images[None].to(device), (height, width))
        drawn = panels(batch, predictions[0].cpu().numpy(), palette, datamodule.form.ignore_index)
        return Example(name, image_miou[name], drawn)

    there = {name: miou for name, miou in image_miou.items() if name in index_of}
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        return {kind: [example(name) for name in names] for kind, names in chosen(there).items()}


def panels(
    batch: Batch, prediction: NDArray[np.integer[Any]], palette: ImageArray, ignore_index: int
) -> dict[str, ImageArray]:
    """Return what is shown of an example, images (3, h, w) and masks (H, W), and its prediction (H, W)."""
    truth = batch.masks.numpy()
    image = at_size_of(truth, batch.images.numpy().transpose(1, 2, 0))
    drawn = {
        "image": image,
        "truth": overlay(image, truth, palette),
        "prediction": overlay(image, prediction, palette),
        "differences": differences(image, truth, prediction, ignore_index),
    }
    return {what: small(panel) for what, panel in drawn.items()}


def small(panel: ImageArray) -> ImageArray:
    """Return a panel uint8 (H, W, 3), shrunk if it is large."""
    return resize_long_side(panel, _LONG_SIDE) if max(panel.shape) > _LONG_SIDE else panel
