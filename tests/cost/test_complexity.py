"""Parameters, FLOPs and bytes of layers, against counts by hand, by other means, and as published."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from segunet.cost.complexity import Inputs, Layer, layers_of, weight_bytes
from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder
from segunet.models.unet import UNet


def on_meta(make_net: Callable[[], nn.Module], *sides: int) -> tuple[nn.Module, Inputs]:
    with torch.device("meta"):
        return make_net().eval(), Inputs((torch.zeros(sides),), {})


def by_name(net: nn.Module, inputs: Inputs, depth: int) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers_of(net, inputs, depth)}


def article() -> UNet:
    decoder = partial(UNetDecoder, widths=[512, 256, 128, 64], full_resolution_width=64, norm=False)
    return UNet(ResNetEncoder(50, ceil_pool=True), decoder, num_classes=21, mean=[0.0] * 3, std=[255.0] * 3)


def small() -> UNet:
    decoder = partial(UNetDecoder, widths=[16, 16, 8, 8], reduced_channels=[4, 4, 8, 8, 8])
    return UNet(ResNetEncoder(18), decoder, num_classes=3, mean=[0.0] * 3, std=[1.0] * 3)


class Tied(nn.Module):
    """Two names of one layer, a parameter and a matrix product of its own, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.parts = nn.ModuleList([nn.Sequential(self.first, nn.ReLU()), nn.Identity()])
        self.scale = nn.Parameter(torch.ones(6, 6))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts[1](self.parts[0](x)) @ self.scale
        return F.scaled_dot_product_attention(x, x, x)


def test_a_tiny_net_is_counted_as_by_hand() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))

    net, inputs = on_meta(make, 4, 3, 10, 12)
    pixels = 4 * 10 * 12
    assert layers_of(net, inputs, depth=1) == [
        Layer("0", "Conv2d", [[4, 8, 10, 12]], 8 * 3 * 9 + 8, 2 * pixels * 8 * 3 * 9),
        Layer("1", "BatchNorm2d", [[4, 8, 10, 12]], 2 * 8, 0),
        Layer("2", "ReLU", [[4, 8, 10, 12]], 0, 0),
        Layer("3", "Conv2d", [[4, 2, 10, 12]], 2 * 8 + 2, 2 * pixels * 2 * 8),
    ]


def test_nothing_counts_twice_and_nothing_is_left_out() -> None:
    net, inputs = on_meta(Tied, 5, 7, 6)
    layers = by_name(net, inputs, 3)
    linear, attention = 2 * 5 * 7 * 6 * 6, 2 * (2 * 5 * 7 * 7 * 6)
    assert sum(layer.parameters for layer in layers.values()) == 36 + 36 + 6
    assert sum(layer.flops for layer in layers.values()) == 2 * linear + attention
    assert layers["(the rest)"] == Layer("(the rest)", "", [], 36, linear + attention)
    assert layers["unused"] == Layer("unused", "Linear", [], 6, 0)
    assert "parts" not in layers


def test_the_article_s_net_has_the_known_numbers_at_every_depth() -> None:
    net, inputs = on_meta(article, 1, 3, 512, 512)
    for depth in range(1, 5):
        layers = layers_of(net, inputs, depth)
        assert sum(layer.parameters for layer in layers) == 43_934_101
        assert sum(layer.flops for layer in layers) == 183_534_354_432
    assert [layer.name for layer in layers_of(net, inputs, 1)] == ["encoder", "decoder", "head"]
    rows = [layer.name for layer in layers_of(net, inputs, 2)]
    assert rows[4:] == [
        *(f"encoder.layer{number}" for number in range(1, 5)),
        *(f"decoder.steps.{number}" for number in range(4)),
        *("decoder.to_full_resolution", "head"),
    ]


def test_torchvision_publishes_the_same_for_resnet50() -> None:
    net, inputs = on_meta(torchvision.models.resnet50, 1, 3, 224, 224)
    published = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.meta
    layers = layers_of(net, inputs, 1)
    assert sum(layer.parameters for layer in layers) == published["num_params"]
    assert sum(layer.flops for layer in layers) / 2e9 == pytest.approx(published["_ops"], abs=0.0005)  # 4.089 GMAC


def test_each_row_is_the_sum_of_its_convolutions() -> None:
    net, inputs = on_meta(small, 2, 3, 64, 96)
    counted: dict[str, int] = {}

    def count(name: str, module: nn.Conv2d, _: object, output: Tensor) -> None:
        each = 2 * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        counted[name] = each * output.numel()

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(partial(count, name))
    for depth in (1, 2, 3):
        for name, layer in by_name(net, inputs, depth).items():
            below = {each for each in counted if each == name or each.startswith(f"{name}.")}
            assert layer.flops == sum(counted[each] for each in below), name
            assert layer.parameters == sum(each.numel() for each in net.get_submodule(name).parameters()), name


def test_a_layer_with_several_outputs_shows_each_of_them() -> None:
    net, inputs = on_meta(small, 2, 3, 64, 96)
    maps = [[2, 64, 32, 48], [2, 64, 16, 24], [2, 128, 8, 12], [2, 256, 4, 6], [2, 512, 2, 3]]
    assert by_name(net, inputs, 1)["encoder"].outputs == maps


@pytest.mark.parametrize("net", [small(), nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))])
def test_the_weights_take_what_torch_says(net: nn.Module) -> None:
    def stored(kind: torch.dtype) -> int:
        return sum(each.nbytes for each in net.to(kind).state_dict().values())

    matrices = sum(each.numel() for each in net.parameters() if each.ndim > 1)
    wanted = {"fp16": stored(torch.float16), "fp32": stored(torch.float32)}
    assert weight_bytes(net) == wanted | {"int8": wanted["fp32"] - 3 * matrices}
