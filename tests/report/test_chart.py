"""Line charts: where the points land, and what the axes say."""

import re

import numpy as np
import pytest

from segunet.report.chart import Chart, Series, line_chart, ticks

WIDE, HIGH = Chart.right - Chart.left, Chart.bottom - Chart.top


def points_of(path: str) -> list[tuple[float, float]]:
    assert re.fullmatch(r"M[-\d.]+,[-\d.]+( [-\d.]+,[-\d.]+)*", path)
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+),([-\d.]+)", path)]


def test_points_land_where_they_belong() -> None:
    chart = line_chart("Loss", [Series("training", [(0, 0.0), (1, 2.0), (2, 1.0), (4, 0.5)])], end=4, best=2)
    (line,) = chart.lines
    wanted = [
        (Chart.left, Chart.bottom),
        (Chart.left + WIDE / 4, Chart.top),
        (Chart.left + WIDE / 2, Chart.bottom - HIGH / 2),
        (Chart.right, Chart.bottom - HIGH / 4),
    ]
    assert points_of(line.path) == wanted
    assert [(x, y) for x, y, _ in line.marks] == wanted
    assert line.marks[1][2] == "training 2 at epoch 1"
    assert chart.best == Chart.left + WIDE / 2
    assert [text for _, text in chart.x_ticks] == ["0", "1", "2", "3", "4"]
    assert [text for _, text in chart.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert [y for y, _ in chart.y_ticks] == [Chart.bottom - HIGH * share for share in (0, 0.25, 0.5, 0.75, 1)]
    assert chart.summary == "Loss by epoch. training 0 at epoch 0; training 0.5 at epoch 4."


@pytest.mark.parametrize("values", [[0.4], [0.4, 0.4], [0.0, 0.0], [1e-7, 3e-3], [0.61, 0.97]])
@pytest.mark.parametrize("bottom", [None, 0.0])
def test_nothing_leaves_the_plot(values: list[float], bottom: float | None) -> None:
    chart = line_chart("Loss", [Series("a", list(enumerate(values, 1)))], len(values), bottom=bottom)
    for x, y in [*points_of(chart.lines[0].path), *[(x, y) for x, y, _ in chart.lines[0].marks]]:
        assert Chart.left <= x <= Chart.right
        assert Chart.top <= y <= Chart.bottom
    assert all(Chart.top <= y <= Chart.bottom for y, _ in chart.y_ticks)
    assert all(Chart.left <= x <= Chart.right for x, _ in chart.x_ticks)
    if bottom == 0:
        assert chart.y_ticks[0] == (Chart.bottom, "0")


def test_series_share_their_axes() -> None:
    chart = line_chart("Scores", [Series("a", [(1, 0.2), (2, 0.4)]), Series("b", [(2, 0.8)])], end=2)
    heights = [points_of(line.path)[-1][1] for line in chart.lines]
    assert heights == pytest.approx([Chart.bottom - HIGH / 3, Chart.top], abs=0.06)
    assert [line.label for line in chart.lines] == ["a", "b"]


def test_small_numbers_are_shown_with_a_power_of_ten() -> None:
    chart = line_chart("Learning rate", [Series("lr", [(1, 4e-4), (2, 1e-5)])], end=2, bottom=0)
    assert chart.unit == "× 10⁻⁴"  # noqa: RUF001
    assert [text for _, text in chart.y_ticks] == ["0", "1", "2", "3", "4"]
    assert line_chart("Loss", [Series("loss", [(1, 0.5)])], end=1).unit == ""


def test_a_noisy_series_is_averaged_and_stays_visible() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3, 1, 75).clip(0.01, 5.99)
    series = Series("training", list(zip(np.arange(1, 76) / 15, values.tolist(), strict=True)), noisy=True)
    chart = line_chart("Loss", [series], end=5, bottom=0)
    (line,) = chart.lines
    top = float(chart.y_ticks[-1][1])
    faint, smooth = (
        [(Chart.bottom - y) / HIGH * top for _, y in points_of(path)] for path in (line.faint_path, line.path)
    )
    assert faint == pytest.approx(values.tolist(), abs=0.01)
    averages = [values[max(place - 2, 0) : place + 3].mean() for place in range(75)]  # five points, fewer at the ends
    assert smooth == pytest.approx(averages, abs=0.01)
    assert line.marks == []


def test_a_long_series_is_thinned_by_its_means() -> None:
    values = np.random.default_rng(0).random(30_000)
    series = Series("lr", [(step / 3000, value) for step, value in enumerate(values.tolist())])
    (line,) = line_chart("x", [series], end=10, bottom=0).lines
    got = [(Chart.bottom - y) / HIGH for _, y in points_of(line.path)]
    assert got == pytest.approx(values.reshape(300, 100).mean(axis=1).tolist(), abs=0.001)
    assert line.marks == []


@pytest.mark.parametrize("most", [3, 5, 6, 8])
def test_ticks_are_few_round_and_enclose_the_values(most: int) -> None:
    rng = np.random.default_rng(0)
    for low, span in zip(rng.normal(0, 10, 200), 10 ** rng.uniform(-6, 4, 200), strict=True):
        got = ticks(low, low + span, most)
        steps = np.diff(got)
        assert 2 <= len(got) <= most
        assert got[0] <= low + 1e-6 * span
        assert got[-1] >= low + span - 1e-6 * span
        assert steps == pytest.approx(np.full(len(steps), steps[0]))
        factor = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert min(abs(factor - each) for each in (1, 2, 5)) < 1e-3


@pytest.mark.parametrize(("high", "wanted"), [(1, [0, 1]), (5, [0, 1, 2, 3, 4, 5]), (50, [0, 10, 20, 30, 40, 50])])
def test_whole_ticks_are_whole(high: float, wanted: list[float]) -> None:
    assert ticks(0, high, most=8, whole=True) == wanted


def test_ticks_do_not_stumble_over_binary_fractions() -> None:
    assert ticks(0.6, 0.8, most=6) == [0.6, 0.65, 0.7, 0.75, 0.8]
    assert ticks(0, 0.3, most=6) == [0, 0.1, 0.2, 0.3]
