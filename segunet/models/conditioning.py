"""What a denoiser is told besides its noisy sample: the time step, and the hidden states of a text encoder.

Shapes: N batch, C channels, H and W height and width, E width of the time embedding, L hidden states of D numbers each.
"""

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet.models.blocks import ScaleShift, group_norm

HeadWidth = Literal[32, 64]
Layer = TypeVar("Layer", bound=nn.Module)

_LONGEST_WAVE = 10_000.0  # over 2 pi; Vaswani et al. 2017, section 3.5


class TimeEmbedding(nn.Module):
    """Sinusoids of the time step, then an MLP (Ho et al. 2020, appendix B).

    Args:
        width: E, even; of the sinusoids, of the hidden layer and of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Return the embedding (N, E), in the weights' dtype, of ``timesteps`` (N,), whole or fractional."""
        x = sinusoids(timesteps, self.width).to(self.hidden.weight.dtype)
        return F.silu(self.out(F.silu(self.hidden(x))))


class ToScaleShift(nn.Module):
    """Scale and shift of a map's channels, from the time embedding (Perez et al. 2018, FiLM).

    Starts at zero, where the map stays as it is (Peebles and Xie 2023, adaLN-Zero).

    Args:
        width: E of the embedding.
        channels: C of the map.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.projection = zeroed(nn.Linear(width, 2 * channels))

    def forward(self, embedding: Tensor) -> ScaleShift:
        """Return scale and shift, each (N, C, 1, 1), from ``embedding`` (N, E)."""
        scale, shift = self.projection(embedding)[:, :, None, None].chunk(2, dim=1)
        return scale, shift


class CrossAttention(nn.Module):
    """Every pixel of a map asks the hidden states, and their answer is added to it (Rombach et al. 2022, section 3.3).

    Starts without an effect: its output projection is zero.

    Args:
        channels: C of the map.
        condition_width: D of the hidden states.
        head_width: numbers in a head's query; as many heads as fit into the channels, at least one.
    """

    def __init__(self, channels: int, condition_width: int, head_width: HeadWidth = 32) -> None:
        super().__init__()
        self.head_width = head_width
        inner = max(1, channels // head_width) * head_width
        self.norm = group_norm(channels)
        self.to_query = nn.Linear(channels, inner, bias=False)
        self.to_key = nn.Linear(condition_width, inner, bias=False)
        self.to_value = nn.Linear(condition_width, inner, bias=False)
        self.to_out = zeroed(nn.Linear(inner, channels))

    def forward(self, x: Tensor, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return a map (N, C, H, W).

        Args:
            x: map (N, C, H, W).
            hidden_states: (N, L, D).
            mask: (N, L), true or 1 where a hidden state counts; None if all do.
        """
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (N, HW, C)
        answer = F.scaled_dot_product_attention(
            self._heads(self.to_query(pixels)),  # (N, heads, HW, head_width)
            self._heads(self.to_key(hidden_states)),  # (N, heads, L, head_width)
            self._heads(self.to_value(hidden_states)),
            attn_mask=None if mask is None else mask.bool()[:, None, None, :],
        )
        change: Tensor = self.to_out(answer.transpose(1, 2).flatten(2))  # (N, HW, C)
        return x + change.transpose(1, 2).reshape(x.shape)

    def _heads(self, x: Tensor) -> Tensor:
        """Split (N, length, heads * head_width) into (N, heads, length, head_width)."""
        return x.reshape(*x.shape[:2], -1, self.head_width).transpose(1, 2)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return float32 (N, width), in -1..1: first the sines, then the cosines of ``positions`` (N,).

    The i-th of width / 2 frequencies is 10000^(-2i / width) (Vaswani et al. 2017, section 3.5).
    """
    exponents = torch.arange(width // 2, dtype=torch.float32, device=positions.device) / (width // 2)
    angles = positions.float()[:, None] * _LONGEST_WAVE**-exponents  # (N, width / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def zeroed(layer: Layer) -> Layer:
    """Set the parameters of ``layer`` to zero, and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
