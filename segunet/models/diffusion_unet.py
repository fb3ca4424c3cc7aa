"""The U-Net as the denoiser of a diffusion model (Ho et al. 2020): the same encoder and decoder, and three changes.

Shapes: N batch, C channels, H and W height and width, E width of the time embedding, L hidden states of D numbers each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segunet.base.errors import UserError
from segunet.base.validation import Channels, Positive, checked
from segunet.models.blocks import scaled_and_shifted
from segunet.models.conditioning import CrossAttention, HeadWidth, TimeEmbedding, ToScaleShift, zeroed
from segunet.models.decoder import UNetDecoder
from segunet.models.unet import Encoder

EvenWidth = Annotated[int, Field(ge=2, le=8192, multiple_of=2)]


@checked("model")
class DiffusionUNet(nn.Module):
    """A noisy sample and its time step in, a tensor of the sample's size out: noise, clean sample or velocity.

    What a segmentation U-Net needs to become a denoiser, of which the first two can be switched off:

    - the time step scales and shifts every map, and every step of the decoder;
    - the hidden states of a text encoder reach the coarsest maps by cross-attention;
    - the head has the noise's channels, and starts at zero.

    The sample itself is one more map, so that the decoder ends at full resolution. The encoder sees the sample alone:
    it has the parameters of a segmentation network's, and one can start from the other.

    Args:
        encoder: module that returns the maps; it takes ``in_channels`` channels.
        decoder: builds the decoder from the maps' channels, finest first: those of the sample's map at full
            resolution, then the encoder's. It has no full-resolution step of its own.
        in_channels: channels of the sample: 3 of an image, 4 of Stable Diffusion's latents.
        out_channels: channels of the output.
        full_resolution_width: channels of the sample's own map.
        time_step: False for a network that is not told the time step, and ignores the one given.
        time_width: E, even.
        cross_attention_dim: D; None for an unconditional network.
        attending_maps: how many of the encoder's maps attend to the hidden states, counted from the coarsest.
        head_width: width of an attention head.

    Attributes:
        gradient_checkpointing: as trainers of diffusers set it: compute encoder and decoder again in the backward pass
            instead of storing their activations; batch normalisation then sees each batch twice. The setting of
            ``segunet.train`` is for single blocks, see ``models/gradient_checkpointing.py``.

    Raises:
        UserError: an invalid setting; parts that do not fit each other.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Callable[[Sequence[int]], UNetDecoder],
        in_channels: Channels = 3,
        out_channels: Channels = 3,
        full_resolution_width: Channels = 16,
        time_step: bool = True,
        time_width: EvenWidth = 256,
        cross_attention_dim: Channels | None = None,
        attending_maps: Positive = 2,
        head_width: HeadWidth = 32,
    ) -> None:
        super().__init__()
        channels = [full_resolution_width, *encoder.channels]
        self.encoder = encoder
        self.decoder = decoder(channels)
        _check_parts(encoder, self.decoder, in_channels, attending_maps)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.cross_attention_dim = cross_attention_dim

        self.full_resolution = nn.Conv2d(in_channels, full_resolution_width, kernel_size=3, padding=1)
        self.time: TimeEmbedding | None = None
        self.of_maps, self.of_steps, self.attention = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        if time_step:
            self.time = TimeEmbedding(time_width)
            self.of_maps.extend(ToScaleShift(time_width, each) for each in channels)
            self.of_steps.extend(ToScaleShift(time_width, each) for each in self.decoder.widths)
        if cross_attention_dim is not None:
            coarsest = channels[-attending_maps:]
            self.attention.extend(CrossAttention(each, cross_attention_dim, head_width) for each in coarsest)
        self.head = zeroed(nn.Conv2d(self.decoder.out_channels, out_channels, kernel_size=3, padding=1))

        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] = partial(checkpoint, use_reentrant=False)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction (N, out_channels, H, W), in the weights' dtype.

        Args:
            sample: the noisy sample (N, in_channels, H, W), in the weights' dtype; H and W are multiples of the
                encoder's stride.
            timestep: one number for all, or (N,); whole or fractional.
            encoder_hidden_states: (N, L, D), any L, in the weights' dtype; for a conditional network alone.
            encoder_attention_mask: (N, L), true or 1 where a hidden state counts; at least one does.

        Raises:
            UserError: a shape that does not fit; hidden states that are missing, or that the network cannot use.
        """
        if not torch.compiler.is_compiling():
            self._check_inputs(sample, encoder_hidden_states, encoder_attention_mask)
        maps = [self.full_resolution(sample), *self._run(self.encoder, sample)]  # at /1, /2, /4 ...
        scale_shifts = None
        if self.time is not None:
            time = self.time(_one_each(timestep, sample))  # (N, E)
            maps = [scaled_and_shifted(each, to(time)) for each, to in zip(maps, self.of_maps, strict=True)]
            scale_shifts = [to(time) for to in self.of_steps]
        for number, attend in enumerate(self.attention, start=len(maps) - len(self.attention)):
            maps[number] = attend(maps[number], encoder_hidden_states, encoder_attention_mask)
        return self.head(self._run(self.decoder, maps, scale_shifts))  # type: ignore[no-any-return]

    def _run(self, part: Callable[..., Any], *inputs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(part, *inputs)
        return part(*inputs)

    def _check_inputs(self, sample: Tensor, hidden_states: Tensor | None, mask: Tensor | None) -> None:
        if sample.ndim != 4 or sample.shape[1] != self.in_channels:
            raise UserError(
                f"The sample must be (N, {self.in_channels}, H, W), got {tuple(sample.shape)}. The network was built "
                f"with model.in_channels={self.in_channels}."
            )
        for side in sample.shape[-2:]:
            check_side(side, self.encoder.stride)
        if self.cross_attention_dim is None:
            _check_unconditional(hidden_states, mask)
        else:
            _check_condition(len(sample), self.cross_attention_dim, hidden_states, mask)


def _one_each(timestep: Tensor | float, sample: Tensor) -> Tensor:
    """Return float32 (N,) on the sample's device.

    Raises:
        UserError: neither one time step nor one for each sample.
    """
    timesteps = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device)
    count = sample.shape[0]
    if not torch.compiler.is_compiling() and tuple(timesteps.shape) not in ((), (1,), (count,)):
        raise UserError(
            f"The time step must be one number, or one for each of the {count} samples: ({count},). It is "
            f"{tuple(timesteps.shape)}."
        )
    return timesteps.expand(count)


def _check_parts(encoder: Encoder, decoder: UNetDecoder, in_channels: int, attending_maps: int) -> None:
    """Raise a UserError unless the parts fit each other."""
    if (own := getattr(encoder, "in_channels", in_channels)) != in_channels:
        raise UserError(f"model.in_channels={in_channels} and model.encoder.in_channels={own} must be equal.")
    if attending_maps > len(encoder.channels):
        raise UserError(
            f"model.attending_maps={attending_maps}: the encoder has only {len(encoder.channels)} maps that can attend."
        )
    if decoder.to_full_resolution is not None:
        raise UserError(
            "model.decoder.full_resolution_width must be null: the sample's own map is at full resolution, with "
            "model.full_resolution_width channels."
        )


def check_side(side: int, stride: int) -> None:
    """Raise a UserError unless maps of ``side`` can be halved down to the encoder's ``stride``."""
    if side % stride or not side:
        below, above = side // stride * stride, (side // stride + 1) * stride
        nearest = f"nearest that fit are {below} and {above}" if below else f"smallest that fits is {above}"
        raise UserError(
            f"A side of {side} does not fit the network, whose encoder has a stride of {stride}: the {nearest}."
        )


def _check_unconditional(hidden_states: Tensor | None, mask: Tensor | None) -> None:
    given = {"encoder_hidden_states": hidden_states, "encoder_attention_mask": mask}
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"This network is unconditional, got {name} {tuple(value.shape)}. Leave them out, or build a network "
                "with model.cross_attention_dim=D for hidden states (N, L, D)."
            )


def _check_condition(count: int, width: int, hidden_states: Tensor | None, mask: Tensor | None) -> None:
    if hidden_states is None:
        raise UserError(
            f"This network is conditional: it needs encoder_hidden_states ({count}, L, {width}), got None. For an "
            "empty prompt, give the text encoder's hidden states of an empty text, or what stood for it in training, "
            f"such as torch.zeros({count}, 1, {width})."
        )
    length = hidden_states.shape[1] if hidden_states.ndim == 3 else "L"
    if tuple(hidden_states.shape) != (count, length, width):
        raise UserError(
            f"encoder_hidden_states must be ({count}, L, {width}), got {tuple(hidden_states.shape)}: give as many as "
            f"samples, as wide as model.cross_attention_dim={width}."
        )
    if mask is not None and tuple(mask.shape) != (count, length):
        raise UserError(
            f"encoder_attention_mask must be ({count}, {length}), as the hidden states, got {tuple(mask.shape)}."
        )
