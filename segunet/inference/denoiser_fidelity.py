"""Compare an exported denoiser with the original, and show how they compare."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.table import Table
from torch import Tensor

from segunet.base.errors import UserError, counted
from segunet.base.terminal import console, progress_bar, show_table
from segunet.formats.read import ExportedNet
from segunet.inference.generator import DenoiserCheckpoint

_ROUNDS = 15  # of the timing


@dataclass(frozen=True)
class DenoiserComparison:
    """An exported denoiser compared with the original on the same inputs.

    Attributes:
        difference: largest absolute difference between their predictions.
        largest: largest absolute value that the original predicted.
        samples: number of samples.
        side: side in pixels of the sample of a timed denoising step.
        seconds: of a denoising step, by the original and the exported network; the median of alternating rounds.
    """

    difference: float
    largest: float
    samples: int
    side: int
    seconds: tuple[float, float]


@torch.inference_mode()
def compare_denoisers(original: DenoiserCheckpoint, exported: ExportedNet, seed: int) -> DenoiserComparison:
    """Run both on random noises, time steps and prompts, of several sizes and counts, then time them.

    Args:
        original: the denoiser, on the CPU.
        exported: what ``formats.write.traced_denoiser`` became.
        seed: seed of the inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    side, stride = original.size, original.net.encoder.stride
    shapes = [(4, side, side), (3, side + stride, side), (2, side, side + 3 * stride)]
    shapes += [(5, stride, 2 * stride), (1, stride, stride)]
    pairs = []
    with progress_bar() as bar:
        for count, height, width in bar.track(shapes, description="comparing"):
            inputs = random_inputs(original, count, (height, width), generator)
            pairs.append((original.net(*inputs), exported.run(*inputs)))
        inputs = random_inputs(original, 1, (side, side), generator)
        rounds = [(_seconds(original.net, inputs), _seconds(exported.run, inputs)) for _ in range(_ROUNDS)]
    return DenoiserComparison(
        difference=torch.stack([(got - wanted).abs().max() for wanted, got in pairs]).max().item(),  # NaN if one is
        largest=torch.stack([wanted.abs().max() for wanted, _ in pairs]).max().item(),
        samples=sum(len(wanted) for wanted, _ in pairs),
        side=side,
        seconds=(median(first for first, _ in rounds), median(second for _, second in rounds)),
    )


def random_inputs(
    denoiser: DenoiserCheckpoint, count: int, size: tuple[int, int], generator: torch.Generator
) -> list[Tensor]:
    """Return noise float32 (N, C, H, W), time steps (N,) and, if it is conditional, hidden states (N, V, D)."""
    noise = torch.randn(count, denoiser.net.in_channels, *size, generator=generator)
    timesteps = torch.rand(count, generator=generator) * denoiser.schedule.steps
    if denoiser.prompts is None:
        return [noise, timesteps]
    present = torch.rand(count, len(denoiser.prompts.names), generator=generator) < 0.5
    return [noise, timesteps, denoiser.prompts(present)]


def show_denoisers(comparison: DenoiserComparison, name: str) -> None:
    """Print the comparison with the exported denoiser, of format ``name``."""
    table = Table()
    for heading in ("", "PyTorch", name, "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    first, second = comparison.seconds
    table.add_row("largest prediction", f"{comparison.largest:.4g}", "", f"{comparison.difference:.2g} at most")
    speed = f"{first / second:.2f} times as fast"
    table.add_row("ms per denoising step", f"{1000 * first:.1f}", f"{1000 * second:.1f}", speed)
    show_table(table)
    threads = torch.get_num_threads()
    console.print(
        f"({comparison.samples} noises, time steps and prompts of several sizes; a step is of one sample of "
        f"{comparison.side} x {comparison.side}, {counted(threads, 'thread')})",
        highlight=False,
    )


def check_same_denoiser(comparison: DenoiserComparison, tolerance: float) -> None:
    """Raise a UserError unless both agree; NaN does not.

    Args:
        comparison: the comparison.
        tolerance: largest allowed difference, as a share of the largest prediction.
    """
    if not comparison.difference <= tolerance * comparison.largest:
        raise UserError(
            f"The exported denoiser differs from the original: its predictions differ by up to "
            f"{comparison.difference:.3g}, allowed is {tolerance} (tolerance.prediction) times the largest, "
            f"{comparison.largest:.3g}. Nothing was written. Try another format, or raise the tolerance."
        )


def _seconds(run: Callable[..., Tensor], inputs: Sequence[Tensor]) -> float:
    start = time.perf_counter()
    run(*inputs)
    return time.perf_counter() - start
