"""The denoiser as a model of the library diffusers, for its pipelines, schedulers and training scripts.

Needs the extra ``segunet[diffusers]``. Nothing else in segunet imports this file.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.models.build import build_network
from segunet.models.diffusion_unet import DiffusionUNet

import_extra("diffusers", "diffusers")  # or say how to install it

from diffusers.configuration_utils import ConfigMixin, register_to_config  # noqa: E402
from diffusers.models.modeling_utils import ModelMixin  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput  # noqa: E402


class DiffusersUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # they differ in an attribute's type
    """A :class:`DiffusionUNet` in the place of ``UNet2DModel``, or of ``UNet2DConditionModel`` if it is conditional.

    ``save_pretrained`` writes the network's description and weights; ``from_pretrained`` builds listed classes only.

    Args:
        model: the network's config in plain values: ``_target_`` and the arguments, as in conf/model.
        in_channels: channels of the sample, as in ``model``.
        out_channels: channels of the output, as in ``model``.
        sample_size: side of the samples that pipelines make, or [height, width].
        cross_attention_dim: width of the hidden states, as in ``model``; None for an unconditional network.
        time_cond_proj_dim: None; pipelines ask for it.

    Raises:
        UserError: a config that is not one of a denoiser, or that contradicts the other arguments.
    """

    _supports_gradient_checkpointing = True

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        model: dict[str, Any],
        in_channels: int = 3,
        out_channels: int = 3,
        sample_size: int | list[int] = 64,
        cross_attention_dim: int | None = None,
        time_cond_proj_dim: None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        net = build_network(model)
        if not isinstance(net, DiffusionUNet):
            raise UserError(f"model must be the config of a DiffusionUNet, got one of a {type(net).__name__}.")
        given = (in_channels, out_channels, cross_attention_dim)
        if given != (own := (net.in_channels, net.out_channels, net.cross_attention_dim)):
            raise UserError(f"in_channels, out_channels and cross_attention_dim are {given}, but {own} in model.")
        self.net = net

    @classmethod
    def around(cls, net: DiffusionUNet, model: Mapping[str, Any], sample_size: int | list[int] = 64) -> Self:
        """Return a drop-in that runs ``net`` itself, not a copy.

        Args:
            net: the network.
            model: its config in plain values.
            sample_size: side of the samples that pipelines make, or [height, width].

        Raises:
            UserError: the config describes another network.
        """
        with torch.device("meta"):
            drop_in: Self = cls(
                model=dict(model),
                in_channels=net.in_channels,
                out_channels=net.out_channels,
                sample_size=sample_size,
                cross_attention_dim=net.cross_attention_dim,
            )
        if _shapes(net) != _shapes(drop_in.net):
            raise UserError("The config describes another network: its weights have other names or shapes.")
        drop_in.net = net
        drop_in.train(net.training)
        return drop_in

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        *,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        added_cond_kwargs: Mapping[str, Any] | None = None,
        encoder_attention_mask: Tensor | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Return an object whose ``sample`` is the prediction (N, out_channels, H, W), or a tuple of it.

        Args:
            sample: as ``timestep``, ``encoder_hidden_states`` and ``encoder_attention_mask``, see
                :meth:`DiffusionUNet.forward`.
            timestep: one number for all, or (N,).
            encoder_hidden_states: (N, L, D).
            timestep_cond: None or empty, as the network has no such input; the same holds for
                ``cross_attention_kwargs``, ``added_cond_kwargs`` and ``class_labels``.
            cross_attention_kwargs: see ``timestep_cond``.
            added_cond_kwargs: see ``timestep_cond``.
            encoder_attention_mask: (N, L).
            class_labels: see ``timestep_cond``.
            return_dict: False for a tuple.

        Raises:
            UserError: as :meth:`DiffusionUNet.forward`, or an input that the network does not have.
        """
        _refuse(
            timestep_cond=timestep_cond,
            cross_attention_kwargs=cross_attention_kwargs or None,
            added_cond_kwargs=added_cond_kwargs or None,
            class_labels=class_labels,
        )
        prediction = self.net(sample, timestep, encoder_hidden_states, encoder_attention_mask)
        return UNet2DConditionOutput(sample=prediction) if return_dict else (prediction,)


def _refuse(**inputs: object) -> None:
    """Raise a UserError if one of the inputs is given."""
    if given := [name for name, value in inputs.items() if value is not None]:
        raise UserError(f"The network has no input {', '.join(given)}: leave it out.")


def _shapes(net: DiffusionUNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}
