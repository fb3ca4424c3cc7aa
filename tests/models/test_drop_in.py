"""The denoiser among diffusers' own parts: pipelines, schedulers, folders."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers as diffusers_package
import numpy as np
import pytest
import torch

from segunet.base.errors import UserError
from segunet.models.build import build_network
from segunet.models.diffusion_unet import DiffusionUNet
from segunet.models.drop_in import DiffusersUNet
from tests.models.test_conditioning import noise, randomized

diffusers: Any = diffusers_package  # its types lack what its mixins add
WIDTH = 12  # of the hidden states


def config(**options: Any) -> dict[str, Any]:
    channels = options.get("in_channels", 3)
    encoder = {"depth": 18, "num_maps": 3, "weights": None, "in_channels": channels, "norm": "group"}
    decoder = {"_partial_": True, "widths": [16, 12, 8], "norm": "group"}
    return {
        "_target_": "segunet.models.diffusion_unet.DiffusionUNet",
        "encoder": {"_target_": "segunet.models.encoder.ResNetEncoder", **encoder},
        "decoder": {"_target_": "segunet.models.decoder.UNetDecoder", **decoder},
        "full_resolution_width": 4,
        "time_width": 32,
        **options,
    }


def drop_in(**options: Any) -> Any:
    torch.manual_seed(0)
    net = build_network(config(**options))
    for part in (net.head, net.of_maps, net.of_steps, net.attention):
        randomized(part)
    return DiffusersUNet.around(net.eval(), config(**options), sample_size=32)


def test_it_runs_the_network_itself() -> None:
    net = build_network(config())
    around = DiffusersUNet.around(net, config(), sample_size=16)
    assert around.net is net
    assert around.training == net.training
    assert not any(parameter.is_meta for parameter in around.parameters())
    assert (around.dtype, around.device) == (torch.float32, torch.device("cpu"))
    assert around.to(torch.bfloat16).dtype == torch.bfloat16


def test_its_config_says_what_pipelines_ask() -> None:
    unconditional, conditional = drop_in(), drop_in(in_channels=4, out_channels=4, cross_attention_dim=WIDTH)
    for net, channels, width in ((unconditional, 3, None), (conditional, 4, WIDTH)):
        assert (net.config.in_channels, net.config.out_channels) == (channels, channels)
        assert net.config.cross_attention_dim == width
        assert net.config.sample_size == 32
        assert net.config.time_cond_proj_dim is None


def test_it_returns_an_object_or_a_tuple() -> None:
    around, sample = drop_in(), noise(2, 3, 32, 32)
    with torch.no_grad():
        wanted = around.net(sample, 7)
        for timestep in (7, 7.0, torch.tensor(7), torch.tensor([7, 7])):
            assert torch.equal(around(sample, timestep).sample, wanted)
        (alone,) = around(sample, 7, return_dict=False)
    assert torch.equal(alone, wanted)


def test_it_takes_the_calls_that_are_made_to_diffusers_own_network() -> None:
    theirs = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        norm_num_groups=2,
        attention_head_dim=4,
    )
    ours = drop_in(in_channels=4, out_channels=4, cross_attention_dim=WIDTH)
    call = {
        "encoder_hidden_states": noise(2, 5, WIDTH),
        "timestep_cond": None,
        "cross_attention_kwargs": None,
        "added_cond_kwargs": None,
        "encoder_attention_mask": torch.ones(2, 5, dtype=torch.bool),
        "class_labels": None,
    }
    with torch.no_grad():
        for net in (theirs, ours):
            output = net(noise(2, 4, 32, 32), torch.tensor(7), **call)
            assert output.sample.shape == (2, 4, 32, 32)
            assert net(noise(2, 4, 32, 32), 7, noise(2, 5, WIDTH), return_dict=False)[0].shape == (2, 4, 32, 32)
    assert type(ours(noise(2, 4, 32, 32), 7, **call)) is type(output)


@pytest.mark.parametrize("name", ["timestep_cond", "cross_attention_kwargs", "added_cond_kwargs", "class_labels"])
def test_an_input_that_the_network_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"no input {name}: leave it out"):
        drop_in()(noise(2, 3, 32, 32), 7, **{name: {"scale": torch.ones(2)}})


@pytest.mark.parametrize(
    ("pipeline", "scheduler"),
    [(diffusers.DDPMPipeline, diffusers.DDPMScheduler), (diffusers.DDIMPipeline, diffusers.DDIMScheduler)],
)
def test_the_stock_pipelines_sample_with_it(pipeline: Any, scheduler: Any) -> None:
    pipe = pipeline(unet=drop_in(), scheduler=scheduler(num_train_timesteps=10))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipe(batch_size=2, generator=generator, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 32, 32, 3)
    assert np.isfinite(images).all()
    assert images.std() > 0


def test_a_pipeline_s_folder_holds_it(tmp_path: Path) -> None:
    pipe = diffusers.DDPMPipeline(unet=drop_in(), scheduler=diffusers.DDPMScheduler(num_train_timesteps=10))
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == [
        "segunet.models.drop_in",
        "DiffusersUNet",
    ]
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(again.unet, DiffusersUNet)
    images = []
    for each in (pipe, again):
        each.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(each(generator=generator, num_inference_steps=2, output_type="np").images)
    np.testing.assert_allclose(images[1], images[0], atol=1e-5)


def test_a_text_guides_the_sampling() -> None:
    around, scheduler = drop_in(cross_attention_dim=WIDTH), diffusers.DDIMScheduler(num_train_timesteps=10)
    scheduler.set_timesteps(3)
    text, empty = noise(2, 5, WIDTH), torch.zeros(2, 5, WIDTH)

    def sampled(guidance: float) -> torch.Tensor:
        """Draw samples by classifier-free guidance (Ho and Salimans 2021), as Stable Diffusion's pipeline does."""
        sample = noise(2, 3, 32, 32)
        for timestep in scheduler.timesteps:
            twice = scheduler.scale_model_input(torch.cat([sample, sample]), timestep)
            states = torch.cat([empty, text])
            free, guided = around(twice, timestep, encoder_hidden_states=states, return_dict=False)[0].chunk(2)
            sample = scheduler.step(free + guidance * (guided - free), timestep, sample).prev_sample
        return sample

    with torch.no_grad():
        none, some = sampled(0.0), sampled(3.0)
    assert none.isfinite().all()
    assert some.isfinite().all()
    assert not torch.allclose(none, some, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"in_channels": 4, "out_channels": 8, "cross_attention_dim": WIDTH}])
def test_what_is_saved_is_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    around = drop_in(**options)
    around.save_pretrained(tmp_path)
    again = DiffusersUNet.from_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {name: again.config[name] for name in written if name[0] != "_"} == {
        name: around.config[name] for name in written if name[0] != "_"
    }
    assert again.config.model == config(**options)
    assert again.state_dict().keys() == around.state_dict().keys()
    assert all(torch.equal(value, around.state_dict()[name]) for name, value in again.state_dict().items())
    inputs = [noise(2, options.get("in_channels", 3), 32, 32), 7, noise(2, 5, WIDTH) if options else None]
    with torch.no_grad():
        torch.testing.assert_close(again(*inputs).sample, around(*inputs).sample, rtol=1e-4, atol=1e-4)
    half = DiffusersUNet.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_a_folder_cannot_name_other_code(tmp_path: Path) -> None:
    drop_in().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["model"]["encoder"]["_target_"] = "os.system"
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"names the class 'os\.system'"):
        DiffusersUNet.from_pretrained(tmp_path)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    around, sample, text = drop_in(cross_attention_dim=WIDTH).train(), noise(2, 3, 32, 32), noise(2, 5, WIDTH)
    calls: list[object] = []

    def gradients() -> list[torch.Tensor]:
        loss = around(sample, torch.tensor([3, 900]), text).sample.square().mean()
        return list(torch.autograd.grad(loss, list(around.parameters())))

    def counted(part: Any, *inputs: Any) -> Any:
        calls.append(part)
        return torch.utils.checkpoint.checkpoint(part, *inputs, use_reentrant=False)

    wanted = gradients()
    around.enable_gradient_checkpointing()
    assert around.is_gradient_checkpointing
    torch.testing.assert_close(gradients(), wanted)
    around.enable_gradient_checkpointing(counted)
    torch.testing.assert_close(gradients(), wanted)
    assert calls == [around.net.encoder, around.net.decoder]
    around.disable_gradient_checkpointing()
    torch.testing.assert_close(gradients(), wanted)
    assert len(calls) == 2


def test_configs_that_contradict_each_other_are_refused() -> None:
    net = build_network(config())
    assert isinstance(net, DiffusionUNet)
    with pytest.raises(UserError, match="describes another network"):
        DiffusersUNet.around(net, config(full_resolution_width=5))
    with pytest.raises(UserError, match=r"are \(3, 3, None\), but \(3, 3, 12\) in model"):
        DiffusersUNet.around(net, config(cross_attention_dim=WIDTH))
    with pytest.raises(UserError, match="config of a DiffusionUNet, got one of a ResNetEncoder"):
        DiffusersUNet(model=config()["encoder"])


def test_the_other_networks_do_not_need_diffusers() -> None:
    code = "import sys, segunet.models, segunet.models.diffusion_unet; print('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_diffusers_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "segunet.models.drop_in")
    with pytest.raises(UserError, match=r"pip install -e '\.\[diffusers\]'"):
        importlib.import_module("segunet.models.drop_in")
