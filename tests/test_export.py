"""Export through the command itself; what it wrote is scored by the evaluation and read by other libraries."""

import contextlib
import json
import math
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from segunet import evaluate, export, generate, load, predict, train
from segunet.base.errors import UserError
from segunet.cli.overrides import composed
from segunet.formats.interface import Interface
from segunet.formats.output import whole_files
from segunet.formats.read import openvino_core, read_exported
from segunet.formats.write import FORMATS, least_side, traced
from segunet.inference import exporting
from segunet.inference.checkpoint import load_checkpoint
from segunet.inference.fidelity import Comparison, check_same, check_same_masks, check_scores, compare, noise
from segunet.metrics.scores import scores_from_confusion
from segunet.models.classic_unet import ClassicUNet
from segunet.training import build
from tests.commands import CHECKPOINTS, TINY, Command, for_any_size
from tests.commands import SEGMENTATION_MODELS as MODELS
from tests.exports import Exports, export_to_every_format


@pytest.fixture
def exports(trained: Path) -> Exports:
    return export_to_every_format(trained / "voc")


@pytest.fixture
def checkpoint(exports: Exports, tmp_path: Path) -> Path:
    """Copy the checkpoint to a folder of the test's own."""
    return Path(shutil.copy(exports.checkpoint, tmp_path / "net.ckpt"))


def metrics_of(run: Command, checkpoint: Path, out: Path) -> dict[str, Any]:
    result = run(evaluate, f"checkpoint={checkpoint}", f"run_dir={out}")
    assert result.status == 0, result.error
    return json.loads((out / "metrics.json").read_text())  # type: ignore[no-any-return]


def test_the_evaluation_gives_an_exported_file_the_checkpoint_s_scores(
    run: Command, exports: Exports, tmp_path: Path
) -> None:
    wanted = metrics_of(run, exports.checkpoint, tmp_path / "wanted")
    for name, path in exports.files.items():
        got = metrics_of(run, path, tmp_path / name)
        for score in ("miou", "pixel_accuracy", "mean_accuracy", "fwiou"):
            assert got[score] == pytest.approx(wanted[score], abs=1e-3), name


def test_what_stands_in_the_files_is_read_without_segunet(exports: Exports, trained: Path) -> None:
    model = onnx.load(exports.files["onnx"])
    openvino_model = openvino_core().read_model(exports.files["openvino"])
    with zipfile.ZipFile(exports.files["torch_export"]) as archive:
        texts = {
            "onnx": {each.key: each.value for each in model.metadata_props}["segunet"],
            "openvino": openvino_model.get_rt_info(["segunet"]).astype(str),
            "torch_export": archive.read(f"{archive.namelist()[0].split('/')[0]}/extra/segunet.json").decode(),
        }
    for name, text in texts.items():
        card = json.loads(text)
        assert card["class_names"] == ["background", "disc", "square"]
        assert card["palette"][1] == [128, 0, 0]
        assert (card["ignore_index"], card["inference_size"]) == (255, None)
        assert card["data"]["root"] == str(trained / "voc")
        assert card["exporter"].startswith(("onnx", "torch", "openvino"))
        assert str(Path(build.__file__).parent) not in str(text), name
    (images,), (logits,) = model.graph.input, model.graph.output
    axes = [[dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in (images, logits)]
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert axes == [["batch", 3, "height", "width"], ["batch", 3, "height", "width"]]
    assert openvino_model.input("images").partial_shape.is_dynamic
    assert openvino_model.output("logits").element_type.to_string() == "f32"


def small(model: str) -> torch.nn.Module:
    """Build a model config with a short encoder and narrow decoder, from a random start."""
    sizes = ["model.encoder.depth=18", "model.encoder.num_maps=3", "model.decoder.widths=[8,8]"]
    if model == "classic_unet":
        sizes = ["model.widths=[4,8,16]"]
    elif model == "unet_timm":
        sizes = ["model.encoder.name=mobilenetv3_small_050", "model.decoder.widths=[8,8,8,8]"]
        sizes.append("model.decoder.reduced_channels=[4,4,4,4,4]")
    elif model.startswith("unet_resnet50"):
        sizes.append("model.decoder.reduced_channels=[4,4,8]")
    cfg = composed("train", [f"model={model}", "data=voc2012", *for_any_size(model), *sizes])
    torch.manual_seed(0)
    return build.net_from_config(cfg.model).eval()


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_traced_for_any_size(model: str) -> None:
    net = small(model).to(memory_format=torch.channels_last)
    program = traced(net).program.module()
    more = least_side(net) - 1
    assert more == (32 if model == "unet_timm" else 0)
    for count, channels, height, width in ((1, 3, 1, 1), (1, 3, 8, 8), (3, 3, 65, 33), (2, 3, 7, 90)):
        images = torch.randint(256, (count, channels, height + more, width + more), dtype=torch.uint8)
        with torch.no_grad():
            wanted = net(images)
            torch.testing.assert_close(program(images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))
    assert program.to("meta")(images.to("meta")).shape == wanted.shape  # nothing ties it to the CPU


def test_an_unpadded_network_is_traced_for_any_size_that_it_can_mirror() -> None:
    torch.manual_seed(0)
    net = ClassicUNet(2, mean=[127.5], std=[127.5], widths=(4, 8, 16)).eval()  # mirrors 20 pixels
    program = traced(net).program.module()
    for shape in ((1, 3, 21, 21), (2, 3, 72, 104), (3, 3, 65, 33)):
        images = torch.randint(256, shape, dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(program(images), net(images), rtol=1e-4, atol=1e-4)


def test_an_unpadded_network_is_exported_and_predicts_in_tiles_what_the_whole_image_gives(
    run: Command, trained: Path, tmp_path: Path
) -> None:
    data = [f"data.root={trained / 'voc'}", *(each for each in TINY if each.startswith(("data", "trainer")))]
    options = ["model=classic_unet", "model.widths=[2,4,4,4,4]", "data.transform.crop_size=96", "trainer.max_steps=1"]
    run(train, *data, *options, "data.transform.base_size=120", "inference_size=128", f"run_dir={tmp_path / 'run'}")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert run(export, f"checkpoint={checkpoint}", "format=torch_export", "images=2").status == 0
    image = np.random.default_rng(0).integers(0, 256, (150, 310, 3), dtype=np.uint8)
    for suffix in (".ckpt", ".pt2"):
        path = checkpoint.with_suffix(suffix)
        whole, tiles = (load(path, inference_size=None, tile=tile).predict(image) for tile in (None, 64))
        assert (whole != tiles).mean() < 1e-4, suffix
        with pytest.raises(UserError):
            load(path).predict(image[:60])


def test_the_command_compares_and_writes_beside_the_checkpoint(exports: Exports) -> None:
    folder = exports.files["onnx"].parent
    suffixes = (".ckpt", ".onnx", ".pt2", ".xml", ".bin")
    assert {path.name for path in folder.iterdir()} == {*CHECKPOINTS, *(f"best{suffix}" for suffix in suffixes)}
    for name, path in exports.files.items():
        for wanted in ("mIoU", "pixels of the same class", "100.000 %", "images/s", "(3 images", f"written to {path}"):
            assert wanted in exports.printed[name], (name, wanted)


def test_a_file_that_differs_is_not_written_and_an_older_one_stays(
    run: Command, exports: Exports, checkpoint: Path
) -> None:
    options = [f"checkpoint={checkpoint}", "format=onnx", "images=3"]
    shutil.copy(exports.files["onnx"], checkpoint.with_suffix(".onnx"))
    older = checkpoint.with_suffix(".onnx").read_bytes()
    result = run(export, *options, "tolerance.logits=0")
    assert result.status == 1
    assert "tolerance.logits" in result.error
    assert checkpoint.with_suffix(".onnx").read_bytes() == older
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["net.ckpt", "net.onnx"]
    assert run(export, *options).status == 0


@pytest.mark.parametrize(("name", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml"), ("torch_export", ".pt2")])
def test_a_file_of_something_else_is_left_alone(run: Command, checkpoint: Path, name: str, suffix: str) -> None:
    checkpoint.with_suffix(suffix).write_text("precious")
    result = run(export, f"checkpoint={checkpoint}", f"format={name}")
    assert result.status == 1
    assert f"net{suffix} exists and would be overwritten" in result.error
    assert checkpoint.with_suffix(suffix).read_text() == "precious"


def test_weights_of_something_else_are_left_alone(run: Command, checkpoint: Path) -> None:
    checkpoint.with_suffix(".bin").write_text("precious")
    result = run(export, f"checkpoint={checkpoint}", "format=openvino")
    assert result.status == 1
    assert "net.bin exists without net.xml" in result.error
    assert checkpoint.with_suffix(".bin").read_text() == "precious"


def test_two_exports_to_one_place_do_not_meet_and_a_killed_one_s_draft_goes(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (tmp_path / f".segunet-{killed.pid}-draft").mkdir()
    with whole_files(tmp_path / "net.onnx") as first, whole_files(tmp_path / "net.onnx") as second:
        first.write_text("first")
        second.write_text("second")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("net.onnx", "first")]


@pytest.mark.parametrize(
    ("difference", "agreement", "same"),
    [(0.01, 0.9995, True), (0.011, 1.0, False), (0.0, 0.998, False), (math.nan, 1.0, False), (0.0, math.nan, False)],
)
def test_the_tolerance_is_of_the_largest_logit(difference: float, agreement: float, same: bool) -> None:
    scores = scores_from_confusion([[1]], images=1)
    comparison = Comparison(difference, 10.0, agreement, (scores, scores), (1.0, 1.0))
    with contextlib.nullcontext() if same else pytest.raises(UserError, match="differs from the original"):
        check_same(comparison, logits=1e-3, agreement=0.999)


def test_a_network_that_cannot_be_traced_is_a_paragraph(tmp_path: Path) -> None:
    class OnlySquares(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float() if images.shape[2] > 70 else images.float() + 1

    with pytest.raises(UserError, match=r"could not be written as \.pt2: \w+: "):
        exporting.write(lambda: traced(OnlySquares()), {}, FORMATS["torch_export"], tmp_path / "net.pt2", None)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_network_is_written_in_8_bits(run: Command, trained: Path, tmp_path: Path, name: str) -> None:
    larger = trained / "checkpoints" / "best.ckpt"
    path = tmp_path / f"int8{FORMATS[name].suffix}"
    options = [f"checkpoint={larger}", f"format={name}", f"output={path}", "images=3", "calibration_images=4"]
    result = run(export, *options, "quantize=int8", "tolerance.miou=0.2")
    assert result.status == 0, result.error
    weights = torch.load(larger, weights_only=True)["state_dict"]
    assert int8_weights(path) == sum(value.ndim == 4 and name.endswith("weight") for name, value in weights.items())
    size = sum(each.stat().st_size for each in (path, path.with_suffix(".bin")) if each.exists())
    assert size < 0.5 * sum(4 * value.numel() for value in weights.values())
    scores = metrics_of(run, path, tmp_path / "scored")
    assert scores["miou"] == pytest.approx(metrics_of(run, larger, tmp_path / "wanted")["miou"], abs=0.2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged" in run(evaluate, f"checkpoint={path}", f"run_dir={tmp_path / 'broken'}").error


def int8_weights(path: Path) -> int:
    """Return how many convolutions' weights a file holds in int8, with a scale per output channel."""
    if path.suffix == ".onnx":
        model = onnx.load(path)
        stored = {each.name: each for each in model.graph.initializer}
        scaled = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
        weights = [node for node in scaled if len(stored[node.input[0]].dims) == 4]
        assert {stored[node.input[0]].data_type for node in weights} == {onnx.TensorProto.INT8}
        channels = [(stored[node.input[0]].dims[0], *stored[node.input[1]].dims) for node in weights]
        assert all(count == scales for count, scales in channels)
        return len(weights)
    model = openvino_core().read_model(path)
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return sum(len(node.shape) == 4 and node.get_element_type().to_string() == "i8" for node in constants)


def test_8_bits_that_lose_too_much_are_not_written(run: Command, checkpoint: Path) -> None:
    good, worse = scores_from_confusion([[9, 0], [0, 9]], images=1), scores_from_confusion([[9, 0], [1, 8]], images=1)
    check_scores(Comparison(3.0, 10.0, 0.9, (good, worse), (1.0, 1.0)), miou=good.miou - worse.miou + 1e-9)
    for after, difference in ((worse, 3.0), (good, math.nan)):
        with pytest.raises(UserError, match="Nothing was written"):
            check_scores(Comparison(difference, 10.0, 0.9, (good, after), (1.0, 1.0)), miou=0.01)
    result = run(export, f"checkpoint={checkpoint}", "quantize=int8", "calibration_split=nowhere")
    assert (result.status, "nowhere.txt" in result.error) == (1, True)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["net.ckpt"]


def test_what_it_takes_is_checked_before_the_data(
    run: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "images_to_compare", None)
    assert "batch must be greater than or equal to 1" in run(export, f"checkpoint={checkpoint}", "batch=0").error


def test_bad_input_is_one_paragraph(run: Command, checkpoint: Path) -> None:
    for override, message in {
        "format=tflite": "onnx, torch_export, openvino",
        "checkpoint=null": "checkpoint=PATH",
        "checkpoint=/nowhere.ckpt": "/nowhere.ckpt",
        "checkpoint=net.onnx": "an exported network already",
        "output=net.pt2": "such as net.onnx",
        "output=/dev/null/net.onnx": "could not be written",
        "images=0": "images must be greater than or equal to 1, got 0",
        "tolerance.logits=much": "tolerance.logits must be a valid number, got 'much'",
        "tolerance=null": "tolerance must be",
        "quantize=int4": "quantize must be",
        "calibration_images=0": "calibration_images must be",
        "tolerance.miou=2": "tolerance.miou must be",
        "seed=abc": "seed must be a valid integer, got 'abc'",
        "data.root=/nowhere": "data.root",
        "size=large": "size must be a side in pixels, such as 512, or [height,width], got 'large'",
        "size=[512]": "size must be a side in pixels, such as 512, or [height,width], got [512]",
        "size=0": "size[0] must be greater than or equal to 1, got 0",
        "size=[0,64]": "size[0] must be greater than or equal to 1, got 0",
        "size=[4000,4000]": "batch and size: wanted at most 8,388,608 pixels at once, got 16,000,000",
        "batch=0": "batch must be greater than or equal to 1, got 0",
        "argmax=1": "argmax must be true or false, got 1",
        "split=nowhere": "nowhere.txt",
    }.items():
        result = run(export, f"checkpoint={checkpoint}", override)
        assert result.status == 1
        assert result.error.startswith("error: ")
        assert message in result.error
        assert "Traceback" not in result.error
    assert [path.name for path in checkpoint.parent.iterdir()] == ["net.ckpt"]


@pytest.mark.parametrize("name", FORMATS)
def test_masks_of_float_images_of_one_size_and_number(
    run: Command, exports: Exports, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"masks{FORMATS[name].suffix}"
    options = [f"checkpoint={exports.checkpoint}", f"format={name}", f"output={path}", "images=3"]
    result = run(export, *options, "argmax=true", "float_input=true", "size=[48,80]", "batch=2")
    assert result.status == 0, result.error
    assert "pixels of the same class" in result.output
    assert "largest logit" not in result.output
    exported, card = read_exported(path)
    assert card["input"] == "images: float32 (2, 3, 48, 80), RGB, 0..255, without normalization"
    assert card["output"].startswith("masks: uint8")
    original, loaded = (load_checkpoint(each).net for each in (exports.checkpoint, path))
    images = torch.randint(256, (3, 3, 48, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, masks = original(images).argmax(dim=1), exported.run(images[:2].float())
        assert masks.dtype == torch.uint8
        assert (masks == wanted[:2]).float().mean() > 0.999
        assert (loaded(images).argmax(dim=1) == wanted).float().mean() > 0.999  # three of two at a time
        assert loaded(images[..., :33, :70]).shape == (3, 3, 33, 70)
    miou, of_checkpoint = (metrics_of(run, each, tmp_path / each.suffix)["miou"] for each in (path, exports.checkpoint))
    assert miou == pytest.approx(of_checkpoint, abs=0.1)


@pytest.mark.parametrize("model", MODELS)
def test_masks_and_single_images_of_every_model_are_traced_for_any_size(model: str) -> None:
    net = small(model)
    least = least_side(net)
    for interface in (Interface(argmax=True), Interface(batch=1)):
        program = traced(net, interface).program.module()
        for side in (least, least + 32):
            images = torch.randint(256, (1, 3, side, side + 7), dtype=torch.uint8)
            with torch.no_grad():
                wanted = net(images).argmax(dim=1)
                got = program(images) if interface.argmax else program(images).argmax(dim=1)
            assert (got == wanted).float().mean() > 0.99


def test_masks_of_an_unpadded_network_are_exported(run: Command, trained: Path, tmp_path: Path) -> None:
    data = [f"data.root={trained / 'voc'}", *(each for each in TINY if each.startswith(("data", "trainer")))]
    options = ["model=classic_unet", "model.widths=[2,4,8]", "data.transform.crop_size=64", "trainer.max_epochs=1"]
    assert run(train, *data, *options, f"run_dir={tmp_path / 'run'}").status == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    result = run(export, f"checkpoint={checkpoint}", "format=onnx", "argmax=true", "images=1")
    assert result.status == 0, result.error


def test_masks_that_differ_on_noise_alone_are_refused() -> None:
    same = Comparison(0.0, 20.0, 1.0, None, None)
    check_same_masks(same, 0.999)
    with pytest.raises(UserError, match=r"99\.800 % of the pixels have the same class, wanted at least 99\.9 %"):
        check_same_masks(replace(same, agreement=0.998), 0.999)
    with pytest.raises(UserError, match=r"99\.800 %"):
        check_same_masks(replace(same, on_noise=0.998), 0.999)

    class Constant(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 2, *images.shape[-2:]).cumsum(dim=1)

    class Other(Constant):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).flip(1) if images.shape[-1] == 47 else super().forward(images)

    assert compare(Constant(), Constant(), noise(1, seed=0), None).agreement == 1
    assert compare(Constant(), Other(), noise(1, seed=0), None).agreement < 0.95


def test_a_mask_of_more_classes_than_its_card_has_is_refused() -> None:
    masks = Interface(argmax=True).for_any_images(torch.nn.Identity(), num_classes=2)
    assert masks(torch.ones(1, 4, 5, dtype=torch.uint8)).shape == (1, 2, 4, 5)
    with pytest.raises(UserError, match="mask has class 2, but there are only 2 classes"):
        masks(torch.full((1, 4, 5), 2, dtype=torch.uint8))


def test_what_is_exported_for_batches_is_calibrated_on_batches(run: Command, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", "format=onnx", f"output={path}", "images=3"]
    options += ["quantize=int8", "calibration_images=3", "argmax=true", "float_input=true", "batch=2"]
    assert "needs images of one size: give size, too" in run(export, *options).error
    result = run(export, *options, "size=64", "tolerance.miou=0.3")
    assert result.status == 0, result.error
    masks, _ = read_exported(path)
    assert masks.run(torch.zeros(2, 3, 64, 64)).shape == (2, 64, 64)


def test_what_averages_masks_or_wants_their_probabilities_is_refused(
    run: Command, exports: Exports, tmp_path: Path
) -> None:
    path = tmp_path / "masks.pt2"
    options = ["argmax=true", "images=1", f"output={path}"]
    assert run(export, f"checkpoint={exports.checkpoint}", "format=torch_export", *options).status == 0
    model, image = load(path), np.zeros((40, 50, 3), dtype=np.uint8)
    assert model.predict(image).shape == (40, 50)
    refused = "the network was exported with argmax=true and gives masks, which cannot be averaged and have no prob"
    with pytest.raises(UserError, match=f"scores: {refused}"):
        model.scores(image)
    Image.fromarray(image).save(tmp_path / "image.png")
    predicted = [f"input={tmp_path / 'image.png'}", f"output={tmp_path / 'out'}"]
    for module, checkpoints, option, words in (
        (predict, path, ["save_probabilities=true", *predicted], f"save_probabilities: {refused}"),
        (predict, path, ["tta=multiscale", *predicted], f"tta=multiscale: {refused}"),
        (evaluate, path, ["tta=flip"], f"tta=flip: {refused}"),
        (predict, f"[{path},{exports.checkpoint}]", predicted, f"checkpoint={path}: {refused}"),
        (evaluate, f"[{exports.checkpoint},{path}]", [], f"checkpoint={path}: {refused}"),
    ):
        result = run(module, f"checkpoint={checkpoints}", *option)
        assert (result.status, words in result.error) == (1, True), result.error
    assert not (tmp_path / "out").exists()


def test_opencv_takes_what_is_exported_for_it(run: Command, exports: Exports, tmp_path: Path) -> None:
    path = tmp_path / "opencv.onnx"
    given = ["argmax=true", "float_input=true", "size=[64,96]", "batch=1", "images=1"]
    assert run(export, f"checkpoint={exports.checkpoint}", "format=onnx", f"output={path}", *given).status == 0
    net = cv2.dnn.readNetFromONNX(str(path))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    net.setInput(cv2.dnn.blobFromImage(image))
    wanted = load(exports.checkpoint).predict(image)
    assert (net.forward()[0] == wanted).mean() > 0.999


def test_the_version_of_onnx_s_operators(run: Command, checkpoint: Path) -> None:
    options = [f"checkpoint={checkpoint}", "images=1"]
    assert run(export, *options, "format=onnx", "opset=18").status == 0
    assert {each.domain: each.version for each in onnx.load(checkpoint.with_suffix(".onnx")).opset_import} == {"": 18}
    assert "opset must be greater than or equal to 18, got 5" in run(export, *options, "opset=5").error
    assert "opset=18 is for format=onnx" in run(export, *options, "format=openvino", "opset=18").error


def test_without_the_data_set_noise_has_to_do(run: Command, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    (tmp_path / "other data").mkdir()
    for elsewhere in (tmp_path / "elsewhere", tmp_path / "other data"):
        content["segunet"]["data"]["root"] = str(elsewhere)
        torch.save(content, checkpoint)
        result = run(export, f"checkpoint={checkpoint}", "format=torch_export")
        assert result.status == 0, result.error
        assert f"{elsewhere} is not here: the networks are compared on noise alone" in result.output
        assert "mIoU" not in result.output
        assert "noise of several sizes" in result.output
    result = run(export, f"checkpoint={checkpoint}", "format=onnx", "quantize=int8")
    assert (result.status, "needs images" in result.error) == (1, True)


def test_generate_says_what_an_exported_segmentation_network_is(run: Command, exports: Exports, tmp_path: Path) -> None:
    for path in exports.files.values():
        result = run(generate, f"checkpoint={path}", f"output={tmp_path}/out")
        assert result.status == 1
        assert f"python -m segunet.predict checkpoint={path} input=PATH" in result.error


def test_8_bits_are_not_for_every_format_and_network(run: Command, checkpoint: Path, denoiser: Path) -> None:
    result = run(export, f"checkpoint={checkpoint}", "format=torch_export", "quantize=int8")
    assert (result.status, "is for format=onnx and format=openvino" in result.error) == (1, True)
    result = run(export, f"checkpoint={denoiser / 'checkpoints' / 'best.ckpt'}", "quantize=int8")
    assert (result.status, "a denoiser stays in float32" in result.error) == (1, True)
    result = run(export, f"checkpoint={denoiser / 'checkpoints' / 'best.ckpt'}", "size=[64,64]")
    assert (result.status, "only for segmentation networks" in result.error) == (1, True)


def test_a_missing_package_is_named(run: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    result = run(export, f"checkpoint={checkpoint}", "format=openvino", "quantize=int8")
    assert (result.status, "segunet[int8]" in result.error) == (1, True)
    for name, package in (("onnx", "onnxscript"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)
        result = run(export, f"checkpoint={checkpoint}", f"format={name}")
        assert result.status == 1
        assert f"segunet[{name}]" in result.error


def test_openvino_s_telemetry_is_never_imported(exports: Exports) -> None:
    assert exports.files["openvino"].is_file()
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules  # what OpenVINO takes instead
    assert "openvino_telemetry.main" not in sys.modules


def test_weights_are_written_as_they_are(run: Command, exports: Exports, tmp_path: Path) -> None:
    options = [f"checkpoint={exports.checkpoint}", "format=safetensors", f"output={tmp_path / 'net.safetensors'}"]
    for _ in range(2):  # the second replaces the first
        result = run(export, *options)
        assert result.status == 0, result.error
    assert f"python -m segunet.evaluate checkpoint={tmp_path / 'net.safetensors'}" in result.output
    image = np.random.default_rng(0).integers(0, 256, (41, 50, 3), dtype=np.uint8)
    given, written = load(exports.checkpoint), load(tmp_path / "net.safetensors")
    assert (written.scores(image) == given.scores(image)).all()
    assert (written.class_names, written.image_range) == (given.class_names, given.image_range)
    assert run(evaluate, f"checkpoint={tmp_path / 'net.safetensors'}", f"run_dir={tmp_path / 'out'}").status == 0
    (tmp_path / "other.safetensors").write_bytes(b"mine")
    for setting, words in (
        ("size=[8,8]", "size=[8,8]: format=safetensors holds the weights as they are"),
        (f"output={tmp_path / 'other.safetensors'}", "other.safetensors exists and would be overwritten"),
        (f"output={tmp_path / 'net.ckpt'}", "must be the name of a .safetensors file"),
    ):
        assert words in run(export, *options[:2], setting).error
    save_file({"net.a": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "has no description of its model" in run(evaluate, f"checkpoint={tmp_path / 'other.safetensors'}").error
