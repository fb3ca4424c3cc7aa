"""Gradient checkpointing: what is learnt stays the same, and less is kept for the backward pass."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet import train
from segunet.base.errors import UserError
from segunet.cli.overrides import composed
from segunet.models.classic_unet import DoubleConv
from segunet.models.gradient_checkpointing import checkpoint_gradients
from segunet.models.stages import StagedEncoder
from segunet.training import build
from tests.commands import SEGMENTATION_MODELS, TINY, TINY_DENOISER, Command, for_any_size

SMALL = {
    "classic_unet": ["model.widths=[4,8,16]", "model.norm=true"],
    "unet_timm": ["model.encoder.name=mobilenetv3_small_050", "model.decoder.widths=[8,8,8,8]"],
}
SHALLOW = ["model.encoder.depth=18", "model.encoder.num_maps=3", "model.decoder.widths=[8,8]"]


def small(model: str) -> nn.Module:
    """Build a model config in training, from a random start."""
    sizes = SMALL.get(model, SHALLOW)
    if model.startswith("unet_"):
        sizes = [*sizes, f"model.decoder.reduced_channels=[{','.join(['4'] * (5 if model == 'unet_timm' else 3))}]"]
    cfg = composed("train", [f"model={model}", "data=voc2012", *for_any_size(model), *sizes])
    torch.manual_seed(0)
    return build.net_from_config(cfg.model).train()


def step(net: nn.Module, *inputs: Tensor) -> tuple[dict[str, Tensor], int]:
    """Return the gradients and buffers after two training steps, and the bytes kept for the second backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for _ in range(2):
        kept.clear()
        torch.manual_seed(1)  # of the dropouts
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = net(*inputs)
        output.square().mean().backward()
    gradients = {name: each.grad for name, each in net.named_parameters() if each.grad is not None}
    return gradients | dict(net.named_buffers()), sum(kept.values())


@pytest.mark.parametrize("model", SEGMENTATION_MODELS)
def test_gradients_and_statistics_are_the_same_and_less_is_kept(model: str) -> None:
    net = small(model)
    other = copy.deepcopy(net)
    checkpoint_gradients(other)
    images = torch.randint(256, (4, 3, 64, 96), dtype=torch.uint8)
    (wanted, usual), (got, less) = step(net, images), step(other, images)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        assert torch.equal(got[name], value), name
    assert less < 0.75 * usual
    assert net.state_dict().keys() == other.state_dict().keys()


def test_a_denoiser_is_told_its_time_step_again() -> None:
    cfg = composed("train", [*TINY_DENOISER, "data.root=."])
    torch.manual_seed(0)
    net = build.net_from_config(cfg.model).train()
    nn.init.normal_(net.get_parameter("head.weight"))  # which starts at zero
    other = copy.deepcopy(net)
    checkpoint_gradients(other)
    given = (torch.randn(4, 3, 32, 32), torch.tensor([1.0, 20.0, 300.0, 999.0]), torch.randn(4, 5, 8))
    (wanted, usual), (got, less) = step(net, *given), step(other, *given)
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert less < 0.75 * usual


class Replaces(nn.Module):
    """Replaces a map in its list, as HRNet's modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps[0] = self.layers(maps[0])
        return maps


class OwnEncoder(nn.Module):
    """A user's own encoder, called with a keyword, with a block of segunet's."""

    channels, stride = (4, 4), 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (DoubleConv(count, 4, padded=True, norm=True) for count in (3, 4))

    def forward(self, *, image: Tensor) -> list[Tensor]:
        finer = self.first(F.max_pool2d(image, 2))
        return [finer, self.second(F.max_pool2d(finer, 2))]


class Stages(StagedEncoder):
    """Stages whose blocks hand on a list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Replaces(), Replaces()])
        self.stages = [self.blocks]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x, x]
        for block in self.blocks:
            maps = block(maps)
        return maps


class Whole(nn.Module):
    """A network of an encoder alone."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder(image=x) if isinstance(self.encoder, OwnEncoder) else self.encoder(x)
        return torch.cat([each.flatten() for each in maps])


@pytest.mark.parametrize(("make", "channels"), [(Stages, 4), (OwnEncoder, 3)])
def test_blocks_that_replace_maps_in_their_list_or_are_called_by_keyword(
    make: Callable[[], nn.Module], channels: int
) -> None:
    torch.manual_seed(0)
    net = Whole(make()).train()
    other = copy.deepcopy(net)
    checkpoint_gradients(other)
    images = torch.randn(2, channels, 16, 16)
    (wanted, usual), (got, less) = step(net, images), step(other, images)
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert less < 0.75 * usual


def test_mixed_precision_and_frozen_stages_are_as_before() -> None:
    net = small("unet_resnet50")
    encoder: Any = net.get_submodule("encoder")
    encoder.freeze_first(1)
    net.train()
    other = copy.deepcopy(net)
    checkpoint_gradients(other)
    images = torch.randint(256, (4, 3, 64, 96), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        (wanted, usual), (got, less) = step(net, images), step(other, images)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert less < 0.75 * usual


def test_a_copy_has_blocks_of_its_own() -> None:
    net = small("unet_resnet50")
    checkpoint_gradients(net)
    copied = copy.deepcopy(net)
    with torch.no_grad():
        for value in copied.parameters():
            value.fill_(math.nan)
    assert net(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).isfinite().all()
    assert copied(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).isnan().all()


def test_what_computes_no_gradients_computes_once() -> None:
    net = small("unet_resnet50")
    checkpoint_gradients(net)
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    calls: list[int] = []
    net.get_submodule("decoder.steps.0.conv1").register_forward_hook(lambda *_: calls.append(0))
    net.eval()(images)
    with torch.no_grad():
        net.train()(images)
    assert len(calls) == 2
    net(images).mean().backward()
    assert len(calls) == 4


def test_a_network_of_other_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="gradient_checkpointing=true: Conv2d has no blocks of segunet's networks"):
        checkpoint_gradients(nn.Conv2d(3, 2, 1))


def test_a_training_ends_as_without_it_and_can_change_it_on_resume(
    run: Command, voc_folder: Path, tmp_path: Path
) -> None:
    tiny = [*TINY, f"data.root={voc_folder}", "callbacks.ema_decay=0.9"]
    given = "gradient_checkpointing=true"
    assert run(train, *tiny, "trainer.max_epochs=2", f"run_dir={tmp_path / 'usual'}").status == 0
    assert run(train, *tiny, "trainer.max_epochs=2", given, f"run_dir={tmp_path / 'less'}").status == 0
    assert run(train, *tiny, "trainer.max_epochs=1", given, f"run_dir={tmp_path / 'part'}").status == 0
    result = run(train, *tiny, "compile=true", given, f"run_dir={tmp_path / 'both'}")
    assert "compile=true and gradient_checkpointing=true cannot be combined" in result.error
    refused = run(train, *tiny, "gradient_checkpointing=1", f"run_dir={tmp_path / 'both'}")
    assert "gradient_checkpointing must be true or false" in refused.error
    again = run(train, f"resume={tmp_path / 'part'}", "trainer.max_epochs=2", "gradient_checkpointing=false")
    assert again.status == 0, again.error
    usual, less, part = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("usual", "less", "part")
    )
    for state in ("state_dict", "current_model_state"):
        for name, value in usual[state].items():
            assert torch.equal(less[state][name], value), name
    assert part["global_step"] == usual["global_step"]
