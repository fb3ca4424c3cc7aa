"""The time step and the hidden states, against diffusers' implementations of both."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from segunet.models.blocks import group_norm, scaled_and_shifted
from segunet.models.conditioning import CrossAttention, HeadWidth, TimeEmbedding, ToScaleShift, sinusoids, zeroed


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values: also those that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [2, 32, 256])
def test_the_sinusoids_are_those_of_diffusers(width: int) -> None:
    timesteps = torch.tensor([0.0, 1.0, 0.25, 17.5, 999.0])
    wanted = get_timestep_embedding(timesteps, width, downscale_freq_shift=0)
    got = sinusoids(timesteps, width)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=0, atol=3e-4)  # float32 at an angle of 999
    torch.testing.assert_close(sinusoids(timesteps.long()[[0, 1, 4]], width), got[[0, 1, 4]])


def test_time_steps_are_told_apart_also_in_half_precision() -> None:
    embedding = randomized(TimeEmbedding(64)).to(torch.bfloat16)(torch.arange(1000))
    assert embedding.dtype == torch.bfloat16
    assert len(embedding.unique(dim=0)) == 1000


def test_scale_and_shift_start_at_nothing_and_are_one_each_for_a_channel() -> None:
    x, embedding = noise(2, 5, 4, 6), noise(2, 8)
    to = ToScaleShift(8, 5)
    assert torch.equal(scaled_and_shifted(x, to(embedding)), x)
    randomized(to)
    scale, shift = to(embedding)
    assert scale.shape == shift.shape == (2, 5, 1, 1)
    torch.testing.assert_close(torch.cat([scale, shift], dim=1).flatten(1), to.projection(embedding))
    for sample in range(2):
        for channel in range(5):
            wanted = x[sample, channel] * (1 + scale[sample, channel]) + shift[sample, channel]
            torch.testing.assert_close(scaled_and_shifted(x, (scale, shift))[sample, channel], wanted)


@pytest.mark.parametrize(("channels", "head_width"), [(64, 32), (96, 32), (128, 64), (20, 32)])
@pytest.mark.parametrize("length", [1, 7])
def test_the_attention_is_that_of_diffusers(channels: int, head_width: HeadWidth, length: int) -> None:
    ours = CrossAttention(channels, 12, head_width)
    randomized(ours)
    heads = ours.to_query.out_features // head_width
    assert heads == max(1, channels // head_width)
    theirs = Attention(
        channels,
        12,
        heads,
        dim_head=head_width,
        norm_num_groups=group_norm(channels).num_groups,
        residual_connection=True,
    )
    names = {"group_norm": ours.norm, "to_q": ours.to_query, "to_k": ours.to_key, "to_v": ours.to_value}
    for name, layer in (names | {"to_out.0": ours.to_out}).items():
        theirs.get_submodule(name).load_state_dict(layer.state_dict())
    x, hidden_states = noise(2, channels, 4, 6), noise(2, length, 12, seed=2)
    torch.testing.assert_close(ours(x, hidden_states), theirs(x, hidden_states), rtol=1e-4, atol=1e-5)


def test_the_attention_starts_without_an_effect_and_learns_at_once() -> None:
    attention, x, hidden_states = CrossAttention(64, 12), noise(2, 64, 4, 4), noise(2, 3, 12)
    assert torch.equal(attention(x, hidden_states), x)
    attention(x, hidden_states).square().sum().backward()
    assert attention.get_parameter("to_out.weight").grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_masked_hidden_states_are_as_if_they_were_not_there(kind: torch.dtype) -> None:
    attention = randomized(CrossAttention(64, 12))
    x, hidden_states = noise(2, 64, 4, 4), noise(2, 5, 12, seed=2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=kind)
    got = attention(x, hidden_states, mask)
    torch.testing.assert_close(got[:1], attention(x[:1], hidden_states[:1]))
    torch.testing.assert_close(got[1:], attention(x[1:], hidden_states[1:, :2]))
    assert not torch.allclose(got[1:], attention(x[1:], hidden_states[1:]))


def test_a_repeated_hidden_state_changes_nothing() -> None:
    attention, x, hidden_states = randomized(CrossAttention(64, 12)), noise(2, 64, 4, 4), noise(2, 1, 12)
    torch.testing.assert_close(attention(x, hidden_states.expand(2, 9, 12)), attention(x, hidden_states))


def test_the_memory_format_of_a_map_changes_nothing() -> None:
    attention, x, hidden_states = randomized(CrossAttention(64, 12)), noise(2, 64, 4, 6), noise(2, 3, 12)
    torch.testing.assert_close(
        attention(x.to(memory_format=torch.channels_last), hidden_states), attention(x, hidden_states)
    )


def test_zeroed_returns_the_layer_itself() -> None:
    layer = nn.Linear(2, 3)
    assert zeroed(layer) is layer
    assert not any(parameter.any() for parameter in layer.parameters())
