"""The cost of a network, as tables in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from segunet.base.terminal import console, show_table
from segunet.cost.complexity import Layer
from segunet.cost.measurement import ROUNDS
from segunet.cost.results import Row

# Narrow, for terminals of 80 columns.
_STYLE: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}


def show_layers(layers: Sequence[Layer], content: dict[str, Any]) -> None:
    """Print the table of the layers, and the totals in ``content``."""
    flops = content["flops"]
    table = Table(**_STYLE, show_footer=True)
    for heading, total in (("layer", "total"), ("type", ""), ("output", "")):
        table.add_column(heading, total, overflow="fold")
    for heading, total in (
        ("parameters", f"{content['parameters']:,}"),
        ("GFLOPs", f"{flops / 1e9:.3f}"),
        ("share", "100.0 %"),
    ):
        table.add_column(heading, total, justify="right", no_wrap=True)
    for layer in layers:
        output = "x".join(map(str, layer.outputs[0])) if layer.outputs else "-"
        share = f"{100 * layer.flops / max(flops, 1):.1f} %"
        numbers = f"{layer.parameters:,}", f"{layer.flops / 1e9:.3f}", share
        table.add_row(escape(layer.name), layer.type, output + ", ..." * (len(layer.outputs) > 1), *numbers)
    show_table(table)
    weights = "  ".join(f"{name} {_bytes(number)}" for name, number in content["weight_bytes"].items())
    _print(f"\nnetwork     {content['network']}, called with {' x '.join(map(str, content['input']))}")
    _print(f"parameters  {content['parameters']:,}, of which trainable {content['trainable_parameters']:,}")
    _print(f"FLOPs       {flops / 1e9:.3f} G (convolutions, matrix products, attention; a multiply and an add are two)")
    _print(f"weights     {weights} (with buffers; int8: norms and biases fp32; 1 GB is 10^9 bytes)")


def show_measurements(measurements: Sequence[dict[str, Any]]) -> None:
    """Print the table of the measurements."""
    table = Table(**_STYLE)
    table.add_column("measured")
    for heading in ("time", "images/s", "peak memory", "warm-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in measurements:
        table.add_row(
            each["what"] + ", compiled" * each["compile"],
            f"{1000 * each['seconds']:.1f} ms",
            f"{each['batch_size'] / each['seconds']:.2f}",
            _bytes(each["peak_bytes"]),
            f"{each['warmup_seconds']:.1f} s",
        )
    console.print()
    show_table(table)
    console.print()
    accelerator, precision = measurements[0]["accelerator"], measurements[0]["precision"]
    memory = "of torch's tensors" if accelerator == "cuda" else "by which a fresh process grew"
    _print(f"{accelerator}, {precision}: median of {ROUNDS} runs after two; peak memory {memory}, weights included")


def show_rows(rows: Sequence[Row]) -> None:
    """Print the table of a benchmark's part; the peak is that of the machine's matrix products."""
    table = Table(**_STYLE)
    part = rows[0].part
    table.add_column(part)
    for heading in ("median", "range"):
        table.add_column(heading, justify="right", no_wrap=True)
    more = {
        "memory": [None if row.peak_bytes is None else _bytes(row.peak_bytes) for row in rows],
        "of the peak": [None if row.share is None else f"{100 * row.share:.0f} %" for row in rows],
    }
    shown = {heading: texts for heading, texts in more.items() if any(texts)}
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        spread = f"{_number(row.low)} to {_number(row.high)}"
        others = [texts[number] or "" for texts in shown.values()]
        table.add_row(escape(row.case), f"{_number(row.median)} {row.unit}", spread, *others)
    console.print()
    show_table(table)


def _bytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _number(value: float) -> str:
    """Return a positive number with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _print(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
