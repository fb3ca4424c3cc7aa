"""The report as a web page: what it says, and what a browser makes of it."""

import base64
import errno
import io
import itertools
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segunet import evaluate, train
from segunet.base.errors import UserError
from segunet.data.voc import list_pairs
from segunet.images.drawing import overlay
from segunet.images.palette import IGNORE_INDEX
from segunet.images.reading import read_image
from segunet.metrics.scores import scores_from_confusion
from segunet.report.examples import Example
from segunet.report.page import Report, charts, confused, page, write_page
from tests.commands import TINY, Command
from tests.images.test_drawing import colours_of
from tests.page import page_of, parse, rows_of, section, text_of

CLASS_NAMES = ["sky", "road", "kerb", "absent", "unseen"]
# Rows: truth. The road's share of what was taken for kerb is 0.5, the kerb's for road 0.45; nothing is "absent", and
# "unseen" was predicted alone.
CONFUSION = [[900, 80, 0, 0, 20], [5, 45, 50, 0, 0], [0, 9, 11, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
HISTORY = {
    "train/loss": [(0.5, 2.0), (1.0, 1.5), (1.5, 1.2), (2.0, 1.0)],
    "val/loss": [(1.0, 1.6), (2.0, 1.1)],
    "val/miou": [(1.0, 0.3), (2.0, 0.5)],
    "val/pixel_accuracy": [(1.0, 0.8), (2.0, 0.9)],
    "val/fwiou": [(1.0, 0.7), (2.0, 0.8)],
    "lr": [(0.5, 1e-3), (2.0, 1e-4)],
    "lr_encoder": [(0.5, 1e-4), (2.0, 1e-5)],
    "best/miou": [(2.5, 0.5)],
}


def image(height: int = 40, width: int = 60, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def report_with(**changes: Any) -> Report:
    """Return an evaluation's report with changes."""
    names = [f"image_{number}" for number in range(3)]
    image_miou = dict(zip(names, [0.9, 0.5, 0.1], strict=True))
    panels = ("image", "truth", "prediction", "differences")
    report = Report(
        kind="Evaluation",
        name="2026-11-22_06-35-12",
        subject="best.ckpt, on the 3 images of val",
        scores=scores_from_confusion(CONFUSION, 3, image_miou),
        colours=colours_of(CLASS_NAMES),
        examples={
            kind: [Example(name, image_miou[name], {what: image(seed=seed) for seed, what in enumerate(panels)})]
            for kind, name in zip(("best", "median", "worst"), names, strict=True)
        },
        facts={"Run": {"took": "3 s"}, "Software": {"torch": "2.9"}},
        command="python -m segunet.evaluate checkpoint=best.ckpt",
        config="checkpoint: best.ckpt\n",
    )
    return replace(report, **changes)


def page_with(**changes: Any) -> Element:
    return parse(page(report_with(**changes)))


def one(root: Element, heading: str) -> Element:
    found = section(root, heading)
    assert found is not None, heading
    return found


def decoded(image: Element) -> NDArray[np.uint8]:
    head, data = image.attrib["src"].split(",")
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_the_headline_numbers_are_there() -> None:
    root = page_with(best_epoch=7)
    numbers = {text_of(pair[0]): text_of(pair[1]) for pair in one(root, "scores").findall(".//dl/div")}
    scores = report_with().scores
    assert numbers == {
        "mIoU": f"{scores.miou:.4f}",
        "pixel accuracy": f"{956 / 1120:.4f}",
        "mean accuracy": f"{(900 / 1000 + 45 / 100 + 11 / 20) / 3:.4f}",
        "FWIoU": f"{scores.fwiou:.4f}",
        "mean of the images' mIoU": "0.5000",
        "images": "3",
        "best epoch": "7",
    }
    assert "best epoch" not in text_of(page_with())


def test_the_classes_have_their_numbers_and_a_dash_for_what_is_undefined() -> None:
    root = one(page_with(), "classes")
    assert [text_of(each) for each in root.findall(".//thead//button")] == [
        *("#", "class", "IoU", "accuracy", "Dice", "pixels")
    ]
    rows = rows_of(root)
    assert rows[1] == ["1", "road", f"{45 / 189:.4f}", "0.4500", f"{90 / 234:.4f}", "100"]
    assert rows[3] == ["3", "absent", "–", "–", "–", "0"]  # noqa: RUF001
    assert rows[4] == ["4", "unseen", "0.0000", "–", "0.0000", "0"]  # noqa: RUF001
    cells = root.findall(".//tbody/tr")[3].findall("*")
    assert [cell.attrib["data-value"] for cell in cells] == ["3", "absent", "", "", "", "0"]
    assert "Classes without pixels in the truth (their IoU is 0 or undefined): absent, unseen." in text_of(root)
    widths = [each.attrib["style"] for each in root.findall(".//tbody/tr")[1].findall(".//span[@class='bar']/span")]
    assert widths == ["width:23.8%", "width:45.0%", "width:38.5%", "width:8.9%"]


def test_boundary_iou_is_a_column_where_it_was_computed() -> None:
    scores = replace(report_with().scores, boundary_iou=np.array([0.5, 0.25, 0.125, np.nan, 0.0]))
    root = page_with(scores=scores)
    assert rows_of(one(root, "classes"))[1][3] == "0.2500"
    assert "boundary mIoU" in text_of(one(root, "scores"))


def test_the_confusion_matrix_shows_shares_of_its_rows() -> None:
    root = one(page_with(), "confusion")
    assert [text_of(each) for each in root.findall(".//thead/tr/th")] == CLASS_NAMES
    assert rows_of(root) == [
        ["sky", "90", "8", "", "", "2"],
        ["road", "5", "45", "50", "", ""],
        ["kerb", "", "45", "55", "", ""],
        ["absent", "", "", "", "", ""],
        ["unseen", "", "", "", "", ""],
    ]
    rows = root.findall(".//tbody/tr")
    assert [row.get("class") for row in rows] == [None, None, None, "none", "none"]
    assert rows[1][3].attrib["title"] == "road as kerb: 50.0 %, 50 pixels"
    assert [cell.get("class") for cell in rows[1]] == [None, None, "right", None, None, None]


def test_the_most_confused_pairs_come_first() -> None:
    assert confused(np.array(CONFUSION)) == [(1, 2), (2, 1), (0, 1), (1, 0), (0, 4)]
    rows = rows_of(one(page_with(), "confused"))
    assert rows[:3] == [
        ["road", "kerb", "50.0 %", "50"],
        ["kerb", "road", "45.0 %", "9"],
        ["sky", "road", "8.0 %", "80"],
    ]
    assert section(page_with(scores=scores_from_confusion(np.diag([5, 4, 3, 0, 0]), 3)), "confused") is None
    assert len(confused(np.random.default_rng(0).integers(1, 99, (21, 21)))) == 10


def test_the_class_balance_is_that_of_the_truth() -> None:
    root = one(page_with(), "balance")
    assert [text_of(each) for each in root.findall(".//li")] == [
        *("sky 89.3 %", "road 8.9 %", "kerb 1.8 %", "absent –", "unseen –")  # noqa: RUF001
    ]
    assert "1,120 scored pixels" in text_of(root)
    grows = [re.findall(r"flex-grow:([\d.]+)", each.attrib["style"]) for each in root.findall(".//div/span")]
    assert [float(grow) for (grow,) in grows] == pytest.approx([1000 / 1120, 100 / 1120, 20 / 1120], abs=1e-4)


def test_a_training_has_curves_and_an_evaluation_no_empty_place_for_them() -> None:
    root = one(page_with(history=HISTORY, best_epoch=2), "curves")
    assert [text_of(each) for each in root.findall(".//h3")] == ["Loss", "Validation scores", "Learning rate"]
    labels = [[text_of(each) for each in figure.findall(".//li")] for figure in root.findall(".//figure")]
    assert labels == [["training", "validation"], ["mIoU", "pixel accuracy", "FWIoU"], ["decoder", "encoder"]]
    assert "mIoU 0.3 at epoch 1; mIoU 0.5 at epoch 2." in root.findall(".//figure/svg")[1].attrib["aria-label"]
    for heading in ("curves", "Learning curves"):
        assert section(page_with(), heading) is None
        assert heading not in text_of(page_with())


def test_the_charts_share_their_epochs_and_have_what_was_logged() -> None:
    found = charts(HISTORY, best_epoch=2)
    assert {chart.best for chart in found} == {found[0].right}  # best/miou, logged after the end, is not shown
    assert all([text for _, text in chart.x_ticks] == ["0", "1", "2"] for chart in found)
    one_rate = charts({**HISTORY, "lr_encoder": HISTORY["lr"]}, best_epoch=2)[2]
    assert [line.label for line in one_rate.lines] == ["all parameters"]
    assert [chart.title for chart in charts({"val/miou": [(1.0, 0.5)]}, best_epoch=1)] == ["Validation scores"]


def test_the_images_are_shown_as_they_are() -> None:
    figures = one(page_with(), "images").findall(".//div[@class='panels']/figure")
    assert [text_of(each) for each in figures] == ["image", "truth", "prediction", "differences"] * 3
    for seed, figure in enumerate(figures[:4]):
        assert (decoded(figure[0][0]) == image(seed=seed)).all()
    captions = [text_of(each) for each in one(page_with(), "images").findall(".//h3/../figure/figcaption")]
    assert captions == ["image_0 mIoU 0.9000", "image_1 mIoU 0.5000", "image_2 mIoU 0.1000"]


def test_without_the_images_scores_a_line_says_so() -> None:
    root = one(page_with(examples={"best": [], "median": [], "worst": []}), "images")
    assert "does not hold the score of each image" in text_of(root)
    assert root.findall(".//img") == []


def test_the_run_is_told() -> None:
    root = one(page_with(config="a: 1\nb: <2>\n"), "making")
    assert text_of(root.findall("pre")[0]) == "python -m segunet.evaluate checkpoint=best.ckpt"
    assert [[text_of(part) for part in each] for each in root.findall(".//dl/div")] == [
        ["took", "3 s"],
        ["torch", "2.9"],
    ]
    (settings,) = root.findall("details")
    assert "".join(settings[1].itertext()) == "a: 1\nb: <2>\n"
    assert one(page_with(command=""), "making").findall("pre") == []


EVIL = [
    "<script>alert(1)</script>",
    "\"quoted\" & 'quoted'",
    "a<b>",
    "</title><img src=x onerror=alert(1)>",
    "Straße 道路",
]


def test_names_are_text_and_nothing_else() -> None:
    example = Example(EVIL[3], 0.5, {"image": image()})
    names = {
        "name": EVIL[3],
        "subject": EVIL[1],
        "command": EVIL[0],
        "config": EVIL[0],
        "facts": {EVIL[2]: {"a": EVIL[3]}},
    }
    root = page_with(colours=colours_of(EVIL), examples={"best": [example]}, history=HISTORY, best_epoch=1, **names)
    assert [row[1] for row in rows_of(one(root, "classes"))] == EVIL
    assert [row[0] for row in rows_of(one(root, "confusion"))] == EVIL
    assert text_of(root.findall(".//h1")[0]) == EVIL[3]
    assert EVIL[3] in root.findall(".//title")[0].text  # type: ignore[operator]
    assert root.findall(".//img")[0].attrib["alt"] == f"Image of {EVIL[3]}"
    assert one(root, "confusion").findall(".//tbody/tr")[1][3].attrib["title"].startswith(f"{EVIL[1]} as {EVIL[2]}")
    assert len(root.findall(".//script")) == 1
    assert len(root.findall(".//img")) == 1
    assert not [name for each in root.iter() for name in each.attrib if name.startswith("on")]


@pytest.mark.parametrize("changes", [{}, {"history": HISTORY, "best_epoch": 2}])
def test_the_page_stands_alone_and_can_be_read_by_all(changes: dict[str, Any]) -> None:
    text = page(report_with(**changes))
    root = parse(text)
    assert not [url for url in re.findall(r"[a-z]+://[^\s\"'<]+", text) if not url.startswith("http://www.w3.org")]
    assert all(each.attrib["src"].startswith("data:") for each in root.iter() if "src" in each.attrib)
    assert [each.attrib["href"] for each in root.iter() if "href" in each.attrib] == ["data:,"]
    assert "@import" not in text
    assert "url(" not in text
    assert all(each.attrib["alt"] for each in root.findall(".//img"))
    for drawing in root.findall(".//svg"):
        shown = drawing.get("role") == "img" and drawing.get("aria-label")
        assert shown or drawing.get("aria-hidden") == "true"
    levels = [int(each.tag[1]) for each in root.iter() if re.fullmatch("h[1-6]", each.tag)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    identities = [each.attrib["id"] for each in root.iter() if "id" in each.attrib]
    assert len(set(identities)) == len(identities)
    labels = {each.attrib["aria-labelledby"] for each in root.iter() if "aria-labelledby" in each.attrib}
    assert labels <= set(identities)
    assert root.attrib["lang"] == "en"
    assert "width=device-width" in root.findall(".//meta[@name='viewport']")[0].attrib["content"]


def test_a_split_without_a_pixel_has_a_page_too() -> None:
    root = page_with(scores=scores_from_confusion(np.zeros((5, 5), dtype=np.int64), 0))
    assert rows_of(one(root, "classes"))[0] == ["0", "sky", "–", "–", "–", "0"]  # noqa: RUF001
    assert "nan" not in text_of(root.findall(".//main")[0])
    assert [text_of(each) for each in one(root, "scores").findall(".//dd")] == ["–"] * 4 + ["0"]  # noqa: RUF001


def test_a_full_disk_is_the_user_s_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match=r"report\.html could not be written: No space left on device"):
        write_page(report_with(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_training_ends_with_a_report(trained: Path) -> None:
    root = page_of(trained)
    assert text_of(root.findall(".//h1")[0]) == trained.name
    best = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert f"after epoch {best['epoch'] + 1} of 2, on the 4 images of val" in text_of(root)
    assert [row[1] for row in rows_of(one(root, "classes"))] == ["background", "disc", "square"]
    assert len(one(root, "curves").findall(".//figure")) == 3
    assert len(one(root, "images").findall(".//img")) == 3 * 4
    making = one(root, "making")
    assert text_of(making.findall("pre")[0]).startswith("python -m segunet.train data=custom 'data.class_names=[backgr")
    assert (trained / "config.yaml").read_text() in "".join(making.itertext())
    assert "cpu, 32-true" in text_of(making)
    assert torch.__version__ in text_of(making)


def full_disk(path: Path, _: str) -> None:
    raise UserError(f"{path} could not be written: No space left on device.")


def test_a_report_that_cannot_be_written_costs_no_numbers_and_a_resumed_run_has_one(
    run: Command, voc_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run(train, *TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={folder}")
    for name in ("report.html", "metrics.json"):
        (folder / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("segunet.report.page.write_text", full_disk)
        result = run(train, f"resume={folder}", "trainer.max_epochs=2")
    assert result.status == 1
    assert f"{folder / 'report.html'} could not be written" in result.error
    assert "segunet.evaluate checkpoint=" in result.output
    assert (folder / "metrics.json").is_file()
    result = run(train, f"resume={folder}", "trainer.max_epochs=3")
    assert f"report:    {folder / 'report.html'}" in result.output
    root = page_of(folder)
    assert "of 3, on the 4 images" in text_of(root)
    assert len(one(root, "curves").findall(".//figure")[1].findall(".//circle")) == 3 * 3


@pytest.mark.parametrize("options", [["tta=flip"], ["inference_size=48"], ["trainer.precision=bf16-true"]])
def test_an_evaluation_shows_what_it_scored(run: Command, trained: Path, tmp_path: Path, options: list[str]) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"
    fixed = ["save_predictions=true", "data.val_batch_size=1", "trainer.accelerator=cpu", f"run_dir={tmp_path / 'out'}"]
    result = run(evaluate, checkpoint, *options, *fixed)
    assert result.status == 0, result.error
    assert f"report: {tmp_path / 'out' / 'report.html'}" in result.output
    root = page_of(tmp_path / "out")
    assert section(root, "curves") is None
    pairs = {pair.name: pair for pair in list_pairs(trained / "voc", "val")}
    shown = one(root, "images").findall(".//img[@class='coarse']")
    assert len(shown) == 3 * 4
    for image in shown:
        what, _, name = image.attrib["alt"].split()
        if what in ("Truth", "Prediction") and options != ["inference_size=48"]:
            folder = trained / "voc" / "SegmentationClass" if what == "Truth" else tmp_path / "out" / "predictions"
            mask = np.asarray(Image.open(folder / f"{name}.png"))
            assert (decoded(image) == overlay(read_image(pairs[name].image), mask, colours_of(["background"]))).all()
        if what == "Differences":
            truth = np.asarray(Image.open(trained / "voc" / "SegmentationClass" / f"{name}.png"))
            prediction = np.asarray(Image.open(tmp_path / "out" / "predictions" / f"{name}.png"))
            red = decoded(image)[..., 0] > decoded(image)[..., 1]
            assert (red == ((truth != prediction) & (truth != IGNORE_INDEX))).all()


def test_an_older_checkpoint_is_evaluated_and_reported(run: Command, trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    del content["segunet"]["scores"]
    torch.save(content, tmp_path / "older.ckpt")
    result = run(evaluate, f"checkpoint={tmp_path / 'older.ckpt'}", f"run_dir={tmp_path / 'out'}")
    assert result.status == 0, result.error
    assert len(page_of(tmp_path / "out").findall(".//img")) == 3 * 4
