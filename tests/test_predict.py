"""Prediction through the command itself, on what training wrote."""

import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

import segunet
from segunet import evaluate, predict
from segunet.data.video import Frame, read_frames, write_video
from segunet.data.voc import list_pairs, read_image
from tests.commands import Command


@pytest.fixture
def checkpoint(trained: Path) -> str:
    return f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"


def mask_of(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.asarray(Image.open(path))


def random_picture(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
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
    assert "10 picture(s) in" in result.output
    for pair in list_pairs(trained / "voc", "val"):
        ours = Image.open(tmp_path / "out" / "masks" / f"{pair.name}.png")
        theirs = Image.open(tmp_path / "ev" / "predictions" / f"{pair.name}.png")
        assert ours.mode == "P"
        assert ours.getpalette() == theirs.getpalette()
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        image = read_image(pair.image)
        drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / f"{pair.name}.jpg")).astype(int)
        assert drawn.shape[0] > len(image)  # a legend below
        same = np.asarray(ours) == 0
        assert (
            abs(drawn[: len(image), : image.shape[1]][same] - image[same]).mean() < 9
        )  # uncoloured; JPEG makes noise of noise


def test_a_picture_alone_and_one_of_another_kind(run: Command, checkpoint: str, tmp_path: Path) -> None:
    random_picture(tmp_path / "one.tif", (33, 101))
    Image.new("LA", (50, 40)).save(tmp_path / "grey.png")
    for name in ("one.tif", "grey.png"):
        assert run(predict, checkpoint, f"input={tmp_path / name}", f"output={tmp_path / 'out'}").status == 0
    assert mask_of(tmp_path / "out/masks/one.png").shape == (33, 101)
    assert mask_of(tmp_path / "out/masks/grey.png").shape == (40, 50)


@pytest.mark.parametrize("tta", ["none", "multiscale"])
def test_tiles_predict_nearly_what_the_whole_picture_gives(
    run: Command, checkpoint: str, tmp_path: Path, tta: str
) -> None:
    picture = random_picture(tmp_path / "picture.png", (200, 300))
    for name, tile in (("whole", "null"), ("tiles", "96"), ("one", "512")):
        options = [f"tile={tile}", f"tta={tta}", f"output={tmp_path / name}", "overlap=0.5"]
        assert run(predict, checkpoint, f"input={picture}", *options).status == 0
    whole, tiles, one = (mask_of(tmp_path / name / "masks" / "picture.png") for name in ("whole", "tiles", "one"))
    assert len(np.unique(whole)) > 1
    assert (tiles == whole).mean() > 0.8  # a tile's edge sees less of what is around it
    np.testing.assert_array_equal(one, whole)


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
    (folder / "zuletzt.jpg").write_bytes(good)
    result = run(predict, checkpoint, f"input={folder}", f"output={tmp_path / 'out'}")
    assert result.status == 1
    assert "3 of 5 inputs" in result.error
    for name in ("cut.jpg", "empty.png", "text.mp4"):
        assert name in result.output
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        *("a good one.jpg", "a good one.png", "config.yaml", "zuletzt.jpg", "zuletzt.png"),
    ]


@pytest.mark.parametrize("width", [60, 222, 260, 371])  # where the legend breaks into lines
def test_a_video(run: Command, checkpoint: str, tmp_path: Path, width: int) -> None:
    pytest.importorskip("av", reason="needs the extra segunet[video]")

    def frames() -> Iterator[Frame]:
        for number in range(7):
            yield Frame(read_image(random_picture(tmp_path / "frame.png", (48, width), number)), number / 5)

    with (tmp_path / "clip.mp4").open("wb") as file:
        write_video(file, frames(), Fraction(5))
    result = run(predict, checkpoint, f"input={tmp_path / 'clip.mp4'}", f"output={tmp_path / 'out'}")
    assert result.status == 0, result.error
    drawn = list(read_frames(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert [frame.time for frame in drawn] == pytest.approx([number / 5 for number in range(7)], abs=1e-3)
    assert all(frame.image.shape == drawn[0].image.shape for frame in drawn)
    assert drawn[0].image.shape[0] > 48  # a legend below
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["config.yaml", "clip.mp4"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tile=0", "tile must be"),
        ("tile=51.5", "tile must be"),
        ("tile=true", "tile must be"),
        ("overlap=null", "overlap must be"),
        ("checkpoint=2024", "2024"),
        ("input=/**a/*.jpg", "cannot be looked up"),
        (f"input={'long' * 100}", "cannot be looked up"),
        ("overlap=1", "overlap must be"),
        ("tta=rotate", "tta must be one of none, flip"),
        ("inference_size=-1", "inference_size must be"),
        ("inference_size=big", "inference_size must be"),
        ("accelerator=abacus", "accelerator=abacus"),
        ("precision=3", "precision=3"),
        ("input=nowhere", "nowhere"),
        ("input=null", "Which input?"),
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
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr("segunet.environment._MEMORY_LIMITS", [tmp_path / "memory.max"])


def test_a_whole_picture_beyond_the_memory_is_refused_and_done_in_tiles(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_memory(monkeypatch, tmp_path, 400_000)
    options = [checkpoint, f"input={trained}/voc/JPEGImages/val_0.jpg"]
    result = run(predict, *options, f"output={tmp_path / 'whole'}")
    assert result.status == 1
    assert "tile=512" in result.output
    assert run(predict, *options, "tile=32", f"output={tmp_path / 'tiles'}").status == 0


def test_a_large_picture_that_enters_small_is_not_refused(
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
    assert "masks in it, which segunet.predict has not written" in result.error
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
        assert "1 picture(s)" in result.output


def test_an_overlay_too_large_for_jpeg_is_a_png(
    run: Command, trained: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_MOST_OF_JPEG", 60)
    assert run(predict, checkpoint, f"input={trained}/voc/JPEGImages/val_0.jpg", f"output={tmp_path}/out").status == 0
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["val_0.png"]


def test_a_sweep_does_not_take_one_output(run: Command, trained: Path, checkpoint: str, tmp_path: Path) -> None:
    inputs = f"input={trained}/voc/JPEGImages/val_0.jpg"
    result = run(predict, "-m", checkpoint, inputs, "tta=none,flip", f"output={tmp_path / 'out'}")
    assert result.status == 1
    assert "hydra.sweep.dir" in result.error
