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
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import read_pair
from segunet.data.masks import MaskFormat
from segunet.data.voc import Pair
from segunet.demo import __main__ as demo
from segunet.images.palette import voc_palette
from segunet.images.reading import read_image
from segunet.inference import pipeline
from segunet.models.classic_unet import ClassicUNet
from segunet.training.build import check_channels
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
    shown = ["data.shown_bands=[5,2,1]"] if bands == 5 else []
    result = run(train, f"data={proposal}", *_NETWORK, *_LEARN, *shown, f"run_dir={tmp_path / 'run'}")
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
    wanted = r"raster of 5 bands, or an array \(H, W, 5\) of its values, got uint8 \(9, 9, 3\).*numpy\.moveaxis"
    with pytest.raises(segunet.UserError, match=wanted):
        model.predict(np.zeros((9, 9, 3), dtype=np.uint8))


def test_the_bands_that_are_named_are_drawn(run: Command, tmp_path: Path, five_bands: str) -> None:
    model, image = segunet.load(five_bands.partition("=")[2]), tmp_path / "image.tif"
    smooth = np.broadcast_to(np.linspace(2500, 4500, 128), (5, 96, 128)) + np.linspace(0, 1500, 5)[:, None, None]
    write_raster(image, smooth.astype(np.uint16))
    wanted = read_image(image, model.image_range, 5)[..., [4, 1, 0]].astype(int)
    assert run(predict, five_bands, f"input={image}", f"output={tmp_path / 'out'}").status == 0
    bare = model.predict(image) == 0
    assert bare.any()
    with Image.open(tmp_path / "out" / "overlays" / "image.jpg") as written:
        for overlay in (written, model.show(image)):
            drawn = np.asarray(overlay)[:96, :128].astype(int)
            assert np.median(abs(drawn - wanted)[bare]) <= 2


def test_an_array_is_taken_as_a_file_s_values(five_bands: str) -> None:
    model = segunet.load(five_bands.partition("=")[2], precision="32-true")
    path = Path(five_bands.partition("=")[2]).parents[2] / "data" / "JPEGImages" / "val_2.tif"
    with rasterio.open(path) as file:
        stored = np.moveaxis(file.read(), 0, -1)
    wanted = model.predict(path)
    assert wanted.any()
    for values in (stored, stored.astype(np.float32), read_image(path, model.image_range, 5)):
        assert (model.predict(values) == wanted).all()
    with pytest.raises(segunet.UserError, match=r"an array of values of int64, of which black and white are not given"):
        segunet.load(five_bands.partition("=")[2], image_range=None).predict(stored.astype(np.int64))


def test_where_there_is_no_data_nothing_is_predicted_or_learned(run: Command, tmp_path: Path, five_bands: str) -> None:
    values = default_rng(0).integers(1000, 9000, (5, 90, 120), dtype=np.uint16)
    values[:, 20:40, 50:110], values[0, 60:, :] = 0, 0  # of the latter only one band has no data
    path, empty = write_raster(tmp_path / "image.tif", values, nodata=0, **PLACE), (values == 0).all(axis=0)
    for tile in (None, 64):
        mask = segunet.load(five_bands.partition("=")[2], tile=tile).predict(path)
        assert ((mask == 255) == empty).all()
    assert run(predict, five_bands, f"input={path}", f"output={tmp_path / 'out'}").status == 0
    with rasterio.open(tmp_path / "out" / "masks" / "image.tif") as written:
        assert (written.read_masks(1) == np.where(empty, 0, 255)).all()
    Image.fromarray(np.ones((90, 120), dtype=np.uint8)).save(tmp_path / "mask.png")
    form = MaskFormat(2, 255, voc_palette(), bands=5)
    _, mask = read_pair(Pair("image", path, tmp_path / "mask.png"), form)
    assert (mask == np.where(empty, 255, 1)).all()

    for folder, file in (("JPEGImages", path), ("SegmentationClass", tmp_path / "mask.png")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        shutil.copy(file, tmp_path / "data" / folder / f"image{file.suffix}")
    (tmp_path / "data" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "data" / "ImageSets" / "Segmentation" / "val.txt").write_text("image\n")
    given = [five_bands, f"data.root={tmp_path / 'data'}", f"run_dir={tmp_path / 'scored'}"]
    assert run(evaluate, *given, "save_predictions=true").status == 0
    scored = np.asarray(Image.open(tmp_path / "scored" / "predictions" / "image.png"))
    assert ((scored == 255) == empty).all()


def test_a_large_raster_is_predicted_from_its_rows(
    run: Command, tmp_path: Path, five_bands: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = default_rng(0).integers(1000, 9000, (5, 300, 200), dtype=np.uint16)
    options = [five_bands, f"input={write_raster(tmp_path / 'large.tif', values, **PLACE)}", "tile=64"]
    monkeypatch.setattr(pipeline, "_SHOWN_SIDE", 150)
    result = run(predict, *options, f"output={tmp_path / 'out'}", "precision=32-true")
    assert result.status == 0, result.error
    model = segunet.load(five_bands.partition("=")[2], tile=64, precision="32-true")
    wanted = model.predict(read_image(tmp_path / "large.tif", model.image_range, 5))  # of the whole image in memory
    assert (np.asarray(Image.open(tmp_path / "out" / "masks" / "large.png")) == wanted).all()
    with rasterio.open(tmp_path / "out" / "masks" / "large.tif") as mask:
        assert mask.transform == Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with Image.open(tmp_path / "out" / "overlays" / "large.jpg") as overlay:
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


def test_a_network_for_other_channels_is_refused() -> None:
    colours, rasters = (VOCDataModule("x", ["a", "b"], 255, "train", "val", bands=bands) for bands in (None, 2))
    grey = ClassicUNet(2, mean=[1.0], std=[1.0], widths=[4, 8])
    check_channels(grey, colours)  # takes the grey of a colour image
    with pytest.raises(segunet.UserError, match=r"images of 1 channel, .* have 2 \(data\.bands=2\)\. Set model\.in_ch"):
        check_channels(grey, rasters)


def test_settings_that_do_not_go_with_rasters_are_refused_before_the_first_step(run: Command, tmp_path: Path) -> None:
    root = write_raster_folder(tmp_path / "data", "float32", 2)
    write_text(data := tmp_path / "data.yaml", f"root: {root}\nclass_names: [background, square]\nbands: 2\n")
    levels = "data.image_range=[0,1]"
    for settings, message in (
        (
            [],
            "train_0.tif holds values of float32, of which black and white are not given. Set which values",
        ),
        (["data.image_range=[[0,1],[0,1],[0,1]]"], "data.image_range has 3 pairs, wanted one, or data.bands=2"),
        ([levels, "data.mean=[1,2,3]"], "data.mean must have 2 numbers, one per channel; got 3"),
        ([levels, "data.transform.more=[{_target_: albumentations.ToGray}]"], "ToGray cannot be applied to a crop"),
        (
            [levels, "model.encoder.in_channels=3"],
            "model.mean must have 3 numbers, one per channel of the images; got 2",
        ),
        (["data.bands=0", levels], "data.bands"),
        (["data.shown_bands=[1,2]", levels], "data.shown_bands must be three bands for red, green and blue, such as"),
        (["data.shown_bands=2", levels], "or one for grey, from 1, got 2."),
        (["data.shown_bands=[0]", levels], "or one for grey, from 1, got [0]."),
        (["data.shown_bands=[3]", levels], "data.shown_bands=[3]: data.bands is 2. Give bands from 1 to 2."),
        (["data.bands=null", "data.shown_bands=[1]"], "data.shown_bands is for rasters (data.bands). Leave it out"),
        (["data.bands=3", levels], "train_0.tif has 2 bands, wanted 3"),
    ):
        result = run(train, f"data={data}", *_NETWORK, *settings, f"run_dir={tmp_path / 'run'}")
        assert result.status == 1
        assert message in result.error
        assert not (tmp_path / "run" / "checkpoints").exists()
