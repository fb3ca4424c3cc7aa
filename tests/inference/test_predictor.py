"""The Python interface: images in every form that a notebook has them in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segunet
from segunet.images.drawing import overlay
from segunet.images.reading import read_image
from segunet.inference.checkpoint import load_checkpoint
from segunet.inference.predictor import as_image


@pytest.fixture
def model(trained: Path) -> segunet.Predictor:
    model: segunet.Predictor = segunet.load(trained / "checkpoints" / "best.ckpt", accelerator="cpu")
    return model


@pytest.fixture
def image_path(trained: Path) -> Path:
    return trained / "voc" / "JPEGImages" / "val_1.jpg"


def test_a_path_an_image_and_an_array_give_the_same_mask(model: segunet.Predictor, image_path: Path) -> None:
    mask = model.predict(image_path)
    assert mask.shape == (64, 80)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1, 2}
    for same in (str(image_path), Image.open(image_path), read_image(image_path), read_image(image_path)[::-1][::-1]):
        np.testing.assert_array_equal(model.predict(same), mask)
    grey = read_image(image_path)[..., 0]
    np.testing.assert_array_equal(model.predict(grey), model.predict(np.repeat(grey[..., None], 3, axis=2)))


def test_sixteen_bits_are_read_by_the_range_given_or_the_checkpoint_s(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["segunet"]["data"]["image_range"] = [0, 4095]
    torch.save(content, tmp_path / "twelve_bits.ckpt")
    deep = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    wanted = np.repeat((deep * 255.0 / 4095).astype(np.uint8)[..., None], 3, axis=2)
    for model in (
        segunet.load(tmp_path / "twelve_bits.ckpt", accelerator="cpu"),
        segunet.load(checkpoint, accelerator="cpu", image_range=(0, 4095)),
    ):
        np.testing.assert_array_equal(model.predict(tmp_path / "deep.png"), model.predict(wanted))
        with Image.open(tmp_path / "deep.png") as image:
            np.testing.assert_array_equal(as_image(image, model.image_range), wanted)
    assert segunet.load(tmp_path / "twelve_bits.ckpt", accelerator="cpu", image_range=None).image_range is None


def test_an_image_s_orientation_counts_and_the_image_is_left_as_it_was(
    model: segunet.Predictor, image_path: Path, tmp_path: Path
) -> None:
    image = Image.open(image_path)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = Image.open(tmp_path / "turned.jpg")
    assert model.predict(turned).shape == (80, 64)
    assert turned.size == (80, 64)  # width, height
    assert turned.getexif()[0x0112] == 6
    np.testing.assert_array_equal(model.predict(turned), model.predict(tmp_path / "turned.jpg"))


def test_show_lays_the_prediction_over_the_image(model: segunet.Predictor, image_path: Path) -> None:
    shown = np.asarray(model.show(image_path))
    image = read_image(image_path)
    np.testing.assert_array_equal(shown[:64, :80], overlay(image, model.predict(image_path), model.colours))
    assert shown.shape[0] > 64


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), None, b"jpg"]
)
def test_what_is_no_image_is_said(model: segunet.Predictor, wrong: Any) -> None:
    with pytest.raises(segunet.UserError, match="Wanted a path, a PIL image, or a uint8 array"):
        model.predict(wrong)


def test_one_pixel(model: segunet.Predictor) -> None:
    assert model.predict(np.zeros((1, 1, 3), dtype=np.uint8)).shape == (1, 1)


def test_progress_adds_up_to_the_image(trained: Path, image_path: Path) -> None:
    for tile in (None, 32):
        shares: list[float] = []
        segunet.load(trained / "checkpoints" / "best.ckpt", tile=tile, accelerator="cpu").predict(
            image_path, shares.append
        )
        assert sum(shares) == pytest.approx(1)


def test_images_enter_at_the_checkpoint_s_size_unless_another_is_given(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["segunet"]["inference_size"] = 32
    torch.save(content, tmp_path / "small.ckpt")
    image = read_image(trained / "voc" / "JPEGImages" / "val_1.jpg")

    def mask(path: Path, **settings: Any) -> Any:
        return segunet.load(path, accelerator="cpu", **settings).predict(image)

    small = mask(tmp_path / "small.ckpt")
    np.testing.assert_array_equal(small, mask(trained / "checkpoints" / "best.ckpt", inference_size=32))
    own_size = mask(tmp_path / "small.ckpt", inference_size=None)
    np.testing.assert_array_equal(own_size, mask(trained / "checkpoints" / "best.ckpt"))
    assert (small != own_size).any()


@pytest.mark.parametrize("text", ["Failed to allocate memory for requested buffer", "cannot Allocate Memory"])
def test_what_other_runtimes_say_of_the_memory_is_understood(model: segunet.Predictor, text: str) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError(text)

    model.net.register_forward_pre_hook(fails)
    with pytest.raises(segunet.UserError, match="Out of memory for an image"):
        model.predict(np.zeros((4, 4, 3), np.uint8))


def test_a_setting_that_there_is_not_is_named(trained: Path) -> None:
    with pytest.raises(TypeError, match=r"load\(\) got an unexpected keyword argument 'tile_size'"):
        segunet.load(trained / "gone.ckpt", tile_size=512)  # type: ignore[call-arg]  # so editors see it too


def test_a_setting_that_means_nothing_is_refused(trained: Path) -> None:
    wrong = {"tile": (0, 31, 1.5), "overlap": (-0.1, 1.0), "inference_size": (0, "abc"), "image_range": ([9, 0], "abc")}
    for name, values in (wrong | {"tta": ("rotate",)}).items():
        for value in values:
            with pytest.raises(segunet.UserError, match=rf"^{name}.* got "):
                segunet.load(trained / "checkpoints" / "best.ckpt", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(segunet.UserError, match="no checkpoint"):
        segunet.load(trained / "gone.ckpt")


def test_a_truncated_image_is_said(model: segunet.Predictor, image_path: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(image_path.read_bytes()[:-300])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(segunet.UserError, match=r"cut\.jpg"):
        model.predict(image)


def test_a_list_of_images_gives_a_list_of_masks(model: segunet.Predictor, image_path: Path) -> None:
    small = np.zeros((40, 50, 3), dtype=np.uint8)
    masks = model.predict([image_path, small])
    assert [mask.shape for mask in masks] == [(64, 80), (40, 50)]
    np.testing.assert_array_equal(masks[0], model.predict(image_path))
    assert model.predict([]) == []


@pytest.mark.parametrize("settings", [{}, {"tta": "flip"}, {"tile": 32}, {"tile": 32, "tta": "multiscale"}])
def test_scores_are_the_probabilities_whose_largest_is_predicted(
    trained: Path, image_path: Path, settings: dict[str, Any]
) -> None:
    model = segunet.load(trained / "checkpoints" / "best.ckpt", accelerator="cpu", precision="32-true", **settings)
    scores = model.scores(image_path)
    assert (scores.shape, scores.dtype) == ((3, 64, 80), np.float32)
    np.testing.assert_allclose(scores.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores.argmax(axis=0), model.predict(image_path))
    if not settings:
        images = torch.from_numpy(read_image(image_path).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            logits = load_checkpoint(trained / "checkpoints" / "best.ckpt").net(images)[0].double()
        wanted = logits.exp() / logits.exp().sum(dim=0)
        np.testing.assert_allclose(scores, wanted.numpy(), atol=1e-5)


def test_it_says_what_it_is(model: segunet.Predictor) -> None:
    assert repr(model) == (
        "<segunet.Predictor of 3 classes (background, disc, square) on cpu: predict(image), scores(image), show(image)>"
    )
