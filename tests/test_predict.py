"""Prediction through the command itself, on what training wrote."""

import errno
import json
import os
import re
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

import segunet
from segunet import evaluate, predict
from segunet.base import environment
from segunet.data.voc import list_pairs
from segunet.images.drawing import frame_legend, overlay, palette_image, stack
from segunet.images.levels import Range
from segunet.images.reading import read_image
from segunet.images.video import Frame, VideoWriter, read_frames, video_writer
from segunet.inference import pipeline
from tests.commands import Command

needs_video = pytest.mark.skipif(find_spec("av") is None, reason="needs the extra segunet[video]")


@pytest.fixture
def checkpoint(trained: Path) -> str:
    return f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"


def mask_of(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.asarray(Image.open(path))


def distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(abs(one.astype(int) - other).mean())


def flat(output: str) -> str:
    """Undo the terminal's line breaks."""
    return " ".join(output.split())


def random_image(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    noise = default_rng(seed).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((size[1], size[0]), Image.Resampling.BILINEAR).save(path)
    return path


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_a_folder_s_masks_are_those_of_the_evaluation(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, tta: str
) -> None:
    options = [checkpoint, f"tta={tta}", f"run_dir={tmp_path / 'ev'}", "save_predictions=true", "data.val_batch_size=1"]
    result = run(evaluate, *options)
    assert result.status == 0, result.error
    result = run(predict, checkpoint, f"tta={tta}", f"input={trained}/voc/JPEGImages", f"output={tmp_path / 'out'}")
    assert result.status == 0, result.error
    assert "10 images in" in result.output
    colours = segunet.load(checkpoint.removeprefix("checkpoint=")).colours
    for pair in list_pairs(trained / "voc", "val"):
        ours = Image.open(tmp_path / "out" / "masks" / f"{pair.name}.png")
        theirs = Image.open(tmp_path / "ev" / "predictions" / f"{pair.name}.png")
        assert ours.mode == "P"
        assert ours.getpalette() == theirs.getpalette()
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        image = read_image(pair.image)
        drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / f"{pair.name}.jpg")).astype(int)
        assert drawn.shape[0] > len(image)  # a legend below
        mask = np.asarray(ours)
        far = abs(drawn[: len(image), : image.shape[1]] - overlay(image, mask, colours))
        assert all(far[mask == index].mean() < 9 for index in np.unique(mask))  # JPEG makes noise of noise


def test_an_image_alone_and_one_of_another_kind(run: Command, checkpoint: str, tmp_path: Path) -> None:
    random_image(tmp_path / "one.tif", (33, 101))
    Image.new("LA", (50, 40)).save(tmp_path / "grey.png")
    for name in ("one.tif", "grey.png"):
        assert run(predict, checkpoint, f"input={tmp_path / name}", f"output={tmp_path / 'out'}").status == 0
    assert mask_of(tmp_path / "out/masks/one.png").shape == (33, 101)
    assert mask_of(tmp_path / "out/masks/grey.png").shape == (40, 50)


@pytest.mark.parametrize("tta", ["none", "multiscale"])
def test_tiles_predict_nearly_what_the_whole_image_gives(
    run: Command, checkpoint: str, tmp_path: Path, tta: str
) -> None:
    image = random_image(tmp_path / "image.png", (200, 300))
    for name, tile in (("whole", "null"), ("tiles", "128"), ("one", "512")):
        options = [f"tile={tile}", f"tta={tta}", f"output={tmp_path / name}", "overlap=0.5"]
        assert run(predict, checkpoint, f"input={image}", *options).status == 0
    whole, tiles, one = (mask_of(tmp_path / name / "masks" / "image.png") for name in ("whole", "tiles", "one"))
    common = [index for index in np.unique(whole) if (whole == index).mean() > 0.05]
    assert len(common) > 1
    for index in common:  # a tile's edge sees less of what is around it
        assert ((tiles == index) & (whole == index)).sum() > 0.5 * ((tiles == index) | (whole == index)).sum()
    np.testing.assert_array_equal(one, whole)


def test_probabilities_are_written_beside_the_masks(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    options = [checkpoint, f"input={trained / 'voc' / 'JPEGImages'}", f"output={tmp_path / 'out'}"]
    assert run(predict, *options, "save_probabilities=true").status == 0
    for pair in list_pairs(trained / "voc", "val"):
        mask = mask_of(tmp_path / "out" / "masks" / f"{pair.name}.png")
        with np.load(tmp_path / "out" / "probabilities" / f"{pair.name}.npz") as file:
            assert file["class_names"].tolist() == ["background", "disc", "square"]
            probabilities = file["probabilities"]
        assert (probabilities.dtype, probabilities.shape) == (np.float16, (3, *mask.shape))
        assert (probabilities.argmax(axis=0) == mask).mean() > 0.99  # half precision has ties
    (tmp_path / "out" / "probabilities" / "val_1.npz").unlink()
    result = run(predict, *options, "save_probabilities=true", "skip_existing=true")
    assert "9 of 10 inputs predicted before" in result.output
    assert run(predict, *options).status == 0  # whose results are not those of other settings
    assert not list((tmp_path / "out" / "probabilities").iterdir())


def test_outlines_are_written_as_geojson_and_go_on_after_a_stop(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    options = [checkpoint, f"input={trained / 'voc' / 'JPEGImages'}", f"output={tmp_path / 'out'}", "polygons=geojson"]
    assert run(predict, *options).status == 0
    for path in (tmp_path / "out" / "masks").glob("*.png"):
        content = json.loads((tmp_path / "out" / "polygons" / f"{path.stem}.geojson").read_text())
        found = {each["properties"]["class"] for each in content["features"]}
        wanted = {["background", "disc", "square"][value] for value in np.unique(mask_of(path)) if value}
        assert found == wanted
        drawn = np.zeros(mask_of(path).shape, dtype=bool)
        for each in content["features"]:
            outline, *holes = (np.array(ring)[:, ::-1] - 0.5 for ring in each["geometry"]["coordinates"])
            inside = polygon2mask(drawn.shape, outline)  # type: ignore[no-untyped-call]
            for hole in holes:
                inside &= ~polygon2mask(drawn.shape, hole)  # type: ignore[no-untyped-call]
            drawn |= inside
        assert (drawn == (mask_of(path) > 0)).mean() > 0.97  # the outlines are simplified
    (tmp_path / "out" / "polygons" / "val_1.geojson").unlink()
    result = run(predict, *options, "skip_existing=true")
    assert "9 of 10 inputs predicted before and skipped" in flat(result.output)
    assert (tmp_path / "out" / "polygons" / "val_1.geojson").is_file()


def test_outlines_are_written_as_coco_s_instances(run: Command, trained: Path, checkpoint: str, tmp_path: Path) -> None:
    options = [checkpoint, f"input={trained / 'voc' / 'JPEGImages'}", f"output={tmp_path / 'out'}", "polygons=coco"]
    assert run(predict, *options).status == 0
    api = COCO(tmp_path / "out" / "annotations.json")
    assert sorted(each["file_name"] for each in api.dataset["images"]) == sorted(
        path.name for path in (trained / "voc" / "JPEGImages").iterdir()
    )
    for image in api.dataset["images"]:
        mask = mask_of(tmp_path / "out" / "masks" / f"{Path(image['file_name']).stem}.png")
        assert (image["height"], image["width"]) == mask.shape
        drawn = np.zeros_like(mask)
        for annotation in api.imgToAnns[image["id"]]:
            drawn[api.annToMask(annotation) > 0] = annotation["category_id"]
        assert (drawn == mask).mean() > 0.93
    assert "polygons" in run(predict, *options[:-1], "polygons=shapefile").error
    assert "polygon_tolerance" in run(predict, *options, "polygon_tolerance=-1").error


@needs_video
def test_the_masks_of_a_video_are_those_of_its_frames(run: Command, checkpoint: str, tmp_path: Path) -> None:
    clip, folder = write_clip(tmp_path / "clip.mp4", 60), tmp_path / "out" / "frame_masks" / "clip"
    options = [checkpoint, f"input={clip}", f"output={tmp_path / 'out'}"]
    result = run(predict, *options, "save_frame_masks=true")
    assert result.status == 0, result.error
    model = segunet.load(checkpoint.removeprefix("checkpoint="))
    assert [path.name for path in sorted(folder.iterdir())] == [f"{number:06d}.png" for number in range(7)]
    for number, frame in enumerate(read_frames(clip)):
        np.testing.assert_array_equal(mask_of(folder / f"{number:06d}.png"), model.predict(frame.image))
    assert run(predict, *options).status == 0
    assert not list(folder.iterdir())


def test_nothing_is_written_through_a_link_out_of_the_folder(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.png"
    truth.write_bytes(b"precious")
    run(predict, checkpoint, f"input={trained}/voc/JPEGImages/val_1.jpg", f"output={tmp_path / 'first'}")
    (tmp_path / "first" / "masks" / "val_0.png").symlink_to(truth)
    result = run(predict, checkpoint, f"input={trained}/voc/JPEGImages/val_0.jpg", f"output={tmp_path / 'first'}")
    assert result.status == 1
    assert "leads out of its folder" in result.output
    assert truth.read_bytes() == b"precious"


def test_a_link_out_of_the_folder_is_no_earlier_result(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    options = [checkpoint, f"input={trained / 'voc' / 'JPEGImages'}", f"output={tmp_path / 'out'}"]
    assert run(predict, *options).status == 0
    mask, elsewhere = tmp_path / "out" / "masks" / "val_0.png", tmp_path / "elsewhere.png"
    mask.rename(elsewhere)
    mask.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    result = run(predict, *options)
    assert result.status == 1
    assert "leads out of its folder" in flat(result.output)
    assert elsewhere.read_bytes() == before


def test_what_cannot_be_read_is_named_and_the_others_go_on(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = (trained / "voc" / "JPEGImages" / "val_0.jpg").read_bytes()
    (folder / "a good one.jpg").write_bytes(good)
    (folder / "cut.jpg").write_bytes(good[:-300])
    (folder / "empty.png").touch()
    (folder / "text.mp4").write_text("no video")
    pages = [Image.new("RGB", (64, 48), (value, 0, 0)) for value in range(3)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "other disk").mkdir()
    (tmp_path / "other disk" / "zuletzt.jpg").write_bytes(good)
    (folder / "linked").symlink_to(tmp_path / "other disk")
    result = run(predict, checkpoint, f"input={folder}", f"output={tmp_path / 'out'}")
    assert result.status == 1
    assert "4 of 6 inputs" in result.error
    assert "The others are in" in result.error
    for name in ("cut.jpg", "empty.png", "text.mp4", "stack.tif holds 3 pages"):
        assert name in flat(result.output)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        *("a good one.jpg", "a good one.png", "config.yaml", "zuletzt.jpg", "zuletzt.png"),
    ]


def write_clip(path: Path, width: int = 64, count: int = 7) -> Path:
    """Write blotches that change, five frames a second."""
    with path.open("wb") as file, video_writer(file, Fraction(5)) as writer:
        for number in range(count):
            image = read_image(random_image(path.with_suffix(".png"), (48, width), number))
            writer.write(Frame(image, number / 5))
    path.with_suffix(".png").unlink()
    return path


@needs_video
@pytest.mark.parametrize("width", [60, 222, 260, 371])  # where the legend breaks into lines
def test_a_video(run: Command, checkpoint: str, tmp_path: Path, width: int) -> None:
    clip = write_clip(tmp_path / "clip.mp4", width)
    result = run(predict, checkpoint, f"input={clip}", f"output={tmp_path / 'out'}")
    assert result.status == 0, result.error
    assert re.search(r"clip\.mp4: 7 frames in .* frames/s; \d+ % of it in the network\)", flat(result.output))
    drawn = list(read_frames(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert [frame.time for frame in drawn] == pytest.approx([number / 5 for number in range(7)], abs=1e-3)
    assert all(frame.image.shape == drawn[0].image.shape for frame in drawn)
    assert drawn[0].image.shape[0] == 48 + 4 + 2 * 28 + 4  # a legend of two lines below
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["config.yaml", "clip.mp4"]
    expected = compressed(expected_frames(checkpoint, clip), tmp_path / "expected.mp4")
    for frame, overlaid, wanted in zip(read_frames(clip), drawn, expected, strict=True):
        assert distance(overlaid.image, wanted.image) < 1
        image = wanted.image[:48, :width]
        assert distance(frame.image[:, :width], image) > 3 * distance(overlaid.image[:48, :width], image)


def expected_frames(checkpoint: str, clip: Path) -> Iterator[Frame]:
    """Yield each frame's overlay, above the legend of its classes."""
    model = segunet.load(checkpoint.removeprefix("checkpoint="))
    for frame in read_frames(clip):
        mask = model.predict(frame.image)
        below = frame_legend(np.unique(mask).tolist(), model.colours, frame.image.shape[1])
        yield Frame(stack([overlay(frame.image, mask, model.colours), below]), frame.time)


def compressed(frames: Iterable[Frame], path: Path) -> list[Frame]:
    """Return the frames as a video has them."""
    with path.open("wb") as file, video_writer(file, Fraction(5)) as writer:
        for frame in frames:
            writer.write(frame)
    return list(read_frames(path))


def patch_stages(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[str, Callable[..., Any]], Any]) -> None:
    """Wrap what reads, predicts and writes an image, or a frame."""

    def frames(path: Path) -> Iterator[Frame]:
        yield from map(wrap("read", lambda frame: frame), read_frames(path))

    monkeypatch.setattr(pipeline, "read_frames", frames)
    monkeypatch.setattr(pipeline, "read_image", wrap("read", read_image))
    monkeypatch.setattr(segunet.Predictor, "predict", wrap("predict", segunet.Predictor.predict))
    monkeypatch.setattr(VideoWriter, "write", wrap("write", VideoWriter.write))
    monkeypatch.setattr(pipeline, "palette_image", wrap("write", palette_image))


@pytest.mark.parametrize("kind", ["images", pytest.param("video", marks=needs_video)])
def test_one_is_read_and_one_is_written_while_another_is_predicted(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    second_read, second_predicted = threading.Event(), threading.Event()

    def wrap(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = count(1)

        def staged(*given: Any) -> Any:
            match (stage, next(calls)):
                case ("read", 2):
                    second_read.set()
                case ("predict", 1):
                    assert second_read.wait(5)
                case ("predict", 2):
                    second_predicted.set()
                case ("write", 1):
                    assert second_predicted.wait(5)
            return function(*given)

        return staged

    given = write_clip(tmp_path / "clip.mp4") if kind == "video" else trained / "voc" / "JPEGImages"
    patch_stages(monkeypatch, wrap)
    result = run(predict, checkpoint, f"input={given}", f"output={tmp_path / 'out'}")
    assert result.status == 0, result.error


@needs_video
@pytest.mark.parametrize(
    ("failing", "error", "status", "said"),
    [
        ("read", segunet.UserError("it is damaged"), 1, "it is damaged"),
        ("predict", segunet.UserError("it is too large"), 1, "it is too large"),
        ("write", OSError(errno.EIO, os.strerror(errno.EIO)), 1, "Input/output error"),
        ("predict", KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_video_that_fails_at_any_stage_is_named_once_and_leaves_nothing_behind(
    run: Command,
    checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    error: BaseException,
    status: int,
    said: str,
) -> None:
    def wrap(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = count(1)

        def staged(*given: Any) -> Any:
            if stage == failing and next(calls) == 3:
                raise error
            return function(*given)

        return staged

    clip, before = write_clip(tmp_path / "clip.mp4"), set(threading.enumerate())
    patch_stages(monkeypatch, wrap)
    result = run(predict, checkpoint, f"input={clip}", f"output={tmp_path / 'out'}")
    assert result.status == status
    assert said in flat(result.output)
    assert result.output.count("clip.mp4: ") == (status == 1)
    assert ("1 of 1 input could not" in result.error) == (status == 1)
    assert "The others" not in result.error
    assert not list((tmp_path / "out" / "overlays").iterdir())
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tile=0", "tile must be"),
        ("tile=51.5", "tile must be"),
        ("tile=true", "tile must be"),
        ("overlap=null", "overlap must be"),
        ("checkpoint=2024", "2024"),
        (f"input={'long' * 100}", "cannot be read"),
        ("overlap=1", "overlap must be"),
        ("tta=rotate", "tta must be one of none, flip"),
        ("inference_size=-1", "inference_size must be"),
        ("inference_size=big", "inference_size must be"),
        ("accelerator=abacus", "accelerator=abacus"),
        ("precision=3", "precision=3"),
        ("input=nowhere", "nowhere"),
        ("input=null", "Which input?"),
        ("input=''", "Which input?"),
        ("checkpoint=null", "Which checkpoint?"),
        ("checkpoint=gone.ckpt", "gone.ckpt"),
    ],
)
def test_bad_settings_are_said_and_nothing_is_written(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, setting: str, said: str
) -> None:
    options = [checkpoint, f"input={trained}/voc/JPEGImages", f"output={tmp_path / 'out'}"]
    options = [each for each in options if not setting.startswith(each.split("=")[0])]
    result = run(predict, *options, setting)
    assert result.status == 1
    assert said in result.error
    assert not (tmp_path / "out").exists()


def limited_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int) -> None:
    """Let the process find a container's memory limit, in bytes."""
    for name, text in {"memory.max": limit, "memory.current": 0, "memory.stat": ""}.items():
        (tmp_path / name).write_text(f"{text}\n")
    group = environment.ControlGroup(tmp_path, "memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(environment, "_CONTAINERS", [group])


def test_a_whole_image_beyond_the_memory_is_refused_and_done_in_tiles(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_memory(monkeypatch, tmp_path, 700_000)
    options = [checkpoint, f"input={trained}/voc/JPEGImages/val_0.jpg"]
    result = run(predict, *options, f"output={tmp_path / 'whole'}")
    assert result.status == 1
    assert "tile=512" in result.output
    result = run(predict, *options, "tile=10000", f"output={tmp_path / 'one'}")  # the same, by another name
    assert result.status == 1
    assert "Use smaller tiles than 10000" in flat(result.output)
    assert run(predict, *options, "tile=32", f"output={tmp_path / 'tiles'}").status == 0


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize(
    ("limit", "fits", "too_much"), [(1_840_000, "none", "flip"), (2_200_000, "flip", "multiscale")]
)
def test_more_views_and_larger_ones_need_more_memory(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tile: int | None,
    limit: int,
    fits: str,
    too_much: str,
) -> None:
    limited_memory(monkeypatch, tmp_path, limit)
    checkpoint, image = trained / "checkpoints" / "best.ckpt", np.zeros((64, 64, 3), dtype=np.uint8)
    segunet.load(checkpoint, tile=tile, tta=fits, accelerator="cpu").predict(image)
    with pytest.raises(segunet.UserError, match="would need about"):
        segunet.load(checkpoint, tile=tile, tta=too_much, accelerator="cpu").predict(image)


def test_a_wide_image_s_row_of_tiles_counts(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited_memory(monkeypatch, tmp_path, 1_000_000)
    model = segunet.load(trained / "checkpoints" / "best.ckpt", tile=32, accelerator="cpu")
    assert model.predict(np.zeros((32, 100, 3), dtype=np.uint8)).shape == (32, 100)
    with pytest.raises(segunet.UserError, match="smaller tiles than 32"):
        model.predict(np.zeros((32, 1000, 3), dtype=np.uint8))


def test_a_large_image_that_enters_small_is_not_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_memory(monkeypatch, tmp_path, 4_000_000)
    checkpoint, large = trained / "checkpoints" / "best.ckpt", np.zeros((150, 150, 3), dtype=np.uint8)
    assert segunet.load(checkpoint, inference_size=32, accelerator="cpu").predict(large).shape == (150, 150)
    for size in (None, 1000):
        with pytest.raises(segunet.UserError, match="million pixels as it enters"):
            segunet.load(checkpoint, inference_size=size, accelerator="cpu").predict(large)


def test_somebody_s_own_files_are_not_overwritten_and_earlier_results_are(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    truth = tmp_path / "mine" / "masks" / "val_0.png"
    truth.parent.mkdir(parents=True)
    truth.write_bytes(b"truth")
    options = [checkpoint, f"input={trained}/voc/JPEGImages/val_0.jpg"]
    result = run(predict, *options, f"output={tmp_path / 'mine'}")
    assert result.status == 1
    assert "contains masks, which segunet.predict did not write" in result.error
    assert truth.read_bytes() == b"truth"
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.yaml").write_text("mine: 1")
    for command in (predict, evaluate):
        name = "output" if command is predict else "run_dir"
        assert "config.yaml" in run(command, *options[: 1 + (command is predict)], f"{name}={tmp_path}/settings").error
    assert (tmp_path / "settings" / "config.yaml").read_text() == "mine: 1"
    for _ in range(2):
        assert run(predict, *options, f"output={tmp_path / 'out'}").status == 0


def test_the_folder_of_the_inputs_can_be_that_of_the_results(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    shutil.copy(trained / "voc" / "JPEGImages" / "val_0.jpg", tmp_path / "a.jpg")
    for _ in range(2):  # the second time there are results, which are no inputs
        result = run(predict, checkpoint, f"input={tmp_path}", f"output={tmp_path / 'x' / '..'}")
        assert result.status == 0, result.error
        assert "1 image in" in result.output


def test_an_overlay_too_large_for_jpeg_is_a_png(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_MAX_JPEG_SIDE", 60)
    assert run(predict, checkpoint, f"input={trained}/voc/JPEGImages/val_0.jpg", f"output={tmp_path}/out").status == 0
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["val_0.png"]


def test_a_sweep_does_not_take_one_output(run: Command, trained: Path, checkpoint: str, tmp_path: Path) -> None:
    inputs = f"input={trained}/voc/JPEGImages/val_0.jpg"
    result = run(predict, "-m", checkpoint, inputs, "tta=none,flip", f"output={tmp_path / 'out'}")
    assert result.status == 1
    assert "hydra.sweep.dir" in result.error


def test_the_network_s_share_of_the_time_is_told(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shares(slow: str, seconds: float) -> int:
        def wrap(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def staged(*given: Any) -> Any:
                time.sleep(seconds * (stage == slow))
                return function(*given)

            return staged

        with monkeypatch.context() as patch:
            patch_stages(patch, wrap)
            result = run(predict, checkpoint, f"input={trained}/voc/JPEGImages/val_*.jpg", f"output={tmp_path / slow}")
        last = flat(result.output).split("writing to")[-1]
        found = re.search(r"4 images in .* \(.* images/s; (\d+) % of it in the network\)$", last)
        assert found, result.output
        return int(found[1])

    assert 60 < (most := shares("predict", 0.3)) <= 100
    assert shares("read", 1.0) < most


def test_results_that_cannot_be_written_are_named_and_the_others_go_on(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path
) -> None:
    options = [checkpoint, f"input={trained}/voc/JPEGImages/val_*.jpg", f"output={tmp_path / 'out'}"]
    assert run(predict, *options).status == 0
    shutil.rmtree(tmp_path / "out" / "overlays")
    (tmp_path / "out" / "masks" / "val_1.png").unlink()
    (tmp_path / "out" / "masks" / "val_1.png").mkdir()  # stands in the way
    result = run(predict, *options)
    assert result.status == 1
    assert "1 of 4 inputs" in result.error
    assert "val_1.jpg. The others are in" in result.error
    assert "Is a directory" in flat(result.output)
    assert "3 images in" in result.output
    assert {path.stem for path in (tmp_path / "out" / "overlays").iterdir()} == {"val_0", "val_2", "val_3"}


def test_a_full_disk_stops_at_once(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, predict_one = [], segunet.Predictor.predict

    def counted(*given: Any) -> Any:
        predicted.append(given)
        return predict_one(*given)

    def full_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(segunet.Predictor, "predict", counted)
    monkeypatch.setattr(pipeline, "palette_image", full_disk)
    result = run(predict, checkpoint, f"input={trained}/voc/JPEGImages", f"output={tmp_path / 'out'}")
    assert result.status == 1
    assert "No space left on device" in result.error
    assert "inputs could not be predicted" not in result.error
    assert len(predicted) < 5  # of 10


def test_large_images_are_in_memory_one_at_a_time(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_LARGE", 64 * 64)  # four of the ten images are not larger
    earlier: list[weakref.ref[Any]] = []
    held = []

    def read(path: Path, image_range: Range) -> Any:
        image = read_image(path, image_range)
        if image.size > 3 * 64 * 64:
            time.sleep(0.05)  # for the thread that wrote the one before to let go of it
            held.append(sum(each() is not None for each in earlier))
            earlier.append(weakref.ref(image))
        return image

    monkeypatch.setattr(pipeline, "read_image", read)
    result = run(predict, checkpoint, f"input={trained}/voc/JPEGImages", f"output={tmp_path / 'out'}")
    assert result.status == 0, result.error
    assert held == [0] * 6
