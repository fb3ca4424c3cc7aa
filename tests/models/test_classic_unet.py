"""The U-Net of 2015: its maps against figure 1 of the paper, and sizes that do not fit."""

import math

import pytest
import torch
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.models.classic_unet import ClassicUNet

NARROW = (2, 4, 8, 16, 32)


def network(**options: object) -> ClassicUNet:
    torch.manual_seed(0)
    return ClassicUNet(2, **{"mean": [127.5], "std": [127.5], "widths": NARROW} | options).eval()  # type: ignore[arg-type]


def images(*size: int, count: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_every_map_has_the_shape_that_figure_1_prints() -> None:
    net = ClassicUNet(2, mean=[0.0], std=[1.0]).to("meta")
    shapes: list[tuple[int, ...]] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            shapes.append((output.shape[1], *output.shape[-2:]))

    for module in net.modules():
        module.register_forward_hook(note)
    net.scores(torch.zeros(1, 1, 572, 572, device="meta"))
    down = [(64, 570), (64, 568), (128, 282), (128, 280), (256, 138), (256, 136), (512, 66), (512, 64)]
    bottom = [(1024, 30), (1024, 28)]
    up = [(512, 56), (512, 54), (512, 52), (256, 104), (256, 102), (256, 100)]
    up += [(128, 200), (128, 198), (128, 196), (64, 392), (64, 390), (64, 388)]
    assert shapes == [(channels, side, side) for channels, side in [*down, *bottom, *up, (2, 388)]]
    assert sum(parameter.numel() for parameter in net.parameters()) == 31_030_658


def test_logits_have_the_image_s_size_whatever_it_is() -> None:
    for steps in (2, 3, 4, 5):
        for options in ({"padded": True}, {"padded": False}):
            net = network(widths=NARROW[:steps], **options)
            for size in ((108, 131), (120, 109), (115, 127)):
                with torch.no_grad():
                    assert net(images(*size)).shape == (1, 2, *size), (steps, options, size)
    assert network(padded=True)(images(1, 1)).shape == (1, 2, 1, 1)


def test_an_image_is_mirrored_so_that_its_scores_are_those_of_the_larger_one() -> None:
    net, image = network().double(), images(300, 300)
    with torch.no_grad():
        inner = net(image)  # 300 = 4 + 18.5 * 16: mirrored to 484 and 8 more
        wider = nn.functional.pad(net.normalize(image), (92, 92, 92, 92), mode="reflect")
        wider = nn.functional.pad(wider, (0, 8, 0, 8), mode="replicate")
        assert torch.equal(net.scores(wider)[..., :300, :300], inner)
        # What is far from a border does not depend on how it was mirrored.
        part = net(image[..., 16:, 32:])
    torch.testing.assert_close(part[..., 112:-112, 112:-112], inner[..., 128:-112, 144:-112])


def test_a_size_that_cannot_be_halved_is_refused_with_the_nearest_that_can() -> None:
    for side, nearest in ((570, "556 and 572"), (573, "572 and 588"), (100, "188 and 188"), (187, "188 and 188")):
        with pytest.raises(UserError, match=f"A side of {side} pixels does not fit .* nearest that fit are {nearest}"):
            network().scores(torch.zeros(1, 1, 572, side))
    assert network().scores(torch.zeros(1, 1, 188, 204)).shape == (1, 2, 4, 20)
    with pytest.raises(UserError, match="nearest that fit are 16 and 32"):
        network(padded=True).scores(torch.zeros(1, 1, 16, 30))


def test_an_image_too_small_to_be_mirrored_is_refused() -> None:
    with pytest.raises(UserError, match=r"An image of 120 x 92 pixels is too small .* model\.padded=true"):
        network()(images(92, 120))


def test_weights_start_as_he_et_al_have_it_and_biases_at_zero() -> None:
    net = ClassicUNet(2, mean=[0.0], std=[1.0])
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1:
            assert not parameter.any()
        elif name.startswith("down.3"):
            assert float(parameter.detach().std()) == pytest.approx(math.sqrt(2 / parameter[0].numel()), rel=0.02)


def test_grey_is_the_mean_of_the_channels_and_colours_are_three() -> None:
    grey, colour = network(), network(in_channels=3, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    image = images(120, 120)
    torch.testing.assert_close(grey.normalize(image)[0, 0], (image[0].float().mean(dim=0) - 127.5) / 127.5)
    assert colour.normalize(image).shape == (1, 3, 120, 120)
    with pytest.raises(UserError, match=r"model\.mean and model\.std need 3 number"):
        network(in_channels=3)


def test_dropout_is_at_the_coarsest_map_while_training_alone() -> None:
    net, image = network(dropout=0.5), images(120, 120)
    with torch.no_grad():
        assert torch.equal(net(image), net(image))
        net.train()
        assert not torch.equal(net(image), net(image))
    assert network(norm=True)(images(120, 120, count=2)).shape == (2, 2, 120, 120)
