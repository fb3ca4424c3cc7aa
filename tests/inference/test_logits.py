"""Predictions at any size, and test-time augmentation against averages by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet import evaluate
from segunet import predict as predict_command
from segunet.base.errors import UserError
from segunet.data.dataset import Batch
from segunet.inference.fidelity import Contender
from segunet.inference.logits import TTA, check_finite, check_tta, logits_at, predict
from segunet.inference.tiling import Inference, predict_rows
from segunet.training.scoring import ScoringTask
from tests.commands import Command


class Net(nn.Module):
    """Logits of the images' size that depend on where in the image a pixel is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 5, padding=2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape[-2:]))
        ramp = torch.linspace(-1, 1, images.shape[-1])  # not symmetric: mirroring must matter
        return self.convolution(images.float() / 255) * (1 + ramp)  # type: ignore[no-any-return]


@pytest.fixture
def net() -> Net:
    return Net().eval()


def random_images(height: int = 12, width: int = 17) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def averaged(net: Net, images: Tensor, scales: tuple[float, ...], size: tuple[int, int]) -> Tensor:
    """Average the probabilities of the scaled views and their mirror images, pixel by pixel."""
    views = []
    for scale in scales:
        view = images.float()
        if scale != 1.0:
            scaled = (round(images.shape[-2] * scale), round(images.shape[-1] * scale))
            view = F.interpolate(view, size=scaled, mode="bilinear", antialias=True)
        for mirrored in (False, True):
            logits = net(view.flip(3) if mirrored else view)
            if logits.shape[-2:] != size:
                logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            probabilities = logits.softmax(dim=1)
            views.append(probabilities.flip(3) if mirrored else probabilities)
    return torch.stack(views).mean(dim=0)


def test_none_is_the_logits_argmax(net: Net) -> None:
    images = random_images()
    got = predict(net, images, (12, 17))
    assert got.dtype == torch.int64
    assert torch.equal(got, net(images).argmax(dim=1))
    assert net.seen == [(12, 17)] * 2


@pytest.mark.parametrize("size", [(12, 17), (24, 34), (5, 3)])
def test_flip_is_the_average_with_the_mirror_image(net: Net, size: tuple[int, int]) -> None:
    images = random_images()
    got = predict(net, images, size, "flip")
    assert torch.equal(got, averaged(net, images, (1.0,), size).argmax(dim=1))
    assert not torch.equal(got, predict(net, images, size))


@pytest.mark.parametrize("size", [(12, 17), (31, 9)])
def test_multiscale_is_the_average_over_five_scales_and_their_mirror_images(net: Net, size: tuple[int, int]) -> None:
    images = random_images()
    got = predict(net, images, size, "multiscale")
    assert net.seen == [
        shape for shape in [(6, 8), (9, 13), (12, 17), (15, 21), (18, 26)] for _ in range(2)
    ]  # 8.5 is rounded to even
    wanted = averaged(net, images, (0.5, 0.75, 1.0, 1.25, 1.5), size)
    assert torch.equal(got, wanted.argmax(dim=1))


def test_flip_of_a_symmetric_net_and_image_is_symmetric(net: Net) -> None:
    images = random_images()
    symmetric = torch.cat([images, images.flip(3)], dim=3)
    got = predict(net, symmetric, (12, 34), "flip")
    assert torch.equal(got, got.flip(2))


@pytest.mark.parametrize("tta", TTA)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 47)])
def test_images_of_any_size_are_predicted_at_any_size(net: Net, tta: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        for wanted in (size, (5, 8)):
            got = predict(net, random_images(*size), wanted, tta)
            assert got.shape == (2, *wanted)
            assert got.dtype == torch.int64
            assert set(got.flatten().tolist()) <= {0, 1, 2, 3}


def test_logits_are_resized_only_where_the_size_differs(net: Net) -> None:
    images = random_images()
    assert torch.equal(logits_at(net, images, (12, 17)), net(images))
    wanted = F.interpolate(net(images), size=(30, 40), mode="bilinear", align_corners=False)
    assert torch.equal(logits_at(net, images, (30, 40)), wanted)


def test_half_precision_logits_are_resized_in_float32() -> None:
    half = nn.Conv2d(3, 4, 1).bfloat16()
    logits = logits_at(half, random_images().bfloat16(), (24, 34))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("tta", ["unknown", "", "None"])
def test_an_unknown_kind_is_refused_with_the_choices(tta: str) -> None:
    with pytest.raises(UserError, match=f"tta must be one of none, flip, multiscale, got '{tta}'"):
        check_tta(tta)
    with pytest.raises(UserError, match="tta must be"):
        Inference(tta)


@pytest.mark.parametrize("tta", TTA)
def test_the_known_kinds_are_accepted(tta: str) -> None:
    check_tta(tta)
    assert Inference(tta).tta == tta


class Broken(nn.Module):
    """Logits that are not finite for images with a pixel of 255."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Tensor:
        logits = images.float()
        return logits.where(logits < 255, self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_an_error_that_names_the_image(value: float) -> None:
    images = torch.zeros(3, 3, 8, 9, dtype=torch.uint8)
    net = Broken(value)
    for tta in TTA:
        predict(net, images, (8, 9), tta)
    images[1] = 255
    batch = Batch(images, torch.zeros(3, 8, 9, dtype=torch.uint8), ["a", "b", "c"])
    steps: list[Callable[[], object]] = [
        lambda: ScoringTask(net, 3, 255).test_step(batch, 0),
        lambda: ScoringTask(net, 3, 255, Inference("flip")).test_step(batch, 0),
        lambda: ScoringTask(net, 3, 255, Inference("multiscale")).test_step(batch, 0),
        lambda: Contender(net, 3, 255).run(batch),
    ]
    for step in steps:
        with pytest.raises(UserError, match="b: the network's logits are not finite"):
            step()
    with pytest.raises(UserError, match="logits are not finite"):
        list(predict_rows(net, images[1], 32, 0.25))


def test_large_logits_whose_sum_overflows_are_finite() -> None:
    check_finite(torch.full((1, 3, 8, 8), 3e38))


def test_commands_name_the_image_whose_logits_are_not_finite(run: Command, trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["net.head.weight"][1] = 3e38  # finite itself
    torch.save(content, tmp_path / "large.ckpt")
    checkpoint = f"checkpoint={tmp_path / 'large.ckpt'}"
    result = run(evaluate, checkpoint, f"run_dir={tmp_path / 'evaluated'}")
    assert (result.status, "val_" in result.error) == (1, True)
    assert ": the network's logits are not finite" in result.error
    assert not (tmp_path / "evaluated" / "metrics.json").exists()
    image = trained / "voc" / "JPEGImages" / "val_1.jpg"
    for tile in ("null", "32"):
        result = run(predict_command, checkpoint, f"input={image}", f"tile={tile}", f"run_dir={tmp_path / tile}")
        assert result.status == 1
        assert not list((tmp_path / tile).rglob("*.png"))
        assert f"{image}: the network's logits are not finite" in result.output + result.error
