"""The encoder against torchvision's ResNet, and what it loads or refuses."""

from typing import Any, get_args

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from segunet.base.errors import UserError
from segunet.models.encoder import Depth, ResNetEncoder

NODES = ["relu", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("ceil_pool", [False, True])
def test_resnet50_gives_five_maps_of_these_channels_and_strides(ceil_pool: bool) -> None:
    encoder = ResNetEncoder(depth=50, ceil_pool=ceil_pool).eval()
    with torch.no_grad():
        maps = encoder(torch.zeros(2, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [
        (2, 64, 32, 48),
        (2, 256, 16, 24),
        (2, 512, 8, 12),
        (2, 1024, 4, 6),
        (2, 2048, 2, 3),
    ]
    assert encoder.channels == [64, 256, 512, 1024, 2048]
    assert encoder.stride == 32


@pytest.mark.parametrize("num_maps", [2, 3, 4, 5])
def test_fewer_maps_leave_the_deep_layers_out(num_maps: int) -> None:
    encoder = ResNetEncoder(depth=18, num_maps=num_maps).eval()
    maps = encoder(torch.zeros(1, 3, 32, 64))
    assert encoder.stride == 2**num_maps
    assert encoder.channels == [64, 64, 128, 256, 512][:num_maps]
    sizes = [(channels, 32 >> level, 64 >> level) for level, channels in enumerate(encoder.channels, start=1)]
    assert [tuple(each.shape[1:]) for each in maps] == sizes
    assert hasattr(encoder, "layer4") == (num_maps == 5)


@pytest.mark.parametrize("depth", [18, 50])
def test_the_maps_are_torchvision_s_features(depth: Depth) -> None:
    torch.manual_seed(0)
    resnet = torchvision.models.get_model(f"resnet{depth}", weights=None).eval()
    for module in resnet.modules():  # statistics that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    encoder = ResNetEncoder(depth=depth).eval()
    left = encoder.load_state_dict(resnet.state_dict(), strict=False)
    assert left.missing_keys == []
    assert left.unexpected_keys == ["fc.weight", "fc.bias"]
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = create_feature_extractor(resnet, NODES)(images)
        torch.testing.assert_close(encoder(images), list(wanted.values()))


@pytest.mark.parametrize("depth", get_args(Depth))
def test_the_parameters_have_torchvision_s_names_and_shapes(depth: Depth) -> None:
    with torch.device("meta"):
        encoder = ResNetEncoder(depth=depth).state_dict()
        theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict()
    wanted = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in encoder.items()} == wanted


def test_zero_init_residual_starts_each_branch_at_zero() -> None:
    assert not ResNetEncoder(depth=18, zero_init_residual=True).get_parameter("layer1.0.bn2.weight").any()
    assert ResNetEncoder(depth=18).get_parameter("layer1.0.bn2.weight").all()


@pytest.mark.parametrize("depth", [0, 20, 500])
def test_an_unknown_depth_is_refused_with_the_choices(depth: Depth) -> None:
    with pytest.raises(UserError, match=f"depth must be 18, 34, 50, 101 or 152, got {depth}"):
        ResNetEncoder(depth=depth)


@pytest.mark.parametrize("frozen_stages", [-1, 6, "stem", True])
def test_a_number_of_frozen_stages_out_of_range_is_refused(frozen_stages: Any) -> None:
    with pytest.raises(UserError, match=rf"model\.encoder\.frozen_stages.*{frozen_stages}"):
        ResNetEncoder(depth=18, frozen_stages=frozen_stages)


@pytest.mark.parametrize("num_maps", [0, 1, 6])
def test_a_number_of_maps_out_of_range_is_refused(num_maps: int) -> None:
    with pytest.raises(UserError, match=f"num_maps must .* got {num_maps}"):
        ResNetEncoder(depth=18, num_maps=num_maps)


def test_frozen_stages_rest_in_training_too() -> None:
    encoder = ResNetEncoder(18, frozen_stages=2)
    frozen = [encoder.conv1, encoder.bn1, encoder.get_submodule("layer1")]
    assert not any(p.requires_grad for module in frozen for p in module.parameters())
    assert all(p.requires_grad for p in encoder.get_submodule("layer2").parameters())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(torch.rand(2, 3, 64, 64))[-1].mean().backward()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("layer2", "layer3", "layer4")) for name in moved)
