"""Compare an exported network with the original, and show how they compare."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.table import Table
from torch import Tensor, nn

from segunet.base.errors import UserError, counted
from segunet.base.terminal import console, progress_bar, show_table
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import Batch
from segunet.formats.interface import Interface
from segunet.inference.logits import logits_at, naming
from segunet.metrics.counter import Counter
from segunet.metrics.scores import Scores

# Numbers, heights and widths of images other than those of the trace.
_TEST_SHAPES = ((1, 33, 47), (3, 97, 64), (1, 1, 1))


@dataclass(frozen=True)
class Comparison:
    """An exported network compared with the original on the same images.

    Attributes:
        difference: largest absolute difference between their logits, on noise and images.
        largest: largest absolute logit of the original, on the images, or without them on noise.
        agreement: share of the pixels with the same predicted class, 0..1, on the images, or without them on noise.
        scores: scores of the original and the exported network; None without images of a data set.
        speeds: images/s of both, the median over the batches; None likewise.
        on_noise: that share on noise alone.
    """

    difference: float
    largest: float
    agreement: float
    scores: tuple[Scores, Scores] | None
    speeds: tuple[float, float] | None
    on_noise: float = 1.0


class Contender:
    """A network, its scores and its times."""

    def __init__(self, net: nn.Module, num_classes: int, ignore_index: int) -> None:
        self.net = net
        self.counter = Counter(num_classes, ignore_index)
        self.seconds: list[float] = []  # per image, for each batch

    def run(self, batch: Batch) -> Tensor:
        """Return logits (N, K, H', W') at the masks' size, and count their predictions."""
        height, width = batch.masks.shape[-2:]
        start = time.perf_counter()
        with naming(batch.names):
            logits = logits_at(self.net, batch.images, (height, width))
        self.seconds.append((time.perf_counter() - start) / len(batch.images))
        self.counter.update(logits.argmax(dim=1), batch.masks, batch.names)
        return logits


class Agreement:
    """What both networks gave for the same images."""

    def __init__(self) -> None:
        self.differences: list[Tensor] = []
        self.largest: list[Tensor] = []
        self.same = self.pixels = 0

    def update(self, wanted: Tensor, got: Tensor) -> None:
        """Compare logits (N, K, H, W) of the original and the exported network."""
        self.differences.append((got - wanted).abs().max())
        self.largest.append(wanted.abs().max())
        classes = got.argmax(dim=1)
        self.same += int((classes == wanted.argmax(dim=1)).sum())
        self.pixels += classes.numel()


@torch.inference_mode()
def compare(
    original: nn.Module, exported: nn.Module, tried: Sequence[Tensor], datamodule: VOCDataModule | None
) -> Comparison:
    """Run both on noise of several sizes, then on the validation images, where they are timed and scored.

    Args:
        original: images (N, C, H, W) uint8 -> logits (N, K, H, W), on the CPU.
        exported: likewise.
        tried: batches of :func:`noise`.
        datamodule: set up; None to compare them on noise alone.
    """
    on_noise, on_images = Agreement(), Agreement()
    for images in tried:
        on_noise.update(original(images), exported(images))
    scored = None if datamodule is None else _compare_on_images(original, exported, datamodule, on_images)
    told = on_noise if datamodule is None else on_images
    return Comparison(
        difference=torch.stack(on_noise.differences + on_images.differences).max().item(),  # NaN if one is
        largest=torch.stack(told.largest).max().item(),
        agreement=told.same / told.pixels,
        scores=scored and (scored[0].counter.scores(), scored[1].counter.scores()),
        speeds=scored and (1 / median(scored[0].seconds), 1 / median(scored[1].seconds)),
        on_noise=on_noise.same / on_noise.pixels,
    )


def noise(least: int, seed: int, channels: int = 3) -> list[Tensor]:
    """Return uint8 noise (N, channels, H, W) of several N, H and W, from ``least`` pixels on."""
    generator, more = torch.Generator().manual_seed(seed), least - 1
    shapes = [(count, channels, height + more, width + more) for count, height, width in _TEST_SHAPES]
    return [torch.randint(256, shape, dtype=torch.uint8, generator=generator) for shape in shapes]


def _compare_on_images(
    original: nn.Module, exported: nn.Module, datamodule: VOCDataModule, agreement: Agreement
) -> tuple[Contender, Contender]:
    form = datamodule.form
    first, second = (Contender(net, form.num_classes, form.ignore_index) for net in (original, exported))
    with progress_bar() as bar:
        task = bar.add_task("comparing", total=len(datamodule.val_pairs))
        for batch in datamodule.val_dataloader():
            agreement.update(first.run(batch), second.run(batch))
            bar.advance(task, len(batch.names))
    return first, second


def show(comparison: Comparison, name: str, interface: Interface) -> None:
    """Print the comparison with the exported network, of format ``name``."""
    table = Table()
    for heading in ("", "PyTorch", name, "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    if comparison.scores:
        before, after = (scores.miou for scores in comparison.scores)
        table.add_row("mIoU", f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    if not interface.argmax:
        table.add_row("largest logit", f"{comparison.largest:.4g}", "", f"{comparison.difference:.2g} at most")
    table.add_row("pixels of the same class", "", "", f"{100 * comparison.agreement:.3f} %")
    if comparison.speeds and interface.batch in (None, 1):  # a larger batch is filled with copies
        first, second = comparison.speeds
        table.add_row("images/s", f"{first:.2f}", f"{second:.2f}", f"{second / first:.2f} times")
    show_table(table)
    compared = counted(comparison.scores[0].images, "image") if comparison.scores else "noise of several sizes"
    size = f", resized to {interface.size[0]} x {interface.size[1]}" if interface.size else ""
    console.print(f"({compared}{size}, {counted(torch.get_num_threads(), 'thread')})", highlight=False)


def check_same(comparison: Comparison, logits: float, agreement: float) -> None:
    """Raise a UserError unless both networks agree within the tolerance; NaN does not.

    Args:
        comparison: the comparison.
        logits: largest allowed difference, as a share of the largest logit.
        agreement: smallest allowed share of pixels with the same class.
    """
    if not (comparison.difference <= logits * comparison.largest and comparison.agreement >= agreement):
        raise _differs(
            f"its logits differ by up to {comparison.difference:.3g}, allowed is {logits} (tolerance.logits) times the "
            f"largest, {comparison.largest:.3g}; ",
            comparison.agreement,
            agreement,
        )


def check_same_masks(comparison: Comparison, agreement: float) -> None:
    """Raise a UserError unless the networks' masks agree in at least that share of the pixels, on noise too."""
    if not (least := min(comparison.agreement, comparison.on_noise)) >= agreement:
        raise _differs("", least, agreement)


def _differs(how: str, agreement: float, wanted: float) -> UserError:
    return UserError(
        f"The exported network differs from the original: {how}{100 * agreement:.3f} % of the pixels have the same "
        f"class, wanted at least {100 * wanted:g} % (tolerance.agreement). Nothing was written. Try another format, or "
        "raise the tolerance if that is good enough for you."
    )


def check_scores(comparison: Comparison, miou: float) -> None:
    """Raise a UserError if the exported network's mIoU is more than ``miou`` below the original's, or NaN."""
    assert comparison.scores is not None
    before, after = (scores.miou for scores in comparison.scores)
    if not (after >= before - miou and math.isfinite(comparison.difference)):
        raise UserError(
            f"The exported network has an mIoU of {after:.4f}, the original {before:.4f}: allowed are {miou} less "
            "(tolerance.miou). Nothing was written. Give more calibration_images, leave out quantize=int8, or raise "
            "the tolerance."
        )
