"""The decoder and its block: shapes, parameters, and what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.models.blocks import ConvNormAct, Norm, UpBlock, group_norm
from segunet.models.decoder import UNetDecoder

CHANNELS = [4, 8, 12, 16]
NORMS: tuple[Norm, ...] = (True, "group", False)


def random_maps(channels: list[int], height: int = 32, width: int = 48, seed: int = 0) -> list[Tensor]:
    """An encoder's maps of an image (2, 3, 2 * height, 2 * width), finest first."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, height >> i, width >> i, generator=generator) for i, c in enumerate(channels)]


@pytest.mark.parametrize("reduced", [None, [2, 3, 4, 5]])
@pytest.mark.parametrize("norm", [True, False])
def test_it_ends_at_the_finest_map_s_size_with_the_last_width(reduced: list[int] | None, norm: bool) -> None:
    decoder = UNetDecoder(CHANNELS, [10, 9, 7], reduced, norm=norm)
    assert decoder.out_channels == 7
    assert decoder(random_maps(CHANNELS)).shape == (2, 7, 32, 48)


def test_a_full_resolution_step_ends_at_the_input_s_size() -> None:
    decoder = UNetDecoder(CHANNELS, [10, 9, 7], full_resolution_width=6)
    assert decoder.out_channels == 6
    assert decoder(random_maps(CHANNELS)).shape == (2, 6, 64, 96)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_maps_fits(count: int) -> None:
    channels = [4, 5, 6, 7, 8][:count]
    decoder = UNetDecoder(channels, [9] * (count - 1), [3] * count)
    assert decoder(random_maps(channels)).shape == (2, 9, 32, 48)


@pytest.mark.parametrize(("upsampling", "align_corners"), [("bilinear", True), ("bilinear", False), ("nearest", None)])
def test_a_step_is_upsample_concatenate_convolve_convolve(upsampling: str, align_corners: bool | None) -> None:
    torch.manual_seed(0)
    block = UpBlock(5, 3, 4, norm=False, align_corners=bool(align_corners), upsampling=upsampling)
    skip, below = random_maps([3, 5], 8, 12)
    weights = list(block.parameters())
    x = F.interpolate(below, size=(8, 12), mode=upsampling, align_corners=align_corners)
    x = F.conv2d(torch.cat([skip, x], dim=1), weights[0], weights[1], padding=1).relu()
    wanted = F.conv2d(x, weights[2], weights[3], padding=1).relu()
    torch.testing.assert_close(block(below, skip), wanted)


def test_every_step_upsamples_as_it_is_told() -> None:
    decoder = UNetDecoder(CHANNELS, [10, 9, 7], full_resolution_width=6, upsampling="nearest")
    assert [each.upsampling for each in decoder.modules() if isinstance(each, UpBlock)] == ["nearest"] * 4
    with pytest.raises(UserError, match=r"model\.decoder\.upsampling must be 'bilinear' or 'nearest', got 'cubic'"):
        UNetDecoder(CHANNELS, [10, 9, 7], upsampling="cubic")  # type: ignore[arg-type]


def test_the_coarsest_map_enters_first_and_the_finest_last() -> None:
    decoder = UNetDecoder(CHANNELS, [10, 9, 7], norm=False)
    assert [step.get_parameter("conv1.0.weight").shape[:2] for step in decoder.steps] == [
        (10, 16 + 12),
        (9, 10 + 8),
        (7, 9 + 4),
    ]


def test_every_map_reaches_the_result() -> None:
    torch.manual_seed(0)
    decoder = UNetDecoder(CHANNELS, [10, 9, 7], [2, 3, 4, 5])
    maps = [each.requires_grad_() for each in random_maps(CHANNELS)]
    gradients = torch.autograd.grad(decoder(maps).square().sum(), maps)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_maps_handed_in_are_left_as_they_are() -> None:
    decoder = UNetDecoder(CHANNELS, [10, 9, 7], norm=False)
    maps = random_maps(CHANNELS)
    decoder(maps)
    assert all(torch.equal(got, before) for got, before in zip(maps, random_maps(CHANNELS), strict=True))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_conv_norm_act_keeps_the_size_and_has_a_bias_or_a_norm(norm: bool, kernel_size: int) -> None:
    block = ConvNormAct(3, 5, kernel_size, norm)
    out = block(torch.randn(2, 3, 7, 9))
    assert out.shape == (2, 5, 7, 9)
    assert out.min() == 0
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in block) == norm
    assert ("0.bias" in block.state_dict()) == (not norm)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 1), (16, 4), (48, 12), (50, 10), (64, 16), (512, 32)])
def test_groups_divide_the_channels_and_are_at_most_32(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_norms_are_batch_group_or_none_under_the_same_names() -> None:
    batch, group, none = (UNetDecoder(CHANNELS, [16, 9, 7], [2, 3, 4, 5], norm=each) for each in NORMS)
    names = [
        f"{part}.1.{kind}" for part in ("reduce.0", "steps.0.conv1", "steps.2.conv2") for kind in ("weight", "bias")
    ]
    assert set(names) <= {name for name, _ in batch.named_parameters()}
    assert [name for name, _ in group.named_parameters()] == [name for name, _ in batch.named_parameters()]
    assert [type(each[1]) for step in group.steps for each in step.children()] == [nn.GroupNorm] * 6  # type: ignore[index]
    assert not any(isinstance(module, nn.GroupNorm | nn.BatchNorm2d) for module in none.modules())
    with pytest.raises(UserError, match=r"model\.decoder\.norm"):
        UNetDecoder(CHANNELS, [16, 9, 7], norm="layer")  # type: ignore[arg-type]


def test_scale_and_shift_act_between_the_norm_and_the_relu_of_the_first_convolution() -> None:
    torch.manual_seed(0)
    block = UpBlock(5, 3, 8, norm="group")
    skip, below = random_maps([3, 5], 8, 12)
    scale, shift = torch.randn(2, 8, 1, 1), torch.randn(2, 8, 1, 1)
    x = F.interpolate(below, scale_factor=2.0, mode="bilinear")
    x = F.group_norm(F.conv2d(torch.cat([skip, x], dim=1), block.get_parameter("conv1.0.weight"), padding=1), 2)
    x = (x * (1 + scale) + shift).relu()
    wanted = F.group_norm(F.conv2d(x, block.get_parameter("conv2.0.weight"), padding=1), 2).relu()
    torch.testing.assert_close(block(below, skip, (scale, shift)), wanted)


def test_each_step_has_its_own_scale_and_shift() -> None:
    torch.manual_seed(0)
    decoder, maps = UNetDecoder(CHANNELS, [10, 9, 7], norm=False), random_maps(CHANNELS)
    nothing = [(torch.zeros(2, width, 1, 1), torch.zeros(2, width, 1, 1)) for width in decoder.widths]
    before = decoder(maps)
    torch.testing.assert_close(decoder(maps, nothing), before)
    for number, (scale, shift) in enumerate(nothing):
        changed = [*nothing[:number], (scale + 1, shift), *nothing[number + 1 :]]
        assert not torch.allclose(decoder(maps, changed), before)
    with pytest.raises(ValueError, match="shorter"):
        decoder(maps, nothing[:-1])


@pytest.mark.parametrize(
    ("widths", "reduced"),
    [
        ([10, 9], None),
        ([10, 9, 8, 7], None),
        ([10, 9, 7], [2, 3]),
        ([10, 9, 7], [2, 3, 4, 5, 6]),
        ([10, 9, 0], None),
        ([10, 9, 7.5], None),
        (10, None),
        ([10, 9, 7], ["a", "b", "c", "d"]),
    ],
)
def test_lists_that_do_not_fit_the_encoder_are_refused(widths: Any, reduced: Any) -> None:
    with pytest.raises(
        UserError,
        match=r"encoder gives 4 maps: model\.decoder\.reduced.*decoder\.widths|^model\.decoder\.\w+(\[\d\])? must be",
    ):
        UNetDecoder(CHANNELS, widths, reduced)
