"""Gradient checkpointing: what is learnt stays the same, and less is kept for the backward pass."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segunet import train
from segunet.base.errors import UserError
from segunet.cli.overrides import composed
from segunet.models.gradient_checkpointing import checkpoint_gradients
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
    assert run(train, *tiny, "trainer.max_epochs=1", given, f"run_dir={tmp_path / 'less'}").status == 0
    result = run(train, *tiny, "compile=true", given, f"run_dir={tmp_path / 'both'}")
    assert "compile=true and gradient_checkpointing=true cannot be combined" in result.error
    refused = run(train, *tiny, "gradient_checkpointing=1", f"run_dir={tmp_path / 'both'}")
    assert "gradient_checkpointing must be a valid boolean" in refused.error
    usual = run(train, *tiny, "trainer.max_epochs=1", f"run_dir={tmp_path / 'one'}")
    assert usual.status == 0
    one, less = (torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("one", "less"))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(less[part][name], value) for name, value in one[part].items())
    assert run(train, f"resume={tmp_path / 'less'}", "trainer.max_epochs=2", "gradient_checkpointing=false").status == 0
