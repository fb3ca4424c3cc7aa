"""Which parameter is optimised at which rate and with which decay."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder
from segunet.models.unet import UNet
from segunet.training.optimizer import OptimizerFactory


@pytest.fixture(scope="module")
def net() -> UNet:
    decoder = partial(UNetDecoder, widths=[16, 16, 8, 8], reduced_channels=[4, 4, 8, 8, 8])
    return UNet(ResNetEncoder(depth=18), decoder, num_classes=3, mean=[0.0] * 3, std=[1.0] * 3)


def settings_by_name(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Find each parameter's group; fails if one is in none or in two."""
    by_parameter: dict[Tensor, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert parameter not in by_parameter
            by_parameter[parameter] = group
    assert set(by_parameter) == set(net.parameters())
    return {name: by_parameter[parameter] for name, parameter in net.named_parameters()}


def test_every_parameter_is_in_one_group_frozen_ones_too(net: UNet) -> None:
    net.get_submodule("encoder").requires_grad_(False)
    settings = settings_by_name(net, OptimizerFactory(torch.optim.AdamW, lr=1e-3, encoder_lr=1e-4)(net))
    net.get_submodule("encoder").requires_grad_(True)
    assert settings["encoder.conv1.weight"]["lr"] == 1e-4


def test_norms_and_biases_do_not_decay_and_weights_do(net: UNet) -> None:
    settings = settings_by_name(net, OptimizerFactory(torch.optim.AdamW, lr=1e-3, weight_decay=0.05)(net))
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms
    for name, group in settings.items():
        module, _, kind = name.rpartition(".")
        assert group["weight_decay"] == (0.0 if module in norms or kind == "bias" else 0.05), name


@pytest.mark.parametrize("encoder_lr", [None, 1e-4])
def test_the_encoder_has_its_own_rate_or_the_common_one(net: UNet, encoder_lr: float | None) -> None:
    factory = OptimizerFactory(torch.optim.SGD, lr=1e-3, encoder_lr=encoder_lr)
    for name, group in settings_by_name(net, factory(net)).items():
        in_encoder = name.startswith("encoder.")
        assert group["name"] == ("encoder" if in_encoder else "decoder"), name
        assert group["lr"] == (encoder_lr or 1e-3 if in_encoder else 1e-3), name


def test_the_optimizer_is_the_one_given_with_its_settings(net: UNet) -> None:
    optimizer = OptimizerFactory(partial(torch.optim.SGD, momentum=0.7, nesterov=True), lr=0.1)(net)
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["momentum"] == 0.7 and group["nesterov"] for group in optimizer.param_groups)


def test_a_net_without_an_encoder_is_all_decoder() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = OptimizerFactory(torch.optim.AdamW, lr=1e-3, encoder_lr=1e-5, weight_decay=0.1)(net)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    settings_by_name(net, optimizer)


def test_a_step_moves_every_parameter_by_its_rate(net: UNet) -> None:
    optimizer = OptimizerFactory(torch.optim.SGD, lr=0.5, encoder_lr=0.25)(net)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        rate = 0.25 if name.startswith("encoder.") else 0.5
        torch.testing.assert_close(parameter, before[name] - rate)
    optimizer.zero_grad()


def test_rates_and_decays_out_of_range_are_refused_by_name() -> None:
    rates = (0.0, -1e-3, math.nan, math.inf, "abc")
    for name, values in {"lr": rates, "encoder_lr": rates, "weight_decay": (-1, math.nan)}.items():
        for value in values:
            with pytest.raises(UserError, match=rf"^optimizer\.{name} must be .* got {value!r}\.$"):
                OptimizerFactory(torch.optim.SGD, **{"lr": 1e-3, name: value})  # type: ignore[arg-type]
    assert OptimizerFactory(torch.optim.SGD, lr=1e-3, weight_decay=0).weight_decay == 0


@pytest.mark.parametrize("setting", [{"momentum": -1}, {"momentum": "much"}, {"monemtum": 0.9}])
def test_what_torch_refuses_is_told(net: UNet, setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"optimizer\.optimizer\.\*: .*(momentum|monemtum|str)"):
        OptimizerFactory(partial(torch.optim.SGD, **setting), lr=1e-3)(net)


def test_rates_fall_from_stage_to_stage_towards_the_input(net: UNet) -> None:
    factory = OptimizerFactory(torch.optim.AdamW, lr=1e-3, encoder_lr=1e-4, layer_decay=0.5)
    for name, group in settings_by_name(net, factory(net)).items():
        part = name.removeprefix("encoder.").partition(".")[0]
        depth = {"conv1": 4, "bn1": 4, "layer1": 3, "layer2": 2, "layer3": 1, "layer4": 0}.get(part)
        wanted = 1e-3 if depth is None else 1e-4 * 0.5**depth
        assert group["lr"] == pytest.approx(wanted), name
    last = [group["lr"] for group in factory(net).param_groups if group["name"] == "encoder"][-1]
    assert last == 1e-4  # which is logged as lr_encoder


def test_a_model_without_stages_has_no_layer_decay() -> None:
    factory = OptimizerFactory(torch.optim.SGD, lr=1e-3, layer_decay=0.5)
    with pytest.raises(UserError, match=r"layer_decay=0.5 needs a model whose encoder lists its stages"):
        factory(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(UserError, match="layer_decay"):
        OptimizerFactory(torch.optim.SGD, lr=1e-3, layer_decay=0.0)
