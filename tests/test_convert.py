"""Conversion through the command itself: other projects' networks, built by them or by their definition."""

import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segunet import convert, evaluate
from segunet.inference.checkpoint import load_checkpoint
from tests.commands import Command
from tests.models.test_unet import ArticleUNet, random_images

NAMES = ["data=custom", "data.class_names=[background,disc,square]"]


def randomised(net: nn.Module) -> nn.Module:
    """Give batch norms and biases values that do something."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.7, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


def smp_unet(depth: int = 18, classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(depth)
    return randomised(smp.Unet(f"resnet{depth}", encoder_weights=None, classes=classes, **options))


def smp_input(images: Tensor) -> Tensor:
    """Prepare images as smp's users do: in 0..1, by ImageNet's mean and standard deviation."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def assert_same_logits(checkpoint: Path, original: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
    """Compare in double precision: random networks have large logits."""
    net = load_checkpoint(checkpoint).net.double()
    images = random_images(64, 96)
    with torch.no_grad():
        wanted, got = original.double()(prepare(images).double()), net(images)
    original.float()
    assert wanted.std() > 0.01
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-4)


@pytest.fixture(scope="module")
def smp18() -> nn.Module:
    return smp_unet()


@pytest.fixture
def source(smp18: nn.Module, tmp_path: Path) -> Path:
    torch.save(smp18.state_dict(), tmp_path / "smp18.pth")
    return tmp_path / "smp18.pth"


def test_the_article_s_state_dict_gives_the_article_s_logits(run: Command, tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = randomised(ArticleUNet())
    classifier = {"resnet.fc.weight": torch.zeros(9, 9), "resnet.fc.bias": torch.zeros(9)}
    torch.save(original.state_dict() | classifier, tmp_path / "article.pth")
    result = run(convert, f"source={tmp_path}/article.pth", "from=article", f"output={tmp_path}/article.ckpt")
    assert result.status == 0, result.error
    assert "ignored keys, not needed for the logits: resnet.fc.weight, resnet.fc.bias" in result.output
    assert "article's network with the encoder ResNet-50, 43,934,101 parameters, 21 classes" in result.output
    assert f"segunet.evaluate checkpoint={tmp_path}/article.ckpt" in result.output
    assert_same_logits(tmp_path / "article.ckpt", original, Tensor.float)


def test_a_state_dict_of_smp_gives_smp_s_logits(run: Command, tmp_path: Path) -> None:
    original = smp_unet(50)
    torch.save(original.state_dict(), tmp_path / "smp.pth")
    result = run(convert, f"source={tmp_path}/smp.pth", "from=smp", *NAMES, f"output={tmp_path}/smp.ckpt")
    assert result.status == 0, result.error
    assert "smp's network with the encoder ResNet-50, 32,521,395 parameters, 3 classes" in result.output
    assert_same_logits(tmp_path / "smp.ckpt", original, smp_input)


def test_the_decoder_s_widths_are_read_off_the_state_dict(run: Command, tmp_path: Path) -> None:
    original = smp_unet(decoder_channels=(64, 48, 32, 16, 8))
    torch.save(original.state_dict(), tmp_path / "smp.pth")
    result = run(convert, f"source={tmp_path}/smp.pth", "from=smp", *NAMES, f"output={tmp_path}/smp.ckpt")
    assert result.status == 0, result.error
    assert_same_logits(tmp_path / "smp.ckpt", original, smp_input)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenetv3_small_050", "convnext_atto"])
def test_a_state_dict_of_smp_with_an_encoder_of_timm_gives_its_logits(run: Command, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    original = randomised(smp.Unet(f"tu-{name}", encoder_weights=None, classes=3))
    torch.save(original.state_dict(), tmp_path / "smp.pth")
    given = [f"source={tmp_path}/smp.pth", *NAMES, f"output={tmp_path}/smp.ckpt"]
    refused = run(convert, *given, "from=smp")
    assert "An encoder of timm (tu-NAME there) is from=smp_timm model.encoder.name=NAME." in refused.error
    assert "Which encoder? Give model.encoder.name=NAME" in run(convert, *given, "from=smp_timm").error
    result = run(convert, *given, "from=smp_timm", f"model.encoder.name={name}")
    assert result.status == 0, result.error
    assert f"smp_timm's network with the encoder {name}, " in result.output
    assert_same_logits(tmp_path / "smp.ckpt", original, smp_input)


def test_a_state_dict_that_is_not_of_timm_is_pointed_to_its_origin(run: Command, source: Path, tmp_path: Path) -> None:
    given = [f"source={source}", "from=smp_timm", "model.encoder.name=resnet18", *NAMES, f"output={tmp_path}/x.ckpt"]
    result = run(convert, *given)
    assert (result.status, "It looks like one of torchvision's: from=smp." in result.error) == (1, True), result.error


def test_what_a_state_dict_does_not_tell_can_be_given(run: Command, tmp_path: Path) -> None:
    original = smp_unet(decoder_interpolation="bilinear")
    torch.save(original.state_dict(), tmp_path / "smp.pth")
    given = ["model.mean=[0,0,0]", "model.std=[1,1,1]", "model.decoder.upsampling=bilinear", "inference_size=512"]
    run(convert, f"source={tmp_path}/smp.pth", "from=smp", *NAMES, *given, f"output={tmp_path}/smp.ckpt")
    assert_same_logits(tmp_path / "smp.ckpt", original, Tensor.float)
    assert load_checkpoint(tmp_path / "smp.ckpt").inference_size == 512


def test_an_odd_image_goes_on_in_the_mean_colour(run: Command, smp18: nn.Module, source: Path, tmp_path: Path) -> None:
    assert run(convert, f"source={source}", "from=smp", *NAMES, f"output={tmp_path}/smp.ckpt").status == 0
    images = random_images(50, 71)
    larger = torch.zeros(2, 3, 64, 96)
    larger[..., :50, :71] = smp_input(images)
    with torch.no_grad():
        got, wanted = load_checkpoint(tmp_path / "smp.ckpt").net(images), smp18(larger)
    torch.testing.assert_close(got, wanted[..., :50, :71], rtol=0, atol=1e-4)


def test_a_training_script_s_checkpoint_is_unwrapped_and_its_one_logit_made_two(run: Command, tmp_path: Path) -> None:
    original = smp_unet(classes=1)
    wrapped = {f"model.{name}": value for name, value in original.state_dict().items()}
    torch.save({"state_dict": wrapped | {"loss.weight": torch.ones(1)}, "epoch": 7}, tmp_path / "lightning.ckpt")
    names = [*NAMES[:1], "data.class_names=[background,road]"]
    result = run(convert, f"source={tmp_path}/lightning.ckpt", "from=smp", *names, f"output={tmp_path}/out.ckpt")
    assert result.status == 0, result.error
    assert "stripped prefix: 'model.'" in result.output
    assert "ignored keys, not needed for the logits: loss.weight" in result.output
    images = random_images(64, 96)
    with torch.no_grad():
        got = load_checkpoint(tmp_path / "out.ckpt").net(images).softmax(dim=1)[:, 1:]
        torch.testing.assert_close(got, original(smp_input(images)).sigmoid())


def test_a_converted_checkpoint_is_evaluated_as_any_other(
    run: Command, source: Path, voc_folder: Path, tmp_path: Path
) -> None:
    run(convert, f"source={source}", "from=smp", *NAMES, f"output={tmp_path}/smp.ckpt")
    options = [f"data.root={voc_folder}", "data.num_workers=0", f"run_dir={tmp_path / 'out'}"]
    result = run(evaluate, f"checkpoint={tmp_path}/smp.ckpt", *options)
    assert result.status == 0, result.error
    assert "mIoU" in result.output
    again = run(convert, f"source={tmp_path}/smp.ckpt", "from=smp", f"output={tmp_path}/again.ckpt")
    assert "is a segunet checkpoint already" in again.error


class Attack:
    """Runs a command when it is unpickled by anything that runs what it reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_unreadable_files_are_refused_by_name_and_nothing_in_them_runs(
    run: Command, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.pth").write_text("no state dict")
    (tmp_path / "cut.pth").write_bytes(source.read_bytes()[:100_000])
    torch.save({"state_dict": Attack(tmp_path / "ran")}, tmp_path / "attack.pth")
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "module.pth")
    torch.save({"weights": 1}, tmp_path / "none.pth")
    for name in ("missing", "text", "cut", "attack", "module", "none"):
        result = run(convert, f"source={tmp_path}/{name}.pth", "from=smp", f"output={tmp_path}/out.ckpt")
        assert result.status == 1
        assert f"{tmp_path}/{name}.pth" in result.error
        assert "Traceback" not in result.error
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["from=article", *NAMES], "They look like those of from=smp"),
        (["from=smp"], "has 3 logits per pixel, the data config has 21 classes (background"),
        (["from=smp", *NAMES, "model=article"], "unexpected (decoder.blocks.0.conv1.1.weight"),
        (
            ["from=smp", *NAMES, "model.std=[1,1]"],
            "model.std must have 3 numbers, one per channel of the images; got 2.",
        ),
        (["from=unknown"], "Give one of article, smp, smp_timm."),
    ],
)
def test_settings_that_do_not_fit_the_state_dict_are_explained(
    run: Command, source: Path, tmp_path: Path, overrides: list[str], wanted: str
) -> None:
    result = run(convert, f"source={source}", *overrides, f"output={tmp_path}/out.ckpt")
    assert result.status == 1
    assert wanted in result.error
    assert not (tmp_path / "out.ckpt").exists()


def test_another_network_is_explained_by_its_own_names(run: Command, smp18: nn.Module, tmp_path: Path) -> None:
    state = smp18.state_dict()
    cases: dict[str, dict[str, Tensor]] = {
        "1 missing (decoder.blocks.2.conv2.0.weight)": {
            name: value for name, value in state.items() if name != "decoder.blocks.2.conv2.0.weight"
        },
        "1 unexpected (encoder.extra)": state | {"encoder.extra": torch.zeros(1)},
        "encoder.conv1.weight is (64, 1, 7, 7), wanted (64, 3, 7, 7)": state
        | {"encoder.conv1.weight": torch.zeros(64, 1, 7, 7)},
        "several networks, with the prefixes '', 'net.'": state | {"net.encoder.conv1.weight": torch.zeros(1)},
        "Known origins are article, smp": {"layer.weight": torch.zeros(1)},
    }
    for wanted, content in cases.items():
        torch.save(content, tmp_path / "other.pth")
        result = run(convert, f"source={tmp_path}/other.pth", "from=smp", *NAMES, f"output={tmp_path}/out.ckpt")
        assert result.status == 1
        assert wanted in result.error
        assert f"{tmp_path}/other.pth" in result.error
    assert not (tmp_path / "out.ckpt").exists()


def test_an_output_is_a_new_ckpt(run: Command, source: Path, tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").write_text("mine")
    for name, wanted in (("old.ckpt", "old.ckpt exists"), ("new.pth", "must end in .ckpt")):
        result = run(convert, f"source={source}", "from=smp", *NAMES, f"output={tmp_path / name}")
        assert result.status == 1
        assert wanted in result.error
    assert (tmp_path / "old.ckpt").read_text() == "mine"
    assert "source=VALUE" in run(convert, f"output={tmp_path}/out.ckpt").error


def test_a_full_disk_is_said_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def limit_file_size() -> None:  # a file that grows past it fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    output = tmp_path / "out" / "smp.ckpt"
    command = [sys.executable, "-m", "segunet.convert", f"source={source}", "from=smp", f"output={output}"]
    result = subprocess.run(
        [*command, "data=custom", "data.class_names=[a,b,c]"],
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(output.parent.iterdir()) == []


def test_weights_that_are_not_finite_are_refused_by_name_and_leave_nothing(
    run: Command, source: Path, tmp_path: Path
) -> None:
    state = torch.load(source, weights_only=True)
    next(iter(state.values())).fill_(math.nan)
    torch.save(state, source)
    for _ in range(2):
        result = run(convert, f"source={source}", "from=smp", *NAMES, f"output={tmp_path / 'new' / 'out.ckpt'}")
        assert result.error.startswith(f"error: {source}"), result.error
        assert list((tmp_path / "new").iterdir()) == []
