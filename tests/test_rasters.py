"""A data set of rasters through the commands, as its user would: proposed, trained, scored, predicted, exported."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.random import default_rng
from PIL import Image

import segunet
from segunet import check_data, evaluate, export, predict, summary, train
from segunet.base.files import write_text
from segunet.demo import __main__ as demo
from tests.commands import TINY, Command
from tests.rasters import PLACE, write_raster, write_raster_folder

# Of TINY, what is not the data's.
_NETWORK = [each for each in TINY if not each.startswith(("data=", "data.class_names"))]
_LEARN = ["model.encoder.zero_init_residual=false", "optimizer.lr=0.01", "trainer.max_epochs=8", "callbacks.images=1"]


def _trained(run: Command, tmp_path: Path, dtype: str, bands: int) -> str:
    """Return ``checkpoint=PATH`` of a network of such rasters, by settings that check_data proposed."""
    write_raster_folder(tmp_path / "data", dtype, bands)
    proposal = tmp_path / "check" / "data.yaml"
    result = run(check_data, f"data.root={tmp_path / 'data'}", f"run_dir={proposal.parent}")
    assert result.status == 0, result.error
    assert f"bands: {bands}\n" in proposal.read_text()
    result = run(train, f"data={proposal}", *_NETWORK, *_LEARN, f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    assert f"data.bands={bands}: colour jitter is of brightness and contrast alone" in result.output
    return f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"


@pytest.fixture
def five_bands(run: Command, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return ``checkpoint=PATH`` of a network of five bands, trained once."""
    folder = tmp_path_factory.getbasetemp() / "five_bands"
    checkpoint = folder / "run" / "checkpoints" / "best.ckpt"
    if checkpoint.is_file():
        return f"checkpoint={checkpoint}"
    folder.mkdir()
    return _trained(run, folder, "uint16", 5)


@pytest.mark.parametrize(("dtype", "bands"), [("uint16", 5), ("float32", 1), ("uint8", 4)])
def test_a_network_of_rasters_is_trained_scored_and_predicts(
    run: Command, tmp_path: Path, dtype: str, bands: int
) -> None:
    checkpoint = _trained(run, tmp_path, dtype, bands)
    images, out = tmp_path / "data" / "JPEGImages", tmp_path / "out"
    result = run(evaluate, checkpoint, "save_predictions=true", f"run_dir={tmp_path / 'scored'}")
    assert result.status == 0, result.error
    assert "other file" not in result.output
    assert float(result.output.split("mIoU ")[-2].split()[0]) > 0.6  # the last band shows the square

    result = run(predict, checkpoint, f"input={images}", f"output={out}", "polygons=geojson")
    assert result.status == 0, result.error
    for name in ("val_0", "val_2"):
        with rasterio.open(tmp_path / "scored" / "predictions" / f"{name}.tif") as scored, \
             rasterio.open(out / "masks" / f"{name}.tif") as predicted, \
             rasterio.open(images / f"{name}.tif") as image:  # fmt: skip
            assert (scored.read() == predicted.read()).all()
            assert (predicted.crs, predicted.transform, predicted.shape) == (image.crs, image.transform, image.shape)
    assert (out / "overlays" / "val_0.jpg").is_file()

    (out / "masks" / "val_1.tif").unlink()
    again = run(predict, checkpoint, f"input={images}", f"output={out}", "polygons=geojson", "skip_existing=true")
    assert "8 of 9 inputs predicted before and skipped" in again.output


def test_a_file_of_another_kind_than_the_network_s_is_refused(
    run: Command, tmp_path: Path, trained: Path, five_bands: str
) -> None:
    write_raster(tmp_path / "four.tif", np.zeros((4, 64, 64), dtype=np.uint16))
    failed = run(predict, five_bands, f"input={tmp_path / 'four.tif'}", f"output={tmp_path / 'out'}")
    assert failed.status == 1
    assert "four.tif has 4 bands, wanted 5" in failed.output
    colours = f"{trained / 'checkpoints' / 'best.ckpt'}"
    assert (
        "the bands of the first are 5, of the other None"
        in run(evaluate, f"checkpoint=[{five_bands.partition('=')[2]},{colours}]").error
    )
    other = ["data=custom", f"data.root={trained / 'voc'}", "data.class_names=[a,b]"]
    assert "images with data.bands=5, the data set" in run(evaluate, five_bands, *other).error
    assert "rasters of 5 bands" in run(demo, five_bands).error
    model = segunet.load(five_bands.partition("=")[2])
    with pytest.raises(
        segunet.UserError, match=r"raster of 5 bands, or a uint8 array \(H, W, 5\), got uint8 \(9, 9, 3\)"
    ):
        model.predict(np.zeros((9, 9, 3), dtype=np.uint8))


def test_a_large_raster_is_predicted_from_its_rows(
    run: Command, tmp_path: Path, five_bands: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = default_rng(0).integers(1000, 9000, (5, 300, 200), dtype=np.uint16)
    options = [five_bands, f"input={write_raster(tmp_path / 'large.tif', values, **PLACE)}", "tile=64"]
    for limit, name in ((predict._LARGE, "whole"), (100 * 100, "rows")):
        monkeypatch.setattr(predict, "_LARGE", limit)
        monkeypatch.setattr(predict, "_SHOWN_SIDE", 150)
        assert run(predict, *options, f"output={tmp_path / name}").status == 0
    whole, rows = ((tmp_path / name / "masks" / "large.png").read_bytes() for name in ("whole", "rows"))
    assert whole == rows
    with rasterio.open(tmp_path / "rows" / "masks" / "large.tif") as mask:
        assert mask.transform == Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with Image.open(tmp_path / "rows" / "overlays" / "large.jpg") as overlay:
        assert overlay.width < 200  # smaller than the raster


def test_a_run_on_rasters_goes_on(run: Command, tmp_path: Path, five_bands: str) -> None:
    shutil.copytree(Path(five_bands.partition("=")[2]).parents[1], tmp_path / "run")
    result = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=9")
    assert result.status == 0, result.error
    assert "epoch 9/9" in result.output


def test_the_exported_network_takes_its_bands(run: Command, tmp_path: Path, five_bands: str) -> None:
    result = run(export, five_bands, "format=torch_export", f"output={tmp_path / 'net.pt2'}", "images=3")
    assert result.status == 0, result.error
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    assert loaded(torch.zeros(1, 5, 70, 90, dtype=torch.uint8)).shape == (1, 2, 70, 90)
    assert run(evaluate, f"checkpoint={tmp_path / 'net.pt2'}", f"run_dir={tmp_path / 'scored'}").status == 0
    assert "1, 5, 512, 512" in run(summary, five_bands, "measure=false").output.replace(" x ", ", ")


def test_settings_that_do_not_go_with_rasters_are_refused_before_the_first_step(run: Command, tmp_path: Path) -> None:
    root = write_raster_folder(tmp_path / "data", "float32", 2)
    write_text(data := tmp_path / "data.yaml", f"root: {root}\nclass_names: [background, square]\nbands: 2\n")
    levels = "data.image_range=[0,1]"
    for settings, message in (
        ([], "unsigned; they are float32. Set which values become black and white: data.image_range=[LOW,HIGH]"),
        (["data.image_range=[[0,1],[0,1],[0,1]]"], "data.image_range has 3 pairs, wanted one pair, or 2"),
        ([levels, "data.mean=[1,2,3]"], "model.mean must have 2 numbers, one per channel of the images; got 3"),
        ([levels, "data.transform.more=[{_target_: albumentations.ToGray}]"], "ToGray cannot be applied to a crop"),
        ([levels, "model.encoder.in_channels=3"], "images of 3 channels, the data set's have 2 (data.bands=2)"),
        (["data.bands=0", levels], "data.bands"),
        (["data.bands=3", levels], "train_0.tif has 2 bands, wanted 3"),
    ):
        result = run(train, f"data={data}", *_NETWORK, *settings, f"run_dir={tmp_path / 'run'}")
        assert result.status == 1
        assert message in result.error
        assert not (tmp_path / "run" / "checkpoints").exists()
