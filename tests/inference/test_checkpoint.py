"""Checkpoints: what they say is parsed before it is used, whoever wrote it, and damage is seen."""

import copy
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import segunet
from segunet.base.errors import UserError
from segunet.inference.checkpoint import load_checkpoint, read_card
from segunet.models.build import build_network

Content = dict[str, Any]
EVIL = {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["ran"]}]}


@pytest.fixture
def content(trained: Path) -> Content:
    """The content of a small checkpoint, yours to change."""
    card = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["segunet"]
    card["model"]["encoder"]["num_maps"] = 2
    card["model"]["decoder"] |= {"widths": [8], "reduced_channels": [4, 8]}
    weights = build_network(card["model"]).state_dict()
    return {"segunet": card, "state_dict": {f"net.{name}": value for name, value in weights.items()}, "epoch": 0}


def refusal(content: Content, path: Path) -> str:
    """Save the content, load it as a checkpoint, and return the paragraph by which that is refused."""
    torch.save(content, path)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def put(content: Any, *path: Any) -> Any:
    """Set what the keys lead to, before the last of ``path``, to that."""
    *keys, last, value = path
    for key in keys:
        content = content[key]
    content[last] = value
    return content


def test_nothing_in_a_card_is_instantiated(content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = [
        ("model", "mean", (EVIL, EVIL, EVIL)),
        ("model", "mean", [EVIL, EVIL, EVIL]),
        ("model", "encoder", EVIL),
        ("model", "encoder", "_args_", (EVIL,)),
        ("model", "decoder", "widths", [EVIL]),
        ("model", EVIL["_target_"], EVIL),
        ("model", "_target_", "os.system"),
        ("model", "_target_", "segunet.inference.checkpoint.os.system"),
        ("model", "_target_", "torch.nn.Linear"),
        ("model", "_target_", "${oc.env:HOME}"),
        ("data", "root", EVIL),
        ("data", "extra", EVIL),
        ("class_names", (EVIL,)),
        ("palette", [EVIL] * 256),
        ("inference_size", EVIL),
        ("scores", EVIL),
    ]
    for place in places:
        changed = copy.deepcopy(content)
        put(changed["segunet"], *place)
        refusal(changed, tmp_path / "evil.ckpt")
        assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"], place
    # What first cards held besides is of no use to a checkpoint, and not built.
    put(
        content["segunet"],
        "data",
        "transform",
        {"_target_": "pathlib.Path.touch", "scale": (EVIL,), "flip": torch.ones(2)},
    )
    put(content["segunet"], "data", "class_names", (EVIL,))
    torch.save(content, tmp_path / "evil.ckpt")
    load_checkpoint(tmp_path / "evil.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]


def test_a_damaged_card_is_one_paragraph(content: Content, tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    many: Any = 1  # 10**25 values, of a few hundred bytes
    for _ in range(25):
        many = [many] * 10
    damages: list[tuple[Any, ...]] = [
        ("palette", [[0, 0, 0]] * 2),
        ("palette", [[-5, 0, 0]] * 256),
        ("class_names", 3),
        ("class_names", ["disc"] * 3),
        ("class_names", ["a", "b"]),
        ("class_names", ["a", "b", "\x1b[2J"]),
        ("class_names", [str(number) for number in range(300_000)]),
        ("inference_size", 10**9),
        ("scores", "confusion", [[1], [2, 3]]),
        ("scores", "confusion", [[1, 2]]),
        ("scores", "confusion", [[2**62] * 3] * 3),
        ("inference_size", math.nan),
        ("channels_last", 1),
        ("data", None),
        ("data", "ignore_index", 256),
        ("data", "mask_values", [[0, -1]]),
        ("data", "mask_values", [[-40_000, 0]]),
        ("model", None),
        ("model", "mean", [math.nan] * 3),
        ("model", "std", [0.0] * 3),
        ("model", "num_classes", 10_000_000),
        ("model", "num_classes", 4),
        ("model", "num_classes", True),
        ("model", "decoder", "widths", [60_000] * 4),
        ("model", "decoder", "widths", [8192] * 4),
        ("model", "decoder", "widths", deep),
        ("model", "decoder", "_partial_", False),
        ("model", "decoder", "_target_", list(range(100_000))),
        ("model", "decoder", 5),
        ("model", "mean", many),
        ("data", "root", many),
        ("model", "encoder", "num_maps", 9),
        ("model", "unknown", 1),
        ("long" * 10_000, 1),
        ("line\n\x1b[2J", 1),
        ("model", "decoder", "widths", [8] * 10_000),
        ("scores", {"confusion": "all", "images": 1}),
        ("version", None),
    ]
    for damage in damages:
        changed = copy.deepcopy(content)
        put(changed["segunet"], *damage)
        assert len(refusal(changed, tmp_path / "damaged.ckpt")) < 2000, damage
    for key in content["segunet"].keys() - {"scores", "lists", "denoiser"}:
        changed = copy.deepcopy(content)
        del changed["segunet"][key]
        assert key in refusal(changed, tmp_path / "damaged.ckpt")
    others: list[Any] = [None, [], "text", {1: 2}]
    for whole in others:
        refusal({**content, "segunet": whole}, tmp_path / "damaged.ckpt")


def test_weights_that_are_none_are_refused(content: Content, tmp_path: Path) -> None:
    name = "net.encoder.conv1.weight"
    weight = content["state_dict"][name]
    changes: dict[str, Callable[[], Any]] = {
        "NaN or infinity": lambda: weight * math.nan,
        "not a tensor of real numbers": lambda: weight.to(torch.complex64),
        "is not a tensor of real numbers": lambda: weight.to(torch.float8_e4m3fn),
        "conv1.weight is not a tensor of real numbers": lambda: weight.to("meta"),
        "larger than its stored data": lambda: torch.zeros(1).expand(weight.shape),
        "of another shape or type": lambda: weight.half(),
    }
    for what, change in changes.items():
        changed = {**content, "state_dict": {**content["state_dict"], name: change()}}
        assert what in refusal(changed, tmp_path / "bad.ckpt")
    others: list[Any] = [{}, [], None, {name: "text"}, {**content["state_dict"], "net.more": weight}]
    for state_dict in others:
        refusal({**content, "state_dict": state_dict}, tmp_path / "bad.ckpt")


def test_damage_anywhere_is_seen(content: Content, tmp_path: Path) -> None:
    path = tmp_path / "damaged.ckpt"
    torch.save(content, path)
    whole = path.read_bytes()
    for number in range(100):
        place = len(whole) * number // 100
        damaged = bytearray(whole)
        damaged[place : place + 64] = bytes(each ^ 255 for each in damaged[place : place + 64])
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=str(path)):
            load_checkpoint(path)


def test_torch_s_older_format_is_refused_as_it_has_no_checksums(content: Content, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"old\.ckpt is not a segunet checkpoint"):
        load_checkpoint(tmp_path / "old.ckpt")


def test_a_checkpoint_starts_no_download(content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[object]()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *given, **_: asked.append(given))
    encoder = put(content["segunet"], "model", "encoder", "weights", "imagenet")
    torch.save(content, tmp_path / "best.ckpt")
    model = load_checkpoint(tmp_path / "best.ckpt").model
    assert model is not None
    build_network(model)
    build_network(encoder)
    with pytest.raises(AttributeError, match="out_channels"):
        build_network(model | {"decoder": encoder})
    assert asked == []


def test_a_trusted_package_s_network_is_built(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.head = torch.nn.Conv2d(3, num_classes, 1)\n"
        "        self.register_buffer('scale', torch.full((), 2.0), persistent=False)\n"
        "    def forward(self, images):\n"
        "        return self.head(images.float() * self.scale)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    content["segunet"]["model"] = {"_target_": "my_nets.Mine", "num_classes": 3}
    content["state_dict"] = {"net.head.weight": torch.ones(3, 3, 1, 1), "net.head.bias": torch.zeros(3)}
    assert "my_nets.Mine" in refusal(content, tmp_path / "mine.ckpt")
    assert "my_nets" not in sys.modules
    monkeypatch.setenv("SEGUNET_TRUSTED_PACKAGES", "other,my_nets")
    net = load_checkpoint(tmp_path / "mine.ckpt").net
    assert net(torch.full((1, 3, 2, 2), 5, dtype=torch.uint8)).flatten().tolist() == [30.0] * 12
    content["segunet"]["model"]["_target_"] = "my_nets.torch.nn.Identity"
    assert "none of segunet's networks" in refusal(content, tmp_path / "mine.ckpt")


def test_cards_of_the_first_release_are_read(content: Content, trained: Path, tmp_path: Path) -> None:
    content["segunet"]["data"] |= {
        "_target_": "segunet.data.datamodule.VOCDataModule",
        "class_names": content["segunet"]["class_names"],
        "palette": None,
        "batch_size": 2,
        "transform": {"_target_": "segunet.data.transforms.TrainTransform", "crop_size": 64, "flip": 0.0},
    }
    torch.save(content, tmp_path / "old.ckpt")
    old, new = load_checkpoint(tmp_path / "old.ckpt").data, read_card(trained / "checkpoints" / "best.ckpt").data
    assert (old.flip, new.flip) == (False, True)
    assert old.model_copy(update={"flip": True}) == new
    del content["segunet"]["data"]["transform"]["flip"], content["segunet"]["data"]["flip"]
    torch.save(content, tmp_path / "old.ckpt")
    assert load_checkpoint(tmp_path / "old.ckpt").data.flip is None  # not known


def test_mirroring_a_network_that_knows_left_from_right_is_said(
    content: Content, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "segunet")
    torch.save(content, tmp_path / "best.ckpt")
    segunet.load(tmp_path / "best.ckpt", tta="flip", accelerator="cpu")
    assert caplog.text == ""
    put(content["segunet"], "data", "flip", False)
    torch.save(content, tmp_path / "best.ckpt")
    for tta in ("flip", "multiscale"):
        caplog.clear()
        segunet.load(tmp_path / "best.ckpt", tta=tta, accelerator="cpu")
        assert "trained without mirrored" in caplog.text


def test_loading_imports_no_lightning_module(trained: Path) -> None:
    code = (
        f"import sys, segunet; segunet.load({str(trained / 'checkpoints' / 'best.ckpt')!r}, accelerator='cpu');"
        "print([name for name in sys.modules if name.startswith('pytorch_lightning')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_missing_checkpoint_names_the_one_that_is_near(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    for given, near in (
        (trained, trained / "checkpoints" / "best.ckpt"),
        (tmp_path / "best.ckpt", tmp_path / "last.ckpt"),
    ):
        with pytest.raises(UserError, match=re.escape(f"There is no checkpoint {given}. There is {near}.")):
            load_checkpoint(given)
