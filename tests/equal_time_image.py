"""Draw the curves of tests.benchmarks.equal_time, for the README.

Run: python -m tests.equal_time_image CURVES.json OUTPUT.png
"""

import json
import sys
from pathlib import Path

from jinja2 import Environment, PackageLoader

from segunet.report.chart import Series, line_chart
from tests.browser import browser

PAGE = """
{% from "chart.html.j2" import chart_figure %}
<style>{% include "report.css" %} body { padding: 12px; background: white; } .chart { width: 640px; }</style>
<body>{{ chart_figure(chart) }}</body>
"""


def draw(curves: Path, output: Path) -> None:
    """Write the chart of the mean IoU over the minutes."""
    content = json.loads(curves.read_text(encoding="utf-8"))
    series = [
        Series(name, [(seconds / 60, score) for seconds, score in result["curve"]])
        for name, result in content["networks"].items()
    ]
    end = max(content["minutes"], *(each.points[-1][0] for each in series))
    chart = line_chart("mean IoU of the seven classes", series, end, bottom=0, x_name="minutes")
    templates = Environment(loader=PackageLoader("segunet.report"), autoescape=True)
    with browser() as chromium:
        page = chromium.new_page(color_scheme="light", device_scale_factor=2)
        page.set_content(templates.from_string(PAGE).render(chart=chart))
        page.locator(".chart").screenshot(path=output)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.equal_time_image CURVES.json OUTPUT.png")
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
