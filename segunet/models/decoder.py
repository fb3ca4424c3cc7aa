"""The U-Net's decoder: from the encoder's maps to one map of fine features."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.validation import MOST_CHANNELS, Channels, checked
from segunet.models.blocks import ConvNormAct, Norm, ScaleShift, UpBlock
from segunet.models.context import AtrousPyramid
from segunet.models.weights import load_decoder_weights


@checked("model.decoder")
class UNetDecoder(nn.Module):
    """Go from the coarsest map to the finest: upsample, concatenate the skip, convolve twice.

    Args:
        encoder_channels: channels of the encoder's maps, finest first; 0 for a map that is no skip.
        widths: output channels of each step, coarsest step first; one fewer than there are maps.
        reduced_channels: number of channels that each map is projected to (1x1 convolution) before use, finest
            first; None uses the maps unchanged.
        full_resolution_width: channels of a last step without a skip, from half the input's size to the
            input's size; None ends at half the input's size.
        norm: batch normalisation in the decoder's blocks; ``group`` for group normalisation, False for none.
        align_corners: as in ``torch.nn.functional.interpolate``, for bilinear upsampling.
        upsampling: bilinear or nearest.
        weights: path of a segunet checkpoint whose decoder this one starts from, as far as names match, or None.
        context_width: channels of each branch of an :class:`AtrousPyramid` on the coarsest map; None for none.

    Raises:
        UserError: the number of widths or reduced channels does not match the encoder; an unknown upsampling.
    """

    def __init__(
        self,
        encoder_channels: Sequence[Annotated[int, Field(ge=0, le=MOST_CHANNELS)]],
        widths: Sequence[Channels],
        reduced_channels: Sequence[Channels] | None = None,
        full_resolution_width: Channels | None = None,
        norm: Norm = True,
        align_corners: bool = False,
        upsampling: Literal["bilinear", "nearest"] = "bilinear",
        weights: str | None = None,
        context_width: Channels | None = None,
    ) -> None:
        super().__init__()
        channels = encoder_channels if reduced_channels is None else reduced_channels
        count = len(encoder_channels)
        if len(channels) != count or len(widths) != count - 1:
            raise UserError(
                f"The encoder gives {count} maps: model.decoder.reduced_channels needs as many entries (or null) and "
                f"model.decoder.widths one fewer, got {reduced_channels} and {widths}."
            )
        self.reduce = nn.ModuleList()
        if reduced_channels is not None:
            if 0 in encoder_channels:
                raise UserError("model.decoder.reduced_channels: a map has no channels (stem_width=0). Set it to null.")
            pairs = zip(encoder_channels, channels, strict=True)
            self.reduce.extend(ConvNormAct(wide, narrow, kernel_size=1, norm=norm) for wide, narrow in pairs)
        self.context: AtrousPyramid | None = None
        if context_width is not None:
            self.context = AtrousPyramid(channels[-1], context_width, norm)
        inputs = [channels[-1], *widths[:-1]]
        skips = channels[-2::-1]  # coarsest first; the coarsest map itself is the start
        self.steps = nn.ModuleList(
            UpBlock(below, skip, width, norm, align_corners, upsampling)
            for below, skip, width in zip(inputs, skips, widths, strict=True)
        )
        self.widths = list(widths)
        self.out_channels = widths[-1]
        self.to_full_resolution: UpBlock | None = None
        if full_resolution_width is not None:
            self.to_full_resolution = UpBlock(widths[-1], 0, full_resolution_width, norm, align_corners, upsampling)
            self.out_channels = full_resolution_width
        if weights is not None:
            load_decoder_weights(self, weights)

    def forward(self, maps: list[Tensor], scale_shifts: Sequence[ScaleShift] | None = None) -> Tensor:
        """Return (N, out_channels, ...) at the finest map's size, or at twice that with a full-resolution step.

        ``scale_shifts``, if given, are one for each of the ``widths``.
        """
        if self.reduce:
            maps = [reduce(each) for reduce, each in zip(self.reduce, maps, strict=True)]
        x = maps[-1] if self.context is None else self.context(maps[-1])
        given: Sequence[ScaleShift | None] = scale_shifts or [None] * len(self.steps)
        for step, skip, scale_shift in zip(self.steps, maps[-2::-1], given, strict=True):
            x = step(x, skip if skip.shape[1] else None, scale_shift)
        if self.to_full_resolution is not None:
            x = self.to_full_resolution(x)
        return x
