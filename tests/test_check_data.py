"""The check of a data set through the command itself."""

import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segunet import check_data
from segunet.data.check.contact_sheet import chosen, contact_sheet
from segunet.data.check.findings import KINDS
from segunet.data.voc import Pair
from tests.commands import Command
from tests.conftest import VOC_SIZES
from tests.data.check.test_survey import survey_of
from tests.data.damage import ERRORS, HARMLESS, IMAGE, LEAKS, VAL_LIST, add_name, cut, save_mask
from tests.data.test_datamodule import datamodule
from tests.test_conf import composed

CUSTOM = ["data=custom", "data.class_names=[background,disc,square]", "data.batch_size=2", "data.num_workers=2"]


@pytest.fixture
def options(voc_folder: Path, tmp_path: Path) -> list[str]:
    return [*CUSTOM, f"data.root={voc_folder}", f"run_dir={tmp_path / 'out'}"]


def written(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "check.json").read_text())  # type: ignore[no-any-return]


def test_a_sound_folder_is_called_so(run: Command, options: list[str], voc_folder: Path, tmp_path: Path) -> None:
    result = run(check_data, *options)
    assert result.status == 0, result.error
    assert "no problems found" in result.output
    assert f"{voc_folder}: 6 + 4 examples read" in result.output
    content = written(tmp_path)
    assert (content["errors"], content["warnings"], content["notes"], content["findings"]) == (0, 0, 0, [])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["check.json", "config.yaml", "overlays.png"]


def test_the_balance_and_the_sizes_are_those_counted_by_hand(
    run: Command, options: list[str], voc_folder: Path, tmp_path: Path
) -> None:
    result = run(check_data, *options)
    content = written(tmp_path)
    for role in ("train", "val"):
        paths = [voc_folder / f"SegmentationClass/{role}_{number}.png" for number in range(len(VOC_SIZES[role]))]
        masks = [np.asarray(Image.open(path)) for path in paths]
        split = content["splits"][role]
        for value, counted in ((0, "background"), (1, "disc"), (2, "square")):
            wanted = {"pixels": sum((m == value).sum() for m in masks), "images": sum(value in m for m in masks)}
            assert split["classes"][counted] == wanted
            share = 100 * wanted["pixels"] / sum(mask.size for mask in masks)
            assert f"{share:.2f} %" in result.output
        assert split["ignored"]["pixels"] == sum((mask == 255).sum() for mask in masks)
        assert split["examples"] == len(masks)
        assert split["list"] == f"ImageSets/Segmentation/{role}.txt"
    heights, widths = zip(*VOC_SIZES["train"], *VOC_SIZES["val"], strict=True)
    assert content["images"]["height"] == [min(heights), np.median(heights), max(heights)]
    assert content["images"]["width"] == [min(widths), np.median(widths), max(widths)]
    assert content["images"]["sizes"] == len({*VOC_SIZES["train"], *VOC_SIZES["val"]})
    assert (content["images"]["modes"], content["masks"]["modes"]) == ({"RGB": 10}, {"P": 10})


def test_the_printed_weights_are_those_of_auto_and_can_be_pasted(
    run: Command, options: list[str], voc_folder: Path, tmp_path: Path
) -> None:
    line = next(line for line in run(check_data, *options).output.splitlines() if "class_weights=" in line)
    (override,) = shlex.split(line)
    weights = list(composed("train", override).loss.pixelwise.class_weights)
    assert weights == datamodule(voc_folder).class_weights() == written(tmp_path)["class_weights"]


@pytest.mark.parametrize("name", ["mask of another size", "mask is .bmp", "a name on both lists"])
def test_errors_end_with_status_1_and_a_paragraph(
    run: Command, options: list[str], voc_folder: Path, tmp_path: Path, name: str
) -> None:
    damage, wanted = (ERRORS | LEAKS)[name]
    damage(voc_folder)
    result = run(check_data, *options)
    assert result.status == 1
    assert result.error.startswith(f"error: {voc_folder} has errors: ")
    assert "\n" not in result.error
    assert "Traceback" not in result.output
    first = next(iter(wanted))
    assert f"{KINDS[first].title} ({len(wanted[first])})" in result.error
    assert f"python -m segunet.check_data {shlex.join(options[:-1])}" in result.error
    assert wanted[first][0] in result.output
    assert KINDS[first].advice in result.output
    content = written(tmp_path)
    assert {each["kind"]: [file["file"] for file in each["files"]] for each in content["findings"]} == wanted
    assert content["errors"] == sum(len(files) for kind, files in wanted.items() if KINDS[kind].severity == "error")


def test_warnings_and_notes_do_not(run: Command, options: list[str], voc_folder: Path, tmp_path: Path) -> None:
    for name in ("an image twice on a list", "a mask of the palette's colours", "notes among the images"):
        HARMLESS[name][0](voc_folder)
    result = run(check_data, *options)
    assert result.status == 0, result.error
    assert f"python -m segunet.train {shlex.join(options[:-1])}" in result.output
    content = written(tmp_path)
    assert (content["errors"], content["warnings"], content["notes"]) == (0, 1, 2)


def test_many_files_are_named_in_the_json_and_the_first_in_the_terminal(
    run: Command, options: list[str], voc_folder: Path, tmp_path: Path
) -> None:
    for number in range(5):
        cut(voc_folder / f"JPEGImages/train_{number}.jpg", 0.5)
    result = run(check_data, *options)
    names = re.findall(r"JPEGImages/train_\d", result.output)
    assert names == [f"JPEGImages/train_{number}" for number in range(3)]
    assert "... and 2 more" in result.output
    (found,) = written(tmp_path)["findings"]
    assert (found["kind"], found["severity"], found["count"]) == ("unreadable", "error", 5)
    assert [file["file"] for file in found["files"]] == [f"JPEGImages/train_{number}.jpg" for number in range(5)]
    assert all(file["split"] == "train" and "cannot be read" in file["detail"] for file in found["files"])


def test_a_list_shorter_than_a_batch_is_an_error(run: Command, options: list[str], tmp_path: Path) -> None:
    result = run(check_data, *options, "data.batch_size=7", "images=0")
    assert result.status == 1
    assert "has 6 names, but data.batch_size is 7" in result.output
    assert [found["kind"] for found in written(tmp_path)["findings"]] == ["faulty_list"]
    assert not (tmp_path / "out" / "overlays.png").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfev\x00a\x00l\x00", None])
def test_what_cannot_be_read_at_all_is_refused_before_anything_is_written(
    run: Command, options: list[str], voc_folder: Path, tmp_path: Path, content: bytes | None
) -> None:
    (voc_folder / VAL_LIST).unlink()
    if content is not None:
        (voc_folder / VAL_LIST).write_bytes(content)
    result = run(check_data, *options)
    assert result.status == 1
    assert str(voc_folder / VAL_LIST) in result.error
    assert not (tmp_path / "out").exists()


def test_wrong_settings_are_named(run: Command, options: list[str]) -> None:
    for override, words in {
        "data.root=nowhere": "data.root is",
        "images=-1": "images must be greater than or equal to 0, got -1",
        "data.train_split=other": "Lists there: train, val",
        "data.ignore_index=300": "data.ignore_index must be less than or equal to 255, got 300",
        "run_dir=/proc/nowhere": "cannot be written",
    }.items():
        result = run(check_data, *options, override)
        assert result.status == 1
        assert words in result.error
        assert "Traceback" not in result.error


def test_somebody_s_own_files_are_left_alone(run: Command, options: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "check.json").write_text("mine")
    assert "contains check.json, which segunet.check_data did not write" in run(check_data, *options).error
    assert [each.read_text() for each in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "out" / "check.json").unlink()
    for _ in range(2):
        assert run(check_data, *options).status == 0


def test_a_data_set_has_to_be_named(run: Command) -> None:
    assert "Which data set?" in run(check_data, "data=from_checkpoint").error
    assert "data.root" in run(check_data, "data=custom", "data.class_names=[a,b]").error


def test_an_interrupt_ends_it_at_once(run: Command, options: list[str], voc_folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(voc_folder / "JPEGImages/large.png", compress_level=1)
    Image.fromarray(noise[..., 0] % 3).save(voc_folder / "SegmentationClass/large.png", compress_level=1)
    for number in range(300):
        for folder in ("JPEGImages", "SegmentationClass"):
            (voc_folder / folder / f"copy_{number}.png").symlink_to(voc_folder / folder / "large.png")
        add_name(voc_folder / VAL_LIST, f"copy_{number}")
    interrupted: list[float] = []

    def interrupt() -> None:
        while not (tmp_path / "out" / "config.yaml").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = run(check_data, *options)
    thread.join()
    assert result.status == 130
    assert time.monotonic() - interrupted[0] < 5
    assert "Traceback" not in result.output + result.error
    assert not (tmp_path / "out" / "check.json").exists()


# --- the sheet ---


def test_the_sheet_shows_troubles_first_and_is_the_seed_s() -> None:
    pairs = [Pair(f"{number}", Path(f"{number}.jpg"), Path(f"{number}.png")) for number in range(40)]
    troubles = {str(number): "mask_values" for number in range(20, 30)} | {"35": "other_size"}
    troubles |= {"2": "missing", "39": "ignored_mask"}
    names = [pair.name for pair in chosen(pairs, troubles, 8, seed=0)]
    assert names[:4] == ["39", "20", "35", "2"]  # each kind in turn, what there is to see first
    assert len(set(names)) == 8
    assert not set(names[4:]) & set(troubles)
    assert names[4:] == sorted(names[4:], key=int)
    assert names == [pair.name for pair in chosen(pairs, troubles, 8, seed=0)]
    assert names != [pair.name for pair in chosen(pairs, troubles, 8, seed=1)]


@pytest.mark.parametrize("count", [1, 5, 39, 40, 100])
@pytest.mark.parametrize("troubled", [0, 1, 20, 40])
def test_the_sheet_shows_as_many_as_there_are(count: int, troubled: int) -> None:
    pairs = [Pair(f"{number}", Path(f"{number}.jpg"), Path(f"{number}.png")) for number in range(40)]
    names = [pair.name for pair in chosen(pairs, {f"{number}": "mask_values" for number in range(troubled)}, count, 0)]
    assert len(names) == len(set(names)) == min(count, 40)


def test_the_sheet_draws_what_can_be_drawn(voc_folder: Path) -> None:
    sound = contact_sheet(survey_of(voc_folder), 12, 0)
    assert sound.dtype == np.uint8
    assert sound.ndim == 3
    red = np.array([255, 0, 0])
    assert not (sound == red).all(axis=2).any()
    cut(voc_folder / IMAGE, 0)
    save_mask(voc_folder / "SegmentationClass/val_2.png", 77)
    (voc_folder / "SegmentationClass/val_3.png").unlink()
    Image.new("RGB", (4000, 3)).save(voc_folder / "JPEGImages/val_0.png")
    (voc_folder / "JPEGImages/val_0.jpg").unlink()
    damaged = contact_sheet(survey_of(voc_folder), 12, 0)
    assert (damaged == red).all(axis=2).any()
    assert (damaged == [211, 211, 211]).all(axis=2).sum() > 10_000  # the image that cannot be read


def test_a_file_whose_name_is_not_utf_8_is_reported(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    name = os.fsencode(voc_folder / "JPEGImages") + b"/caf\xe9.jpg"
    shutil.copy(voc_folder / "JPEGImages" / "val_0.jpg", os.fsdecode(name))
    options = [
        "data=custom",
        f"data.root={voc_folder}",
        "data.class_names=[background,disc,square]",
        "data.batch_size=2",
    ]
    result = run(check_data, *options, f"run_dir={tmp_path / 'out'}")
    assert "caf\N{REPLACEMENT CHARACTER}.jpg" in (result.output + result.error)
    assert (tmp_path / "out" / "check.json").is_file()


def test_object_maps_are_examined_where_they_would_be_read(
    run: Command, options: list[str], voc_folder: Path, tmp_path: Path
) -> None:
    maps = voc_folder / "SegmentationObject"
    shutil.copytree(voc_folder / "SegmentationClass", maps)
    (maps / "train_0.png").unlink()
    (maps / "train_1.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(maps / "val_0.png")
    assert run(check_data, *options).status == 0
    result = run(check_data, *options, "data.objects=true")
    assert result.status == 1
    assert "object maps that cannot be used (2)" in result.error.lower()
    found = {(each["kind"], Path(one["file"]).name) for each in written(tmp_path)["findings"] for one in each["files"]}
    wanted = {("missing", "train_0.png"), ("object_map", "train_1.png"), ("object_map", "val_0.png")}
    assert found == wanted
