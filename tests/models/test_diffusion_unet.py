"""The denoiser: what it depends on, what it does not, and what it refuses."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.validation import Channels
from segunet.cli.overrides import composed
from segunet.models import NETWORKS
from segunet.models.decoder import UNetDecoder
from segunet.models.diffusion_unet import DiffusionUNet
from segunet.models.encoder import ResNetEncoder
from segunet.training import build
from tests.models.test_conditioning import noise, randomized

WIDTH = 12  # of the hidden states


def denoiser(channels: Channels = 3, random: bool = True, **options: Any) -> DiffusionUNet:
    """Build a small net with maps at /1, /2, /4 and /8; its zeros are randomized unless ``random`` is false."""
    torch.manual_seed(0)
    net = DiffusionUNet(
        ResNetEncoder(18, num_maps=3, in_channels=channels, norm="group"),
        partial(UNetDecoder, widths=[16, 12, 8], norm="group"),
        **{"in_channels": channels, "full_resolution_width": 4, "time_width": 32, **options},
    )
    if random:
        for part in (net.head, net.of_maps, net.of_steps, net.attention):
            randomized(part)
    return net.eval()


def conditional(**options: Any) -> DiffusionUNet:
    return denoiser(cross_attention_dim=WIDTH, **options)


@pytest.mark.parametrize(("channels", "out"), [(3, 3), (4, 4), (1, 2)])
@pytest.mark.parametrize("size", [(32, 32), (8, 40)])
def test_the_prediction_has_the_sample_s_size_and_its_own_channels(
    channels: int, out: int, size: tuple[int, int]
) -> None:
    net = denoiser(channels, out_channels=out)
    with torch.no_grad():
        assert net(noise(2, channels, *size), 3).shape == (2, out, *size)


def test_the_decoder_is_told_of_one_map_more() -> None:
    net = denoiser()
    shapes = [step.get_parameter("conv1.0.weight").shape[:2] for step in net.decoder.steps]
    assert shapes == [(16, 128 + 64), (12, 16 + 64), (8, 12 + 4)]
    assert net.full_resolution.weight.shape == (4, 3, 3, 3)


def test_a_new_network_predicts_zero() -> None:
    assert not conditional(random=False)(noise(2, 3, 32, 32), 3, noise(2, 5, WIDTH)).any()


def test_a_new_network_s_maps_know_neither_time_nor_condition() -> None:
    net = conditional(random=False)
    randomized(net.head)
    sample = noise(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(sample, 3, noise(2, 5, WIDTH)), net(sample, 900, noise(2, 2, WIDTH, seed=3)))


def test_the_time_step_matters_unless_it_is_switched_off() -> None:
    sample = noise(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(denoiser()(sample, 3), denoiser()(sample, 4), atol=1e-3)
        without = denoiser(time_step=False)
        assert torch.equal(without(sample, 3), without(sample, 999))
    assert not any(name.startswith(("time", "of_")) for name in without.state_dict())


def test_the_time_step_reaches_every_map_and_every_step_of_the_decoder() -> None:
    net, sample = denoiser(), noise(2, 3, 32, 32)
    places = [*net.of_maps, *net.of_steps]
    assert len(places) == 4 + 3
    with torch.no_grad():
        before = net(sample, 3)
        for place in places:
            kept = {name: value.clone() for name, value in place.state_dict().items()}
            randomized(place, seed=5)
            assert not torch.allclose(net(sample, 3), before, atol=1e-4)
            place.load_state_dict(kept)
        assert torch.equal(net(sample, 3), before)


def test_the_condition_matters_at_each_map_that_attends() -> None:
    sample, first, second = noise(2, 3, 32, 32), noise(2, 5, WIDTH), noise(2, 5, WIDTH, seed=3)
    for count, channels in ((1, [128]), (2, [64, 128]), (3, [64, 64, 128])):
        net = conditional(attending_maps=count)
        assert [each.get_submodule("to_out").out_features for each in net.attention] == channels
        with torch.no_grad():
            assert not torch.allclose(net(sample, 3, first), net(sample, 3, second), atol=1e-4)
    assert not any("attention" in name for name in denoiser().state_dict())


def test_hidden_states_may_be_any_number_and_are_masked() -> None:
    net, sample, hidden_states = conditional(), noise(2, 3, 32, 32), noise(2, 6, WIDTH)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    with torch.no_grad():
        for length in (1, 6, 77):
            assert net(sample, 3, noise(2, length, WIDTH)).isfinite().all()
        torch.testing.assert_close(net(sample, 3, hidden_states, mask), net(sample, 3, hidden_states[:, :4]))


def test_a_time_step_is_an_int_a_float_or_a_tensor() -> None:
    net, sample = denoiser(), noise(2, 3, 32, 32)
    with torch.no_grad():
        wanted = net(sample, 7)
        for same in (7.0, torch.tensor(7), torch.tensor(7.0), torch.tensor([7]), torch.tensor([7, 7])):
            assert torch.equal(net(sample, same), wanted)
        assert not torch.equal(net(sample, 7.5), wanted)


def test_samples_are_denoised_as_if_one_by_one() -> None:
    net, sample, hidden_states = conditional(), noise(3, 3, 32, 32), noise(3, 5, WIDTH)
    timesteps = torch.tensor([0, 17, 999])
    with torch.no_grad():
        together = net(sample, timesteps, hidden_states)
        apart = [net(sample[i : i + 1], int(timesteps[i]), hidden_states[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)


def test_a_backward_pass_reaches_every_parameter() -> None:
    net = conditional()
    names, parameters = zip(*net.named_parameters(), strict=True)
    prediction = net(noise(2, 3, 32, 32), torch.tensor([3, 900]), noise(2, 5, WIDTH))
    gradients = torch.autograd.grad(prediction.square().mean(), parameters)
    assert [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()] == []


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_few_steps_of_training_lower_the_loss(norm: Any) -> None:
    torch.manual_seed(0)
    decoder = partial(UNetDecoder, widths=[16, 12, 8], norm="group" if norm == "group" else True)
    net = DiffusionUNet(ResNetEncoder(18, 3, norm=norm), decoder, full_resolution_width=4, time_width=32)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    sample, timesteps = noise(4, 3, 16, 16), torch.tensor([1, 10, 100, 900])
    losses = []
    for _ in range(20):
        loss = (net(sample, timesteps) - sample).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_prediction_has_the_weights_dtype(dtype: torch.dtype) -> None:
    net, sample, hidden_states = conditional(), noise(2, 3, 32, 32), noise(2, 5, WIDTH)
    with torch.no_grad():
        wanted = net(sample, 500, hidden_states)
        got = net.to(dtype)(sample.to(dtype), torch.tensor(500), hidden_states.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), wanted, rtol=0, atol=0.1 * float(wanted.std()))


def test_autocast_takes_float32() -> None:
    net, sample, hidden_states = conditional(), noise(2, 3, 32, 32), noise(2, 5, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = net(sample, torch.tensor([3, 500]), hidden_states)
        prediction.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def saved_bytes(net: DiffusionUNet, sample: Tensor) -> tuple[int, list[Tensor]]:
    """Return how many bytes the forward pass stores for the backward pass, and the gradients."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = net(sample, 3).square().mean()
    return sum(storages.values()), list(torch.autograd.grad(loss, list(net.parameters())))


def test_gradient_checkpointing_stores_less_and_gives_the_same_gradients() -> None:
    net, sample = denoiser().train(), noise(2, 3, 64, 64)
    stored, wanted = saved_bytes(net, sample)
    net.gradient_checkpointing = True
    stored_less, gradients = saved_bytes(net, sample)
    assert stored_less < 0.5 * stored
    torch.testing.assert_close(gradients, wanted)
    with torch.no_grad():
        assert net(sample, 3).shape == sample.shape


def test_an_exported_network_takes_other_sizes_lengths_and_time_steps() -> None:
    net = conditional()
    count, length = torch.export.Dim("count"), torch.export.Dim("length")
    height, width = 8 * torch.export.Dim("height"), 8 * torch.export.Dim("width")
    program = torch.export.export(
        net,
        (noise(2, 3, 32, 32), torch.tensor([3, 4]), noise(2, 5, WIDTH)),
        dynamic_shapes=({0: count, 2: height, 3: width}, {0: count}, {0: count, 1: length}),
    ).module()
    inputs = noise(3, 3, 16, 40), torch.tensor([0, 17, 999]), noise(3, 9, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(program(*inputs), net(*inputs), rtol=1e-4, atol=1e-4)


def test_it_is_rebuilt_from_its_config() -> None:
    cfg = composed("train", ["data=voc2012", "model=diffusion_unet", "model.in_channels=4"])
    net = build.net_from_config(cfg.model)
    assert isinstance(net, NETWORKS[cfg.model["_target_"]])
    assert net.get_parameter("head.weight").shape == (4, 32, 3, 3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    with torch.no_grad():
        maps = net.get_submodule("encoder")(torch.zeros(1, 4, 64, 64))
    assert [each.shape[-1] for each in maps] == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((noise(2, 4, 32, 32), 3), r"must be \(N, 3, H, W\), got \(2, 4, 32, 32\).*model\.in_channels=3"),
        ((noise(3, 32, 32), 3), r"must be \(N, 3, H, W\), got \(3, 32, 32\)"),
        ((noise(2, 3, 32, 30), 3), r"side of 30 .* stride of 8: the nearest that fit are 24 and 32"),
        ((noise(2, 3, 7, 32), 3), "side of 7 .* smallest that fits is 8"),
        ((noise(2, 3, 32, 32), torch.zeros(3)), r"for each of the 2 samples: \(2,\). It is \(3,\)"),
        ((noise(2, 3, 32, 32), torch.zeros(2, 1)), r"It is \(2, 1\)"),
        ((noise(2, 3, 32, 32), 3, noise(2, 5, WIDTH)), r"unconditional, got encoder_hidden_states \(2, 5, 12\)"),
        ((noise(2, 3, 32, 32), 3, None, torch.ones(2, 5)), r"unconditional, got encoder_attention_mask \(2, 5\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        denoiser()(*inputs)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ((None,), r"needs encoder_hidden_states \(2, L, 12\), got None.*empty prompt.*torch\.zeros\(2, 1, 12\)"),
        ((noise(2, 5, 8),), r"must be \(2, L, 12\), got \(2, 5, 8\).*model\.cross_attention_dim=12"),
        ((noise(1, 5, WIDTH),), r"must be \(2, L, 12\), got \(1, 5, 12\): give as many as samples"),
        ((noise(2, WIDTH),), r"must be \(2, L, 12\), got \(2, 12\)"),
        ((noise(2, 5, WIDTH), torch.ones(2, 4)), r"encoder_attention_mask must be \(2, 5\).*got \(2, 4\)"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(condition: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        conditional()(noise(2, 3, 32, 32), 3, *condition)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"out_channels": 0}, r"model\.out_channels must be greater than or equal to 1, got 0"),
        ({"time_width": 31}, r"model\.time_width must be a multiple of 2, got 31"),
        ({"head_width": 48}, r"model\.head_width must be 32 or 64, got 48"),
        ({"attending_maps": 4}, r"attending_maps=4: the encoder has only 3 maps"),
        ({"in_channels": 4}, r"model\.in_channels=4 and model\.encoder\.in_channels=3 must be equal"),
        ({"cross_attention_dim": -1}, r"model\.cross_attention_dim must"),
    ],
)
def test_settings_that_no_denoiser_can_have_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DiffusionUNet(ResNetEncoder(18, 3), partial(UNetDecoder, widths=[16, 12, 8]), **setting)


def test_a_decoder_with_its_own_full_resolution_step_is_refused() -> None:
    decoder = partial(UNetDecoder, widths=[16, 12, 8], full_resolution_width=8)
    with pytest.raises(UserError, match=r"model\.decoder\.full_resolution_width must be null"):
        DiffusionUNet(ResNetEncoder(18, 3), decoder)
