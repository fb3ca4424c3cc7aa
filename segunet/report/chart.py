"""Line charts over a run's epochs or minutes as SVG geometry: points in, ticks and paths out, drawn by a template."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segunet.training.history import Points

_MAX_POINTS = 300  # per path; more would be finer than a pixel
_MAX_MARKS = 30
_WINDOW = 1 / 15  # of a series, width of its moving average
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Series:
    """A line to draw.

    Attributes:
        label: its name.
        points: (epoch, or another x; value), at least one, sorted.
        noisy: draw the moving average, with the values faintly behind it.
    """

    label: str
    points: Points
    noisy: bool = False


@dataclass(frozen=True)
class Line:
    """A series as SVG path data, and (x, y, text) of its points if there are few."""

    label: str
    path: str
    faint_path: str
    marks: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """Template data of a chart.

    Attributes:
        title: the chart's title.
        summary: description for screen readers.
        unit: power of ten that multiplies the y axis labels, if any.
        x_name: what the x axis shows.
        x_ticks, y_ticks: (position, text).
        lines: one per series.
        best: position of the vertical line at the best epoch; None for none.
        width, height, left, right, top, bottom: size of the drawing and edges of the plot. A unit is a pixel on a
            desktop, a little less on a phone.
    """

    width: ClassVar[int] = 360
    height: ClassVar[int] = 220
    left: ClassVar[int] = 42
    right: ClassVar[int] = 346
    top: ClassVar[int] = 20
    bottom: ClassVar[int] = 184

    title: str
    summary: str
    unit: str
    x_name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    best: float | None


@dataclass(frozen=True)
class _Frame:
    """The plot's axes: x from 0 to ``end``, y from ``low`` to ``high``."""

    end: float
    low: float
    high: float

    def x(self, x: float) -> float:
        return round(Chart.left + x / self.end * (Chart.right - Chart.left), 1)

    def y(self, value: float) -> float:
        up = (value - self.low) / (self.high - self.low)
        return round(Chart.bottom - up * (Chart.bottom - Chart.top), 1)

    def path(self, points: NDArray[np.float64]) -> str:
        return "M" + " ".join(f"{self.x(x)},{self.y(value)}" for x, value in points.tolist())


def line_chart(
    title: str,
    series: Sequence[Series],
    end: float,
    best: float | None = None,
    bottom: float | None = None,
    x_name: str = "epoch",
) -> Chart:
    """Lay out a chart of one or more series.

    Args:
        title: the chart's title.
        series: the lines.
        end: end of the x axis, which starts at 0.
        best: x to mark.
        bottom: start of the y axis; None for the round number below the smallest value.
        x_name: what the x axis shows.
    """
    values = [value for each in series for _, value in each.points]
    y_ticks = ticks(min(values) if bottom is None else bottom, max(values), most=6)
    frame = _Frame(end, y_ticks[0], y_ticks[-1])
    exponent = math.floor(math.log10(y_ticks[-1])) if 0 < y_ticks[-1] < 0.01 else 0
    return Chart(
        title=title,
        summary=f"{title} by {x_name}. " + " ".join(_summary(each, x_name) for each in series),
        unit="\N{MULTIPLICATION SIGN} 10" + str(exponent).translate(_SUPERSCRIPTS) if exponent else "",
        x_name=x_name,
        x_ticks=[(frame.x(x), f"{x:g}") for x in ticks(0, end, most=8, whole=True) if x <= end],
        y_ticks=[(frame.y(value), f"{value / 10**exponent:g}") for value in y_ticks],
        lines=[_line(each, frame, x_name) for each in series],
        best=None if best is None else frame.x(best),
    )


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Return round numbers from ``low`` or just below to ``high`` or just above, 1, 2 or 5 times a power of ten apart.

    Args:
        low: lower end.
        high: upper end, at least ``low``.
        most: maximum number of ticks, 3 or more.
        whole: whether they must be integers.
    """
    power = 0 if whole else math.floor(math.log10((high - low) or abs(high) or 1)) - 1
    steps = (factor * 10.0**exponent for exponent in itertools.count(power) for factor in (1, 2, 5))
    spans = ((step, math.floor(round(low / step, 9)), math.ceil(round(high / step, 9))) for step in steps)
    step, first, last = next(each for each in spans if each[2] - each[1] < most)
    return [float(f"{number * step:.10g}") for number in range(first, max(last, first + 1) + 1)]


def _line(series: Series, frame: _Frame, x_name: str) -> Line:
    points = _downsampled(np.array(series.points))
    marked = series.points if len(series.points) <= _MAX_MARKS and not series.noisy else []
    return Line(
        label=series.label,
        path=frame.path(_moving_average(points) if series.noisy else points),
        faint_path=frame.path(points) if series.noisy else "",
        marks=[(frame.x(x), frame.y(value), _point_text(series, (x, value), x_name)) for x, value in marked],
    )


def _summary(series: Series, x_name: str) -> str:
    first, last = (_point_text(series, series.points[index], x_name) for index in (0, -1))
    return f"{first}; {last}."


def _point_text(series: Series, point: tuple[float, float], x_name: str) -> str:
    return f"{series.label} {point[1]:.4g} at {x_name} {point[0]:.4g}"


def _downsampled(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (N, 2) or, if there are too many, the means of groups of equal size."""
    parts = np.array_split(points, min(len(points), _MAX_POINTS))
    return np.array([part.mean(axis=0) for part in parts])


def _moving_average(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (N, 2) with the moving average of their values; the window is truncated at the ends."""
    window = np.ones(min(2 * round(_WINDOW * len(points) / 2) + 1, len(points)))
    counts = np.convolve(np.ones(len(points)), window, mode="same")
    return np.column_stack([points[:, 0], np.convolve(points[:, 1], window, mode="same") / counts])
