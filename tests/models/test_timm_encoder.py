"""Encoders of timm: one tester for families that differ in their maps, norms and activations."""

from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from segunet import evaluate, export, train
from segunet.base.errors import UserError
from segunet.inference.checkpoint import load_checkpoint
from segunet.models.decoder import UNetDecoder
from segunet.models.timm_encoder import TimmEncoder
from segunet.models.unet import UNet
from segunet.training.optimizer import OptimizerFactory
from tests.commands import TINY, Command

NAMES = ["resnet18", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002", "densenet121"]
SMALL = ["model=unet_timm", "model.encoder.name=convnext_atto", "model.encoder.weights=null"]
SMALL += ["model.decoder.widths=[16,16,16,16]", "model.decoder.reduced_channels=[8,8,8,8,8]"]


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_an_encoder(name: str) -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(name).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = encoder(images)
        plain = timm.create_model(name, features_only=True).eval()
        plain.load_state_dict(encoder.body.state_dict())
        wanted = plain(images)
    assert [tuple(each.shape) for each in maps] == [
        (2, channels, 64 >> number, 96 >> number) for number, channels in enumerate(encoder.channels, start=1)
    ]
    for got, own in zip(maps[-len(wanted) :], wanted, strict=True):  # besides the finest of some
        torch.testing.assert_close(got, own)
    assert encoder.stride == 2 ** len(maps)
    assert len(encoder.stages) == len(wanted)
    in_stages = [parameter for stage in encoder.stages for parameter in stage.parameters()]
    assert len(in_stages) == len(list(encoder.parameters())) == len(set(in_stages))
    net = UNet(encoder, partial(UNetDecoder, widths=[8] * (len(maps) - 1)), num_classes=3).eval()
    assert net(torch.zeros(1, 3, 37, 50, dtype=torch.uint8)).shape == (1, 3, 37, 50)


def test_frozen_stages_stay_as_they_are() -> None:
    encoder = TimmEncoder("resnet18", frozen_stages=2).train()
    frozen = [parameter for stage in encoder.stages[:2] for parameter in stage.parameters()]
    assert not any(parameter.requires_grad for parameter in frozen)
    assert all(parameter.requires_grad for stage in encoder.stages[2:] for parameter in stage.parameters())
    norms = [module for module in encoder.stages[0].modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_the_rate_falls_from_stage_to_stage() -> None:
    encoder = TimmEncoder("convnext_atto")
    net = UNet(encoder, partial(UNetDecoder, widths=[8] * 4), num_classes=2)
    optimizer = OptimizerFactory(torch.optim.AdamW, lr=1.0, layer_decay=0.5)(net)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    stem = encoder.get_submodule("stem.0")
    assert rates[stem.get_parameter("weight")] == 0.125
    assert rates[next(iter(encoder.stages[-1].parameters()))] == 1.0


def test_weights_of_timm_s_file_and_of_a_checkpoint_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model("convnext_atto", num_classes=1000)
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    encoder = TimmEncoder("convnext_atto", weights=str(tmp_path / "timm.pth")).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[-1], whole.eval().forward_features(images))  # type: ignore[operator]
    state = {f"net.encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"segunet": {}, "state_dict": state}, tmp_path / "own.ckpt")
    again = TimmEncoder("convnext_atto", weights=str(tmp_path / "own.ckpt"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("convnext_atom", {}, "timm has no such network. Did you mean convnext_atto?"),
        ("hf-hub:somebody/model", {}, "timm has no such network"),
        ("vit_tiny_patch16_224", {}, "Choose another network"),
        ("resnet18", {"frozen_stages": 6}, "has only 5 stages"),
        ("resnet18", {"weights": "nowhere.pth"}, "there is no file"),
        (
            "resnet18",
            {"weights": "other.pth"},
            "is not of resnet18: it lacks nothing, and has layer1.2.bn1",
        ),
    ],
)
def test_what_cannot_be_an_encoder_is_refused(
    name: str, settings: dict[str, int | str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("resnet34").state_dict(), "other.pth")
    with pytest.raises(UserError, match=words):
        TimmEncoder(name, **settings)  # type: ignore[arg-type]


def test_a_network_with_such_an_encoder_is_trained_scored_and_exported(
    run: Command, voc_folder: Path, tmp_path: Path
) -> None:
    data = [each for each in TINY if not each.startswith("model.")]
    options = [*data, f"data.root={voc_folder}", *SMALL, "callbacks.freeze_encoder_epochs=1"]
    result = run(train, *options, "trainer.max_epochs=2", f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert load_checkpoint(best).net.get_submodule("encoder.stem") is not None
    assert run(evaluate, f"checkpoint={best}", f"run_dir={tmp_path / 'scores'}").status == 0
    result = run(export, f"checkpoint={best}", "format=onnx", "images=2")
    assert result.status == 0, result.error
    tuned = [f"init={best}", "data.class_names=[background,disc,square,other]", f"run_dir={tmp_path / 'tuned'}"]
    result = run(train, *options, *tuned, "trainer.max_epochs=1")
    assert result.status == 0, result.error
    assert "head: initialized at random" in result.output
