"""Starting weights: which file is taken, what of it fits, and what is refused."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from segunet.base.errors import UserError
from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder
from segunet.models.weights import load_encoder_weights

NODES = ["relu", "layer1", "layer2", "layer3", "layer4"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Catch the messages, also after a command has set up the logging."""
    logger = logging.getLogger("segunet.models.weights")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


def resnet18_state(path: Path, **changes: Tensor) -> dict[str, Tensor]:
    """Save torchvision's state dict, ``fc.*`` included, with the changed tensors, and return it."""
    torch.manual_seed(7)
    state: dict[str, Tensor] = torchvision.models.resnet18(weights=None).state_dict() | changes
    torch.save(state, path)
    return state


def differing(encoder: ResNetEncoder, state: dict[str, Tensor]) -> set[str]:
    return {name for name, value in encoder.state_dict().items() if not torch.equal(value, state[name])}


def test_weights_in_safetensors_are_those_of_a_state_dict(tmp_path: Path) -> None:
    save_file(state := resnet18_state(tmp_path / "full.pth"), tmp_path / "full.safetensors")
    assert differing(ResNetEncoder(depth=18, weights=str(tmp_path / "full.safetensors")), state) == set()


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_weights_for_rgb_are_adapted_to_other_channels(
    tmp_path: Path, log: pytest.LogCaptureFixture, channels: int
) -> None:
    """A grey image in one channel, or colours repeated in several, give the maps of the RGB image."""
    resnet18_state(path := tmp_path / "full.pth")
    wanted, encoder = (ResNetEncoder(18, weights=str(path), in_channels=each).eval() for each in (3, channels))
    assert f"conv1.weight is for 3 channels: adapted to {channels}" in log.text
    image = torch.rand(1, 1 if channels == 1 else 3, 32, 32)
    if channels % 3:
        image = image[:, :1].expand(-1, 3, -1, -1)  # grey, unless all colours occur equally often
    with torch.no_grad():
        repeated = image[:, [channel % 3 for channel in range(channels)]]
        rgb, own = wanted(image), encoder(repeated)
    if channels in (1, 6):
        torch.testing.assert_close(own[0], rgb[0], rtol=1e-4, atol=1e-5)
    weight, source = encoder.conv1.weight, wanted.conv1.weight
    if channels > 1:
        for channel in range(channels):
            torch.testing.assert_close(weight[:, channel], source[:, channel % 3] * 3 / channels)
    assert [each.shape for each in own] == [each.shape for each in rgb]


def test_a_full_state_dict_is_loaded_and_its_classifier_reported_unused(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    state = resnet18_state(tmp_path / "full.pth")
    encoder = ResNetEncoder(depth=18, weights=str(tmp_path / "full.pth"))
    assert differing(encoder, state) == set()
    count = sum("num_batches_tracked" not in name for name in encoder.state_dict())
    assert f"full.pth: {count} of the encoder's {count} tensors loaded" in log.text
    assert "not used: fc.bias, fc.weight" in log.text
    assert "initialized at random" not in log.text


def test_a_home_folder_is_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    state = resnet18_state(tmp_path / "full.pth")
    assert differing(ResNetEncoder(depth=18, weights="~/full.pth"), state) == set()


def test_a_partial_state_dict_leaves_the_rest_at_random_and_says_so(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    state = resnet18_state(tmp_path / "full.pth")
    torch.save({name: v for name, v in state.items() if name.startswith(("conv1", "bn1"))}, tmp_path / "part.pth")
    encoder = ResNetEncoder(depth=18, weights=str(tmp_path / "part.pth"))
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"])
    assert "layer4.0.conv1.weight" in differing(encoder, state)
    assert "part.pth: 5 of the encoder's 100 tensors loaded" in log.text
    assert "not in the file, initialized at random: layer1.0.bn1.bias" in log.text
    assert "more" in log.text
    assert "not used" not in log.text


def test_four_maps_take_what_they_have_of_a_full_state_dict(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    state = resnet18_state(tmp_path / "full.pth")
    encoder = ResNetEncoder(depth=18, num_maps=4, weights=str(tmp_path / "full.pth"))
    assert differing(encoder, state) == set()
    assert "layer4.0.bn1.bias" in log.text


def test_no_name_that_matches_is_refused(tmp_path: Path) -> None:
    torch.save({"module.conv1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth.*'module\.conv1\.weight'"):
        ResNetEncoder(depth=18, weights=str(tmp_path / "other.pth"))


def test_an_empty_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"empty\.pth: none of its 0 tensors.*nothing at all"):
        ResNetEncoder(depth=18, weights=str(tmp_path / "empty.pth"))


def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    resnet18_state(tmp_path / "wrong.pth", **{"layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)})
    with pytest.raises(UserError, match=r"layer1\.0\.conv1\.weight has shape \(64, 32, 3, 3\).*\(64, 64, 3, 3\)"):
        ResNetEncoder(depth=18, weights=str(tmp_path / "wrong.pth"))


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    resnet18_state(tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"model\.encoder\.depth"):
        ResNetEncoder(depth=50, weights=str(tmp_path / "resnet18.pth"))


def test_a_file_that_is_not_there_is_refused_with_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for missing in ("missing.pth", "."):
        with pytest.raises(UserError, match=f"there is no file {tmp_path}"):
            ResNetEncoder(depth=18, weights=missing)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04" + bytes(100), bytes(range(256)) * 8])
def test_a_file_that_is_no_torch_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "garbage.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"garbage\.pth \(\d+ bytes\) is not a readable PyTorch file"):
        ResNetEncoder(depth=18, weights=str(tmp_path / "garbage.pth"))


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    resnet18_state(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut\.pth \(\d+ bytes\) is not a readable PyTorch file"):
        ResNetEncoder(depth=18, weights=str(path))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"bn1.weight": torch.ones(64)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cut\.pth \(\d+ bytes\) is not a readable PyTorch file"):
            load_encoder_weights(torch.nn.ModuleDict({"bn1": torch.nn.BatchNorm2d(64)}), str(path), depth=18)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Evil(tmp_path / "touched")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth \(\d+ bytes\) is not a readable PyTorch file of plain tensors"):
        ResNetEncoder(depth=18, weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "touched").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth \(\d+ bytes\) is not a readable .*state_dict"):
        ResNetEncoder(depth=18, weights=str(tmp_path / "model.pth"))


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}, "epoch": 3}, torch.zeros(2)])
def test_plain_content_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "plain.pth")
    with pytest.raises(UserError, match=rf"plain\.pth holds a {type(content).__name__}"):
        ResNetEncoder(depth=18, weights=str(tmp_path / "plain.pth"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads, and no network."""

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for module in ("torch.hub", "urllib.request"):
        monkeypatch.setattr(f"{module}.urlopen", no_network)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize(("name", "version"), [("imagenet_v1", "IMAGENET1K_V1"), ("imagenet_v2", "IMAGENET1K_V2")])
def test_either_training_of_torchvision_can_be_chosen(hub: Path, name: str, version: str) -> None:
    hub.mkdir(parents=True)
    state = torchvision.models.resnet50().state_dict()
    torch.save(state, hub / Path(torchvision.models.ResNet50_Weights[version].url).name)
    assert differing(ResNetEncoder(depth=50, weights=name), state) == set()
    if name == "imagenet_v2":
        with pytest.raises(UserError, match=r"imagenet_v2: torchvision has none of a ResNet-18. Give imagenet"):
            ResNetEncoder(depth=18, weights=name)


@pytest.mark.usefixtures("hub")
def test_imagenet_without_cache_and_network_says_what_to_do(hub: Path) -> None:
    with pytest.raises(UserError) as caught:
        ResNetEncoder(depth=18, weights="imagenet")
    for part in ("https://download.pytorch.org", "resnet18", "no network", str(hub), "model.encoder.weights=null"):
        assert part in str(caught.value)


def test_imagenet_is_taken_from_the_cache_without_a_network(hub: Path, log: pytest.LogCaptureFixture) -> None:
    hub.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    state = resnet18_state(hub / Path(url).name)
    assert differing(ResNetEncoder(depth=18, weights="imagenet"), state) == set()
    assert "encoder weights imagenet" in log.text


def test_weights_win_over_zero_init_residual(tmp_path: Path) -> None:
    state = resnet18_state(tmp_path / "full.pth")
    encoder = ResNetEncoder(depth=18, weights=str(tmp_path / "full.pth"), zero_init_residual=True)
    assert differing(encoder, state) == set()


def small_decoder(weights: str | None = None, widths: tuple[int, ...] = (12, 8)) -> UNetDecoder:
    return UNetDecoder([4, 8, 16], widths, weights=weights)


def save_checkpoint(path: Path, encoder: ResNetEncoder, decoder: UNetDecoder) -> None:
    """Save what these weights are read from in a segunet checkpoint."""
    parts = {"encoder": encoder, "decoder": decoder}
    state = {f"net.{part}.{name}": v for part, module in parts.items() for name, v in module.state_dict().items()}
    torch.save({"segunet": {}, "state_dict": state | {"net.mean": torch.zeros(3)}, "epoch": 0}, path)


def test_encoder_and_decoder_start_from_those_of_a_checkpoint(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    encoder, decoder = ResNetEncoder(depth=18, num_maps=3), small_decoder()
    save_checkpoint(tmp_path / "run.ckpt", encoder, decoder)
    again = ResNetEncoder(depth=18, num_maps=4, weights=str(tmp_path / "run.ckpt"))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in encoder.state_dict().items())
    same = small_decoder(str(tmp_path / "run.ckpt")).state_dict()
    assert all(torch.equal(same[name], value) for name, value in decoder.state_dict().items())
    assert "initialized at random: layer3.0.bn1.bias" in log.text
    count = sum("num_batches_tracked" not in name for name in same)
    assert f"decoder weights {tmp_path / 'run.ckpt'}: {count} of the decoder's {count} tensors loaded" in log.text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"segunet": {}, "state_dict": {"net.encoder.conv1.weight": torch.zeros(1)}}, "its network has no decoder"),
        ({"steps.0.conv1.0.weight": torch.full((12, 24, 3, 3), torch.nan)}, "contains NaN"),
        ({"other": torch.zeros(1)}, "none of its 1 tensors has the name of one of the decoder"),
        ({"segunet": {}, "state_dict": 3}, "holds a int, wanted a plain state dict"),
        ({"segunet": {}}, "holds a NoneType, wanted a plain state dict"),
        ({"segunet": {}, "state_dict": {"net.decoder.steps.0.conv1.0.weight": torch.zeros(1)}}, r"has shape \(1,\)"),
    ],
)
def test_what_does_not_fit_the_decoder_is_refused(tmp_path: Path, content: dict[str, Any], text: str) -> None:
    torch.save(content, tmp_path / "run.ckpt")
    with pytest.raises(UserError, match=text) as caught:
        small_decoder(str(tmp_path / "run.ckpt"))
    assert "run.ckpt" in str(caught.value)


def test_a_decoder_s_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.decoder\.weights: there is no file .*none\.ckpt"):
        small_decoder("none.ckpt")
