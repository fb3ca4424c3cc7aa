"""Compare an exported network with the original."""

import math
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.terminal import progress_bar
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import Batch
from segunet.formats.write import least_side
from segunet.inference.logits import logits_at, naming
from segunet.metrics.counter import Counter
from segunet.metrics.scores import Scores

# Batch and image sizes other than those of the trace.
_TEST_SHAPES = ((1, 3, 33, 47), (3, 3, 97, 64), (1, 3, 1, 1))


@dataclass(frozen=True)
class Comparison:
    """An exported network compared with the original on the same images.

    Attributes:
        difference: largest absolute difference between their logits.
        largest: largest absolute logit of the original.
        agreement: share of the pixels with the same predicted class, 0..1.
        scores: scores of the original and the exported network.
        speeds: images/s of both; the median over the batches.
    """

    difference: float
    largest: float
    agreement: float
    scores: tuple[Scores, Scores]
    speeds: tuple[float, float]


class Contender:
    """A network, its scores and its times."""

    def __init__(self, net: nn.Module, num_classes: int, ignore_index: int) -> None:
        self.net = net
        self.counter = Counter(num_classes, ignore_index)
        self.seconds: list[float] = []  # per image, for each batch

    def run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits (N, K, H', W') and predictions (N, H', W') at the masks' size, and count them."""
        height, width = batch.masks.shape[-2:]
        start = time.perf_counter()
        with naming(batch.names):
            logits = logits_at(self.net, batch.images, (height, width))
        self.seconds.append((time.perf_counter() - start) / len(batch.images))
        predictions = logits.argmax(dim=1)
        self.counter.update(predictions, batch.masks, batch.names)
        return logits, predictions


@torch.inference_mode()
def compare(original: nn.Module, exported: nn.Module, datamodule: VOCDataModule, seed: int) -> Comparison:
    """Run both on noise of several sizes, then on the validation images, where they are timed and scored.

    Args:
        original: images (N, 3, H, W) uint8 -> logits (N, K, H, W), on the CPU.
        exported: likewise.
        datamodule: set up.
        seed: seed of the noise.
    """
    form = datamodule.form
    both = [Contender(net, form.num_classes, form.ignore_index) for net in (original, exported)]
    generator = torch.Generator().manual_seed(seed)
    more = least_side(original) - 1
    shapes = [(count, channels, height + more, width + more) for count, channels, height, width in _TEST_SHAPES]
    noise = [torch.randint(256, shape, dtype=torch.uint8, generator=generator) for shape in shapes]
    differences = [(exported(images) - original(images)).abs().max() for images in noise]
    largest, agreeing, pixels = [], 0, 0
    with progress_bar() as bar:
        task = bar.add_task("comparing", total=len(datamodule.val_pairs))
        for batch in datamodule.val_dataloader():
            (wanted, wanted_classes), (got, got_classes) = (contender.run(batch) for contender in both)
            differences.append((got - wanted).abs().max())
            largest.append(wanted.abs().max())
            agreeing += int((got_classes == wanted_classes).sum())
            pixels += got_classes.numel()
            bar.advance(task, len(batch.names))
    scores = [contender.counter.scores() for contender in both]
    return Comparison(
        difference=torch.stack(differences).max().item(),  # NaN if one is
        largest=torch.stack(largest).max().item(),
        agreement=agreeing / pixels,
        scores=(scores[0], scores[1]),
        speeds=(1 / median(both[0].seconds), 1 / median(both[1].seconds)),
    )


def check_same(comparison: Comparison, logits: float, agreement: float) -> None:
    """Raise a UserError unless both networks agree within the tolerance; NaN does not.

    Args:
        comparison: the comparison.
        logits: largest allowed difference, as a share of the largest logit.
        agreement: smallest allowed share of pixels with the same class.
    """
    if not (comparison.difference <= logits * comparison.largest and comparison.agreement >= agreement):
        raise UserError(
            f"The exported network differs from the original: its logits differ by up to {comparison.difference:.3g}, "
            f"allowed is {logits} (tolerance.logits) times the largest, {comparison.largest:.3g}; "
            f"{100 * comparison.agreement:.3f} % of the pixels have the same class, wanted at least "
            f"{100 * agreement:g} % (tolerance.agreement). Nothing was written. Try another format, or raise the "
            "tolerance if the mIoU above is good enough for you."
        )


def check_scores(comparison: Comparison, miou: float) -> None:
    """Raise a UserError if the exported network's mIoU is more than ``miou`` below the original's, or NaN."""
    before, after = (scores.miou for scores in comparison.scores)
    if not (after >= before - miou and math.isfinite(comparison.difference)):
        raise UserError(
            f"The exported network has an mIoU of {after:.4f}, the original {before:.4f}: allowed are {miou} less "
            "(tolerance.miou). Nothing was written. Give more calibration_images, leave out quantize=int8, or raise "
            "the tolerance."
        )
