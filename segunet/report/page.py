"""The report as a web page: one file that works offline, on desktops and phones, with a dark mode."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from segunet.base.files import write_text
from segunet.images.drawing import ImageArray
from segunet.images.palette import ClassColours
from segunet.metrics.scores import HEADLINE, Scores, absent_note
from segunet.report.chart import Chart, Series, line_chart
from segunet.report.examples import Example
from segunet.report.scores import headline, per_class, per_class_headings
from segunet.training.history import Points

PAGE = "report.html"  # in a run's folder
_TINY = 128  # largest side in pixels of images that are shown pixelated
_CONFUSED = 10  # pairs of classes
_DASH = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the page of any run shows.

    Attributes:
        kind: Training or Evaluation.
        name: name of the run.
        subject: what was scored, and on which data.
        facts: groups of names and texts: date and duration, versions, hardware.
        command: the command line.
        config: the run's settings, YAML.
        history: the training's curves, from :class:`segunet.training.history.History`.
        best_epoch: counted from 1; None for an evaluation.
    """

    kind: str
    name: str
    subject: str
    facts: Mapping[str, Mapping[str, str]]
    command: str
    config: str
    history: Mapping[str, Points] = field(default_factory=dict)
    best_epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report(Run):
    """The page of a segmentation network.

    Attributes:
        scores: its scores.
        colours: names and colours of the K classes.
        examples: images by kind: best, median, worst.
    """

    scores: Scores
    colours: ClassColours
    examples: Mapping[str, Sequence[Example]]


@dataclass(frozen=True, kw_only=True)
class DenoiserReport(Run):
    """The page of a denoiser.

    Attributes:
        loss: validation loss.
        samples: images uint8 (N, H, W, 3) by what was prompted.
        how: how they were made.
    """

    loss: float | None
    samples: Mapping[str, ImageArray]
    how: str


def write_page(report: Report | DenoiserReport, path: Path) -> None:
    """Write ``report`` as HTML to ``path``.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    write_text(path, page(report) if isinstance(report, Report) else denoiser_page(report))


def page(report: Report) -> str:
    """Return ``report`` as HTML."""
    scores, colours = report.scores, report.colours
    names = colours.names
    numbers = {HEADLINE[name]: _score(value) for name, value in headline(scores).items()}
    return _rendered(
        "report.html.j2",
        report,
        f"mIoU {_score(scores.miou)}",
        numbers | {"images": f"{scores.images:,}"},
        headings=per_class_headings(scores),
        rows=per_class(scores, names),
        absent_note=absent_note(scores, names),
        names=names,
        labels=colours.labels,
        fills=fills(colours),
        shares=_shares(scores.confusion),
        balance=scores.confusion.sum(axis=1) / max(scores.confusion.sum(), 1),
        confused=confused(scores.confusion),
    )


def fills(colours: ClassColours) -> list[str]:
    """Return the CSS colour of each mask value, as it is drawn; the background has the page's."""
    return [
        f"#{bytes(colour).hex()}" if painted else "var(--card)"
        for colour, painted in zip(colours.drawn.tolist(), colours.painted, strict=True)
    ]


def denoiser_page(report: DenoiserReport) -> str:
    """Return ``report`` as HTML."""
    loss = _DASH if report.loss is None else f"{report.loss:.4f}"
    return _rendered("samples.html.j2", report, f"validation loss {loss}", {"validation loss": loss})


def _rendered(template: str, report: Run, title: str, numbers: Mapping[str, str], **values: Any) -> str:
    """Return a ``template`` of ``report``, with the ``numbers`` at the top, as HTML."""
    environment = templates(autoescape=True)
    environment.tests["tiny"] = _is_tiny
    environment.filters |= {"score": _score, "percent": _percent, "data_uri": _data_uri}
    return environment.get_template(template).render(
        report=report, title=title, numbers=numbers, charts=charts(report.history, report.best_epoch), **values
    )


def templates(**options: bool) -> Environment:
    """Return Jinja's environment of the templates, with further ``options``."""
    return Environment(
        loader=PackageLoader("segunet.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,  # type: ignore[arg-type]  # flags
    )


def confused(confusion: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (truth, prediction) of the most confused pairs of classes, by share of the truth's pixels."""
    shares = _shares(confusion)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:_CONFUSED]
    pairs = np.column_stack(np.unravel_index(order, shares.shape)).tolist()
    return [(truth, prediction) for truth, prediction in pairs if shares[truth, prediction] > 0]


def charts(history: Mapping[str, Points], best_epoch: float | None) -> list[Chart]:
    """Return the charts of a training's losses, scores and learning rates; none without a history."""
    kinds = {
        "Loss": {"train/loss": "training", "val/loss": "validation"},
        "Validation scores": {"val/miou": "mIoU", "val/pixel_accuracy": "pixel accuracy", "val/fwiou": "FWIoU"},
        "Learning rate": {"lr": "decoder", "lr_encoder": "encoder"},
    }
    if history.get("lr") == history.get("lr_encoder"):
        kinds["Learning rate"] = {"lr": "all parameters"}
    found = {
        title: [Series(label, history[tag], noisy=tag == "train/loss") for tag, label in tags.items() if tag in history]
        for title, tags in kinds.items()
    }
    epochs = max((each.points[-1][0] for series in found.values() for each in series), default=0)
    if best_epoch is not None:  # a run that was stopped within an epoch was validated there
        validated = [epoch for tag in ("val/miou", "val/loss") for epoch, _ in history.get(tag, ())]
        within = [epoch for epoch in validated if best_epoch - 1 < epoch <= best_epoch]
        best_epoch = max(within, default=min(best_epoch, epochs))
    return [
        line_chart(title, series, epochs, best_epoch, bottom=0 if title == "Learning rate" else None)
        for title, series in found.items()
        if series
    ]


def _shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each cell's share of its row (the truth's pixels), (K, K); 0 in a row without pixels."""
    return np.asarray(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))


def _score(value: float) -> str:
    return _DASH if math.isnan(value) else f"{value:.4f}"


def _percent(share: float) -> str:
    """Return a share 0..1 as a percentage with one decimal."""
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else "< 0.1 %"


def _is_tiny(image: ImageArray) -> bool:
    return bool(max(image.shape[:2]) <= _TINY)


def _data_uri(image: ImageArray) -> str:
    """Return an image uint8 (H, W, 3) as a data URI: PNG if tiny, else JPEG."""
    form = "png" if _is_tiny(image) else "jpeg"
    file = io.BytesIO()
    Image.fromarray(image).save(file, format=form, quality=85)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
