"""The U-Net: the article's network against its definition, and every segmentation network through one tester."""

from functools import cache, partial
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.paths import CONF_DIR
from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder
from segunet.models.unet import UNet
from segunet.training import build
from tests.commands import SEGMENTATION_MODELS as MODELS
from tests.commands import for_any_size

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@cache
def from_conf(model: str) -> nn.Module:
    """Build a model config for VOC's 21 classes, from a random start."""
    overrides = [f"model={model}", "data=voc2012", *for_any_size(model)]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides)
    torch.manual_seed(0)
    return build.net_from_config(cfg.model).eval()


def small_net(num_maps: int = 5) -> UNet:
    torch.manual_seed(0)
    widths, reduced = [16, 16, 8, 8][: num_maps - 1], [4, 4, 8, 8, 8][:num_maps]
    decoder = partial(UNetDecoder, widths=widths, reduced_channels=reduced)
    return UNet(ResNetEncoder(18, num_maps), decoder, num_classes=3, mean=MEAN, std=STD).eval()


def random_images(height: int, width: int, count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


class ArticleUNet(nn.Module):
    """The article's network as the field notes describe it, with its code line's names; 21 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = torchvision.models.resnet50(weights=None)
        del self.resnet.fc
        self.resnet.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
        for number, (wide, narrow) in enumerate([(192, 64), (512, 128), (1024, 256), (3072, 512)], start=1):
            step = nn.Module()
            step.conv1, step.conv2 = nn.Conv2d(wide, narrow, 3, padding=1), nn.Conv2d(narrow, narrow, 3, padding=1)
            setattr(self, f"up_concat{number}", step)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        convolutions = [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        self.up_conv = nn.Sequential(self.up, *convolutions)
        self.final = nn.Conv2d(64, 21, 1)

    def forward(self, images: Tensor) -> Tensor:
        net, x = self.resnet, images / 255
        feat1 = net.relu(net.bn1(net.conv1(x)))
        feat2 = net.layer1(net.maxpool(feat1))
        feat3 = net.layer2(feat2)
        feat4 = net.layer3(feat3)
        x = net.layer4(feat4)
        for number, skip in ((4, feat4), (3, feat3), (2, feat2), (1, feat1)):
            step = self.get_submodule(f"up_concat{number}")
            x = torch.cat([skip, self.up(x)], dim=1)
            x = step.get_submodule("conv1")(x).relu()
            x = step.get_submodule("conv2")(x).relu()
        return self.final(self.up_conv(x))  # type: ignore[no-any-return]


def article_names(name: str) -> str:
    """Translate a parameter's name of the code line to ours."""
    parts = name.split(".")
    if parts[0] == "resnet":
        return ".".join(["encoder", *parts[1:]])
    if parts[0] == "final":
        return f"head.{parts[1]}"
    if parts[0] == "up_conv":
        return f"decoder.to_full_resolution.conv{(int(parts[1]) + 1) // 2}.0.{parts[2]}"
    return f"decoder.steps.{4 - int(parts[0][-1])}.{parts[1]}.0.{parts[2]}"


def test_the_article_s_network_has_its_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in from_conf("article").parameters()) == 43_934_101


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_the_article_s_network_computes_what_its_definition_does(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    reference = ArticleUNet().eval()
    with torch.no_grad():
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.uniform_(-0.1, 0.1)
        net = from_conf("article")
        before = net.state_dict()
        translated = {article_names(name): value for name, value in reference.state_dict().items()}
        net.load_state_dict(translated | {name: before[name] for name in ("mean", "std")})
        images = random_images(*size)
        wanted = reference(images.float())
        assert wanted.shape == (2, 21, *size)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(net(images), wanted, rtol=1e-4, atol=1e-5)


def test_smp_s_network_has_its_number_of_parameters() -> None:
    theirs = smp.Unet("resnet50", encoder_weights=None, classes=21)
    assert sum(p.numel() for p in from_conf("smp").parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (33, 47), (64, 64)])
def test_the_logits_have_the_input_s_size(model: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = from_conf(model)(random_images(*size))
    assert logits.shape == (2, 21, *size)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("model", MODELS)
def test_bytes_and_floats_give_the_same(model: str) -> None:
    images = random_images(32, 64)
    with torch.no_grad():
        torch.testing.assert_close(from_conf(model)(images), from_conf(model)(images.float()))


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_of_two_is_two_batches_of_one(model: str) -> None:
    net, images = from_conf(model), random_images(64, 32)
    with torch.no_grad():
        apart = torch.cat([net(images[:1]), net(images[1:])])
        torch.testing.assert_close(net(images), apart, rtol=1e-4, atol=1e-4 * float(apart.std()))


@pytest.mark.parametrize("model", MODELS)
def test_a_backward_pass_reaches_every_parameter(model: str) -> None:
    net = from_conf(model)
    for module in net.modules():  # a branch of the encoder that starts at zero would hide what is behind it
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(net(random_images(64, 64)).square().mean(), parameters)
    assert [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()] == []


@pytest.mark.parametrize("model", MODELS)
def test_mean_and_std_are_in_the_state_dict_and_nothing_else_is_unnamed(model: str) -> None:
    state = from_conf(model).state_dict()
    parts, channels = ({"down", "up", "merge"}, 1) if model == "classic_unet" else ({"encoder", "decoder"}, 3)
    assert {name.split(".")[0] for name in state} == {"mean", "std", "head", *parts}
    assert state["mean"].shape == state["std"].shape == (1, channels, 1, 1)
    assert [name for name, _ in from_conf(model).named_parameters() if name in ("mean", "std")] == []


def test_the_image_is_normalised_by_hand() -> None:
    net, images = small_net(), random_images(5, 7)
    got = net.normalize(images)
    for channel in range(3):
        wanted = (images[:, channel].double() - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(got[:, channel].double(), wanted, rtol=1e-5, atol=1e-5)
    assert got.dtype == torch.float32


def test_the_default_network_normalises_as_imagenet_s_weights_want() -> None:
    # torchvision's transform works on 0..1.
    transform = torchvision.models.ResNet50_Weights.DEFAULT.transforms()
    net = from_conf("unet_resnet50")
    torch.testing.assert_close(net.get_buffer("mean").flatten() / 255, torch.tensor(transform.mean))
    torch.testing.assert_close(net.get_buffer("std").flatten() / 255, torch.tensor(transform.std))


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channels_are_normalised_by_a_number_each(channels: int) -> None:
    encoder = ResNetEncoder(18, 2, in_channels=channels)
    net = UNet(encoder, UNetDecoder(encoder.channels, [8]), num_classes=2)
    assert net.in_channels == channels
    assert (net.mean.flatten().tolist(), sorted(set(net.std.flatten().tolist()))) == (
        [127.5] * channels,
        [pytest.approx(73.6)],
    )
    assert net(torch.zeros(2, channels, 33, 40, dtype=torch.uint8)).shape == (2, 2, 33, 40)
    for name in ("mean", "std"):
        message = rf"model\.{name} must have {channels} numbers?, one per channel of the images; got 3"
        with pytest.raises(UserError, match=message):
            UNet(encoder, UNetDecoder(encoder.channels, [8]), 2, **{name: [1.0, 2.0, 3.0]})  # type: ignore[arg-type]


def test_a_new_mean_from_a_state_dict_is_used() -> None:
    net, images = small_net(), random_images(32, 32)
    before = net(images)
    net.load_state_dict(net.state_dict() | {"mean": torch.zeros(1, 3, 1, 1)})
    assert not torch.allclose(net(images), before)


def test_padding_is_the_mean_colour_to_the_right_and_below() -> None:
    net = small_net()
    x = net.pad(torch.ones(1, 3, 33, 64))
    assert x.shape == (1, 3, 64, 64)
    assert x[..., :33, :].all()
    assert not x[..., 33:, :].any()
    assert net.pad(torch.ones(1, 3, 32, 96)).shape == (1, 3, 32, 96)


def test_an_odd_image_is_seen_as_one_that_goes_on_in_the_mean_colour() -> None:
    net, images = small_net(), random_images(33, 47).float()
    larger = torch.tensor(MEAN).view(1, 3, 1, 1).repeat(2, 1, 64, 64)
    larger[..., :33, :47] = images
    with torch.no_grad():
        torch.testing.assert_close(net(images), net(larger)[..., :33, :47], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_maps", [2, 3, 4])
def test_a_shallower_encoder_takes_any_size_too(num_maps: int) -> None:
    net = small_net(num_maps)
    for size in ((1, 1), (17, 33), (2**num_maps, 2**num_maps)):
        with torch.no_grad():
            assert net(random_images(*size)).shape == (2, 3, *size)


def test_the_head_has_a_channel_a_class() -> None:
    assert from_conf("unet_resnet50").get_parameter("head.weight").shape == (21, 32, 1, 1)
    assert from_conf("smp").get_parameter("head.weight").shape == (21, 16, 3, 3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"head_kernel_size": 2}, "head_kernel_size must be an odd number, got 2"),
        ({"head_kernel_size": -1}, r"model\.head_kernel_size must be greater than or equal to 1, got -1"),
        ({"num_classes": 0}, r"model\.num_classes must be greater than or equal to 1, got 0"),
        ({"mean": [0.5]}, r"model\.mean must have 3 numbers, one per channel of the images; got 1"),
        ({"mean": ["a", "b", "c"]}, r"model\.mean\[0\] must be a valid number, got 'a'"),
        ({"std": 255}, r"model\.std must be an instance of Sequence, got 255"),
        ({"std": [1.0, 0.0, 1.0]}, r"model\.std\[1\] must be greater than 0, got 0\.0"),
    ],
)
def test_settings_that_no_network_can_have_are_refused(setting: dict[str, Any], message: str) -> None:
    decoder = partial(UNetDecoder, widths=[8])
    with pytest.raises(UserError, match=message):
        UNet(ResNetEncoder(18, 2), decoder, **{"num_classes": 3, "mean": MEAN, "std": STD, **setting})


def test_whole_numbers_as_mean_do_not_cut_images_off() -> None:
    net = UNet(ResNetEncoder(18, 2), partial(UNetDecoder, widths=[8]), num_classes=3, mean=[1, 2, 3], std=[1, 1, 1])
    torch.testing.assert_close(net.normalize(torch.full((1, 3, 1, 1), 9.5)).flatten(), torch.tensor([8.5, 7.5, 6.5]))


def test_the_memory_format_changes_nothing() -> None:
    net, images = small_net(), random_images(33, 47)
    with torch.no_grad():
        wanted = net(images)
        got = net.to(memory_format=torch.channels_last)(images)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))


def test_an_exported_network_takes_the_same_images() -> None:
    net, images = small_net(), random_images(32, 64)
    with torch.no_grad():
        exported = torch.export.export(net, (images,)).module()
        torch.testing.assert_close(exported(images), net(images))
