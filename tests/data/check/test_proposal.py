"""Settings that are proposed for a folder of which nothing is said: with the names corrected, it can be trained on."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segunet import check_data, evaluate, train
from segunet.base.errors import UserError
from segunet.data.check.proposal import of_values, propose
from segunet.images.palette import voc_palette
from tests.commands import TINY, Command
from tests.rasters import write_raster


def in_each_mask(root: Path, change: Any) -> None:
    for path in (root / "SegmentationClass").glob("*.png"):
        with Image.open(path) as image:
            mask = np.asarray(image)
        Image.fromarray(change(mask)).save(path)


def in_colours(mask: Any) -> Any:
    return voc_palette()[mask]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda mask: mask, {"class_names": ["background", "class_1", "class_2"]}),
        (
            lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8),
            {"class_names": ["background", "class_1"], "mask_values": {0: 0, 255: 1}},
        ),
        (
            lambda mask: np.where(mask == 255, 255, mask + 1).astype(np.uint8),
            {"class_names": ["background", "class_1", "class_2"], "mask_values": {1: 0, 2: 1, 3: 2}},
        ),
        (
            lambda mask: np.where(mask == 255, 0, mask * 70).astype(np.uint8),
            {"class_names": ["background", "class_1", "class_2"], "mask_values": {0: 0, 70: 1, 140: 2}},
        ),
        (
            in_colours,
            {"class_names": ["background", "class_1", "class_2"], "palette": [[0, 0, 0], [0, 128, 0], [128, 0, 0]]},
        ),
    ],
)
def test_what_is_proposed_can_be_checked_as_it_is(
    run: Command, voc_folder: Path, tmp_path: Path, change: Any, wanted: dict[str, Any]
) -> None:
    in_each_mask(voc_folder, change)
    result = run(check_data, f"data.root={voc_folder}", f"run_dir={tmp_path / 'out'}")
    assert result.status == 0, result.error
    settings = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    common = {"root": str(voc_folder), "train_split": "train", "val_split": "val", "batch_size": 3}
    assert settings == common | wanted
    assert f"segunet.check_data data={tmp_path / 'out' / 'data.yaml'}" in result.output
    assert run(check_data, f"data={tmp_path / 'out' / 'data.yaml'}", f"run_dir={tmp_path / 'check'}").status == 0


def test_values_below_0_are_ignored_by_what_is_proposed(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    for path in (voc_folder / "SegmentationClass").glob("*.png"):
        with Image.open(path) as image:
            mask = np.asarray(image).astype(np.int16)
        write_raster(path.with_suffix(".tif"), np.where(mask == 255, -1, mask)[None])
        path.unlink()
    data, folder = f"data={tmp_path / 'out' / 'data.yaml'}", tmp_path / "run"
    assert run(check_data, f"data.root={voc_folder}", f"run_dir={tmp_path / 'out'}").status == 0
    settings = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert settings["mask_values"] == {-1: 255, 0: 0, 1: 1, 2: 2}
    tiny = [each for each in TINY if not each.startswith(("data=", "data.class_names", "data.batch_size"))]
    assert run(train, data, *tiny, "trainer.max_epochs=1", f"run_dir={folder}").status == 0
    assert run(train, f"resume={folder}", "trainer.max_epochs=2").status == 0
    result = run(evaluate, f"checkpoint={folder / 'checkpoints/best.ckpt'}", f"run_dir={tmp_path / 'scores'}")
    assert result.status == 0, result.error


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({0: 9, 1: 1, 2: 1, 4: 1}, {"class_names": ["background", "class_1", "class_2", "class_3", "class_4"]}),
        ({-1: 99, 0: 9, 1: 1}, {"class_names": ["background", "class_1"], "mask_values": {-1: 255, 0: 0, 1: 1}}),
        ({255: 99, 0: 9, 1: 1}, {"class_names": ["background", "class_1"]}),
        ({0: 1, 7: 9}, {"class_names": ["class_0", "class_1"], "mask_values": {0: 0, 7: 1}}),
    ],
)
def test_no_data_changes_no_class(values: dict[int, int], wanted: dict[str, Any]) -> None:
    assert of_values(Counter(values)) == wanted
    also = of_values(Counter({**values, -9: 99}))
    assert also["class_names"] == wanted["class_names"]
    assert also["mask_values"].pop(-9) == 255
    indices = {index: index for index in range(len(wanted["class_names"]))}
    assert also["mask_values"] == wanted.get("mask_values", indices)


def test_class_lists_single_lists_and_16_bits_are_seen(voc_folder: Path) -> None:
    lists = voc_folder / "ImageSets" / "Segmentation"
    (lists / "val.txt").unlink()
    (lists / "train.txt").rename(lists / "all.txt")
    (voc_folder / "classes.txt").write_text("background\ndisc\nsquare\n")
    for path in (voc_folder / "JPEGImages").glob("*.jpg"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 15
        Image.fromarray(grey).save(path.with_suffix(".png"))
        path.unlink()
    assert propose(voc_folder, 1) == {
        "root": str(voc_folder),
        "train_split": "all",
        "fold": 0,
        "class_names": ["background", "disc", "square"],
        "image_range": [0, 4095],
        "batch_size": 2,  # of the four images that are not validated on
    }


def test_masks_that_no_settings_describe_are_refused(run: Command, voc_folder: Path) -> None:
    rng = np.random.default_rng(0)
    in_each_mask(voc_folder, lambda mask: rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8))
    with pytest.raises(UserError, match="have more than 256 values or colours"):
        propose(voc_folder, 1)
    in_each_mask(voc_folder, lambda mask: rng.integers(0, 1000, mask.shape[:2], dtype=np.uint16))
    with pytest.raises(UserError, match="have more than 256 values or colours"):
        propose(voc_folder, 1)
    for path in (voc_folder / "SegmentationClass").glob("*.png"):
        path.write_bytes(b"")
    result = run(check_data, f"data.root={voc_folder}")
    assert result.status == 1
    assert "No mask in" in result.error
    assert "data.root is" in run(check_data, "data.root=nowhere").error
    assert "Leave out data.batch_size=3" in run(check_data, f"data.root={voc_folder}", "data.batch_size=3").error
    (voc_folder / "data.yaml").touch()
    assert f"data={voc_folder / 'data.yaml'}" in run(check_data, f"data.root={voc_folder}").error


def test_a_list_of_names_is_taken_over_only_where_it_fits(voc_folder: Path) -> None:
    (voc_folder / "classes.txt").write_text("disc\nsquare\n")  # without the background
    assert propose(voc_folder, 1)["class_names"] == ["background", "class_1", "class_2"]
    (voc_folder / "classes.txt").write_text("background\ndisc\nsquare\n")
    assert propose(voc_folder, 1)["class_names"] == ["background", "disc", "square"]
    in_each_mask(voc_folder, in_colours)
    assert propose(voc_folder, 1)["class_names"] == ["background", "class_1", "class_2"]  # whose colour is which?
    (voc_folder / "labelmap.txt").write_text("background:0,0,0::\ndisc:128,0,0::\nsquare:0,128,0::\n")
    settings = propose(voc_folder, 1)
    assert settings["class_names"] == ["background", "disc", "square"]
    assert settings["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_overlapping_lists_become_folds_and_mixed_masks_are_refused(voc_folder: Path) -> None:
    lists = voc_folder / "ImageSets" / "Segmentation"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "trainval.txt").write_text((lists / "trainval.txt").read_text() + (lists / "val.txt").read_text())
    settings = propose(voc_folder, 1)
    assert (settings["train_split"], settings["fold"]) == ("trainval", 0)
    assert "val_split" not in settings
    path = voc_folder / "SegmentationClass" / "val_0.png"
    with Image.open(path) as image:
        image.convert("RGB").save(path)
    with pytest.raises(UserError, match="are in colours, others hold values"):
        propose(voc_folder, 1)
    for constant in (0, 255):
        in_each_mask(voc_folder, lambda mask, value=constant: np.full(mask.shape[:2], value, dtype=np.uint8))
        with pytest.raises(UserError, match=f"All masks hold only {constant}"):
            propose(voc_folder, 1)
