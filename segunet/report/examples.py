"""The best, median and worst images of a network, predicted again for the report."""

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
from segunet.data.dataset import Batch
from segunet.images.drawing import ImageArray, at_size_of, differences, overlay
from segunet.images.palette import ClassColours
from segunet.images.resizing import resize_long_side
from segunet.inference.logits import naming
from segunet.inference.tiling import Inference

_EACH = 3  # images per kind
_LONG_SIDE = 512  # largest side of a panel in pixels


@dataclass(frozen=True)
class Example:
    """An example image in the report.

    Attributes:
        name: its name.
        miou: its mean IoU, 0..1.
        panels: "image", "truth", "prediction" and "differences", each uint8 (H, W, 3), downscaled.
    """

    name: str
    miou: float
    panels: dict[str, ImageArray]


def chosen(image_miou: Mapping[str, float]) -> dict[str, list[str]]:
    """Return the names of the best, the median and the worst images, three of each, without repetition.

    With few images there are fewer of each: of three, one is the best, one the median and one the worst. Images
    without a score (NaN) are excluded.
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
    colours: ClassColours,
    inference: Inference,
) -> dict[str, list[Example]]:
    """Return the images of :func:`chosen`, predicted as they were scored.

    Args:
        image_miou: mean IoU of each scored image, by name; may be empty. Images no longer on the data module's
            validation list are skipped.
        net: images (N, C, H, W) uint8 -> logits, in evaluation mode.
        trainer: the trainer that scored it; the net is moved to its device and run in its precision.
        datamodule: set up, with the inference size used for scoring.
        colours: how the masks are drawn.
        inference: as used for scoring.

    Raises:
        UserError: an image or mask can no longer be read.
    """
    device = trainer.strategy.root_device
    net.to(device)
    dataset = datamodule.val_dataset()
    index_of = {pair.name: index for index, pair in enumerate(datamodule.val_pairs)}

    def example(name: str) -> Example:
        batch = dataset[index_of[name]]
        height, width = batch.masks.shape
        with naming([name]):
            predictions = inference.predict(net, batch.images[None].to(device), (height, width))
        drawn = panels(batch, predictions[0].cpu().numpy(), colours)
        return Example(name, image_miou[name], drawn)

    there = {name: miou for name, miou in image_miou.items() if name in index_of}
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        return {kind: [example(name) for name in names] for kind, names in chosen(there).items()}


def panels(batch: Batch, prediction: NDArray[np.integer[Any]], colours: ClassColours) -> dict[str, ImageArray]:
    """Return the panels of an example, image (C, h, w) and mask (H, W), with its prediction (H, W)."""
    truth = batch.masks.numpy()
    image = at_size_of(truth, batch.images.numpy().transpose(1, 2, 0), colours)
    drawn = {
        "image": image,
        "truth": overlay(image, truth, colours),
        "prediction": overlay(image, prediction, colours),
        "differences": differences(image, truth, prediction, colours),
    }
    return {what: small(panel) for what, panel in drawn.items()}


def small(panel: ImageArray) -> ImageArray:
    """Return a panel uint8 (H, W, 3), downscaled if it is large."""
    return resize_long_side(panel, _LONG_SIDE) if max(panel.shape) > _LONG_SIDE else panel
