"""The context module against its definition, written out, and in a network."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segunet.formats.write import traced
from segunet.models.blocks import Norm
from segunet.models.context import AtrousPyramid
from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder
from segunet.models.unet import UNet


@pytest.mark.parametrize("size", [(7, 12), (1, 1), (2, 30)])
def test_it_is_its_definition(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pyramid, x = AtrousPyramid(6, 3, norm=False), torch.randn(2, 6, *size)
    weights = dict(pyramid.named_parameters())

    def branch(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        weight = weights[f"{name}.0.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, weights[f"{name}.0.bias"], padding=padding, dilation=dilation).relu()

    image = branch(F.adaptive_avg_pool2d(x, 1), "image")
    parts = [branch(x, "local"), branch(x, "dilated.0", 2), branch(x, "dilated.1", 4), image.repeat(1, 1, *size)]
    torch.testing.assert_close(pyramid(x), branch(torch.cat(parts, dim=1), "project"))


def test_every_pixel_reaches_every_other() -> None:
    torch.manual_seed(0)
    pyramid, x = AtrousPyramid(4, 8, norm=False), torch.randn(1, 4, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(pyramid(x)[..., 0, 0].sum(), x)
    assert (gradient.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("norm", [True, "group", False])
def test_a_network_has_it_in_any_norm_and_is_traced_for_any_size(norm: Norm) -> None:
    torch.manual_seed(0)
    decoder = partial(UNetDecoder, widths=[8, 8], reduced_channels=[4, 4, 8], norm=norm, context_width=8)
    net = UNet(ResNetEncoder(18, 3), decoder, 3, [0, 0, 0], [255, 255, 255])
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    net.eval()
    graph = traced(net).program.module()
    for size in ((1, 3, 64, 40), (3, 3, 33, 71)):
        images = torch.randint(256, size, dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(graph(images), net(images), atol=1e-5, rtol=1e-4)
