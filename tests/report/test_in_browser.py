"""What a browser makes of the report; the README's image of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segunet.metrics.scores import scores_from_confusion
from segunet.report.page import write_page
from tests.browser import browser, program
from tests.images.test_drawing import colours_of
from tests.images.test_palette import VOC_NAMES
from tests.report.test_page import HISTORY, report_with
from tests.report_image import photograph

pytestmark = pytest.mark.skipif(program() is None, reason="needs playwright and a Chromium")


def test_a_browser_sorts_fits_a_phone_and_turns_dark(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 10**6, (21, 21)) + np.diag(rng.integers(0, 10**8, 21))
    confusion[:, [3, 7]] = confusion[[3, 7]] = 0
    confusion[5] = [0] * 5 + [500] + [0] * 14 + [500]  # an accuracy of 0.5, shorter than the others
    report = report_with(
        **{"scores": scores_from_confusion(confusion, 3), "colours": colours_of(VOC_NAMES), "history": HISTORY},
        **{"name": "a_very_long_name_of_a_run_" * 4, "best_epoch": 1, "command": "python " + "x" * 300},
    )
    write_page(report, tmp_path / "report.html")
    with browser() as chromium:
        view = chromium.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        said, requests = list[str](), list[str]()
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: requests.append(request.url))
        view.goto((tmp_path / "report.html").as_uri())

        def column(number: int) -> list[str]:
            cells = view.locator(f"table.sortable tbody tr > :nth-child({number})")
            return [text.strip() for text in cells.all_inner_texts()]

        table = view.locator("table.sortable")
        accuracies = sorted(report.scores.accuracy[~np.isnan(report.scores.accuracy)])
        table.get_by_role("button", name="accuracy").click()
        assert column(4) == [*(f"{value:.4f}" for value in accuracies), "–", "–"]  # noqa: RUF001
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        table.get_by_role("button", name="accuracy").click()
        assert column(4) == [*(f"{value:.4f}" for value in accuracies[::-1]), "–", "–"]  # noqa: RUF001
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
        table.get_by_role("button", name="class").focus()
        view.keyboard.press("Enter")
        assert column(2) == sorted(VOC_NAMES)
        view.keyboard.press("Enter")
        assert column(2) == sorted(VOC_NAMES, reverse=True)
        table.get_by_role("button", name="#").click()
        assert column(2) == list(VOC_NAMES)

        def background() -> str:
            return str(view.evaluate("getComputedStyle(document.body).backgroundColor"))

        light = background()
        view.emulate_media(color_scheme="dark")
        assert background() != light
        for width in (1280, 768, 375, 320):
            view.set_viewport_size({"width": width, "height": 800})
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert view.locator("table.sortable button", has_text="Dice").is_visible()
        view.get_by_role("button", name="Enlarge: truth of image_0").click()
        assert view.locator("dialog img").bounding_box()["width"] > 250  # type: ignore[index]
        view.keyboard.press("Escape")
        assert not view.locator("dialog img").is_visible()
        assert said == []
        assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


def test_without_scripts_the_page_is_whole(trained: Path) -> None:
    with browser() as chromium:
        view = chromium.new_context(java_script_enabled=False).new_page()
        view.goto((trained / "report.html").as_uri())
        assert view.locator("table.sortable tbody tr").count() == 3
        assert view.get_by_role("heading", name="Confusion matrix").is_visible()
        assert view.locator("img").count() == 3 * 4


def test_the_readme_s_image_can_be_taken(trained: Path, tmp_path: Path) -> None:
    photograph(trained, tmp_path / "report.png")
    with Image.open(tmp_path / "report.png") as image:
        assert image.size == (1200, 900)
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
