"""The encoder against torchvision's ResNet, and what it loads or refuses."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
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


@pytest.mark.parametrize("depth", [18, 50])
def test_group_norm_takes_the_place_of_batch_norm_under_its_names(depth: Depth) -> None:
    batch, group = ResNetEncoder(depth), ResNetEncoder(depth, norm="group", zero_init_residual=True)
    assert [name for name, _ in group.named_parameters()] == [name for name, _ in batch.named_parameters()]
    assert list(group.buffers()) == []
    norms = [module for module in group.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == sum(isinstance(module, nn.BatchNorm2d) for module in batch.modules())
    last = "bn2" if depth == 18 else "bn3"
    assert not group.get_parameter(f"layer1.0.{last}.weight").any()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # a sample's maps do not depend on the others, in training either
        for together, alone in zip(group(images), group(images[:1]), strict=True):
            torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_inputs_have_their_own_first_convolution(in_channels: int) -> None:
    torch.manual_seed(0)
    encoder = ResNetEncoder(18, 3, in_channels=in_channels)
    assert [each.shape[1] for each in encoder(torch.zeros(2, in_channels, 32, 32))] == [64, 64, 128]
    weight = ResNetEncoder(18, 3).conv1.weight
    assert encoder.conv1.weight.shape == (64, in_channels, *weight.shape[2:])
    assert encoder.conv1.bias is None
    assert float(encoder.conv1.weight.detach().std()) == pytest.approx(float(weight.detach().std()), rel=0.05)


def test_the_stride_is_in_the_first_convolution_where_wanted() -> None:
    """Against the block of He et al. 2016, written out: 1x1 with stride, 3x3, 1x1, and a strided shortcut."""
    torch.manual_seed(0)
    encoder = ResNetEncoder(50, 3, stride_in_1x1=True, zero_init_residual=False).eval()
    assert [each.shape[-1] for each in encoder(torch.zeros(1, 3, 65, 64))] == [32, 16, 8]
    block, x = encoder.get_submodule("layer2.0"), torch.randn(1, 256, 12, 10)
    weights = dict(block.named_parameters())

    def normalised(value: Tensor, name: str) -> Tensor:
        mean, var = (block.get_buffer(f"{name}.running_{each}") for each in ("mean", "var"))
        return F.batch_norm(value, mean, var)

    y = F.relu(normalised(F.conv2d(x, weights["conv1.weight"], stride=2), "bn1"))
    y = F.relu(normalised(F.conv2d(y, weights["conv2.weight"], padding=1), "bn2"))
    shortcut = normalised(F.conv2d(x, weights["downsample.0.weight"], stride=2), "downsample.1")
    wanted = F.relu(normalised(F.conv2d(y, weights["conv3.weight"]), "bn3") + shortcut)
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"imagenet_v1: torchvision's weights were trained with the stride in the 3x3"):
        ResNetEncoder(50, weights="imagenet_v1", stride_in_1x1=True)
    with pytest.raises(UserError, match=r"stride_in_1x1: the blocks of a ResNet-18 have no 1x1 convolution"):
        ResNetEncoder(18, stride_in_1x1=True)


def test_imagenet_s_weights_are_refused_for_another_norm() -> None:
    with pytest.raises(UserError, match=r"weights=imagenet is for batch norm.*, got norm=group\. Give null"):
        ResNetEncoder(18, weights="imagenet", norm="group")
    with pytest.raises(UserError, match=r"model\.encoder\.norm must be 'batch' or 'group', got 'layer'"):
        ResNetEncoder(18, norm="layer")  # type: ignore[arg-type]


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
