"""Stable Diffusion's U-Nets against their published numbers; folders of diffusers, good and bad."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from segunet.base.errors import UserError
from segunet.cost.complexity import layers_of, weight_bytes
from segunet.cost.stable_diffusion import CLASS, own_size, read_config, unet_from_config, unet_inputs

TINY = {
    "sample_size": [8, 16],
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 24,
}


def complete(config: dict[str, Any]) -> dict[str, Any]:
    with torch.device("meta"):
        return dict(unet_from_config(config).config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "parameters", "gigabytes", "latents", "states", "conditions"),
    [
        ("sd15", 859_520_964, 1.7, [1, 4, 64, 64], [1, 77, 768], {}),
        ("sdxl", 2_567_463_684, 5.1, [1, 4, 128, 128], [1, 77, 2048], {"text_embeds": [1, 1280], "time_ids": [1, 6]}),
    ],
)
def test_the_published_unets_have_their_known_numbers(
    source: str,
    parameters: int,
    gigabytes: float,
    latents: list[int],
    states: list[int],
    conditions: dict[str, list[int]],
) -> None:
    with torch.device("meta"):
        net = unet_from_config(read_config(source)).eval()
        config = dict(net.config)  # type: ignore[arg-type]
        inputs = unet_inputs(config, 1, own_size(config))
    assert [list(inputs.args[index].shape) for index in (0, 2)] == [latents, states]
    added = inputs.kwargs.get("added_cond_kwargs", {})
    assert {name: list(value.shape) for name, value in added.items()} == conditions
    layers = layers_of(net, inputs, 2)
    assert sum(layer.parameters for layer in layers) == parameters
    assert weight_bytes(net)["fp16"] / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert all(layer.name != "(the rest)" and layer.outputs for layer in layers)
    order = [layer.name.split(".")[0] for layer in layers]
    assert order.index("down_blocks") < order.index("mid_block") < order.index("up_blocks")


def test_attention_counts_as_by_hand() -> None:
    with torch.device("meta"):
        net = unet_from_config(TINY).eval()
        inputs = unet_inputs(dict(net.config), 3, (64, 128))  # type: ignore[arg-type]
    layers = {layer.name: layer for layer in layers_of(net, inputs, 5)}
    blocks = "down_blocks.0.attentions.0.transformer_blocks.0"
    pixels, width, tokens, text = 8 * 16, 32, 77, 24
    flops = {name: layer.flops for name, layer in layers.items() if name.startswith(blocks)}
    own = 4 * pixels * width * width + 2 * pixels * pixels * width  # q, k, v, out; q k^T and its product with v
    cross = 2 * pixels * width * width + 2 * tokens * text * width + 2 * pixels * tokens * width
    forward = pixels * width * 8 * width + pixels * 4 * width * width  # GEGLU, and back
    assert sum(flops.values()) == 3 * 2 * (own + cross + forward)


def test_a_folder_of_diffusers_is_read_as_a_unet_and_as_a_pipeline(tmp_path: Path) -> None:
    net = UNet2DConditionModel.from_config(TINY)  # type: ignore[no-untyped-call]
    net.save_config(tmp_path / "unet")
    for folder in (tmp_path / "unet", tmp_path):
        config = read_config(str(folder))
        assert own_size(complete(config)) == (64, 128)
        with torch.device("meta"):
            rebuilt = unet_from_config(config)
        assert {name: p.shape for name, p in rebuilt.named_parameters()} == {
            name: p.shape for name, p in net.named_parameters()
        }


def test_bad_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sd15, sdxl, or a diffusers folder"):
        read_config(str(tmp_path))
    path = tmp_path / "config.json"
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[1]", f"wanted the configuration of a {CLASS}, got _class_name None"),
        ('{"_class_name": "AutoencoderKL"}', "got _class_name AutoencoderKL"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message) as raised:
            read_config(str(tmp_path))
        assert str(path) in str(raised.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_config(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"up_block_types": ["UpBlock2D"]},
        {"down_block_types": ["NoSuchBlock", "DownBlock2D"]},
        {"layers_per_block": "two"},
    ],
)
def test_a_configuration_that_cannot_be_built_is_said(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"cannot build this {CLASS}"):
        unet_from_config(TINY | change)


def test_conditions_without_known_inputs_are_said() -> None:
    for change in ({"class_embed_type": "timestep"}, {"num_class_embeds": 10}):
        with pytest.raises(UserError, match=next(iter(change))):
            unet_inputs(complete(TINY | change), 1, (64, 64))
    with pytest.raises(UserError, match="size=512"):
        own_size(complete(TINY | {"sample_size": None}))
