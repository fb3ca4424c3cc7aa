"""Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): less memory for a training step.

A block keeps its inputs alone, and computes everything else again when its gradients are due. It must compute the same
again, and not change the values of its inputs.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from segunet.base.errors import UserError
from segunet.models.blocks import UpBlock
from segunet.models.classic_unet import DoubleConv
from segunet.models.context import AtrousPyramid
from segunet.models.stages import StagedEncoder

_BLOCKS = (UpBlock, DoubleConv, AtrousPyramid)


def checkpoint_gradients(net: nn.Module) -> None:
    """Let the blocks of ``net`` compute their maps again in the backward pass; its results and names stay the same.

    An encoder of a user's own, or without stages of several layers, is one block.

    Raises:
        UserError: none of its parts is known.
    """
    blocks = [*_blocks(net)]
    if not blocks:
        raise UserError(
            f"gradient_checkpointing=true: {type(net).__name__} has no blocks of segunet's networks. Set it to false."
        )
    for block in blocks:
        block.forward = partial(_forward, block, block.forward)


def _blocks(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of the net's encoder and decoder; none lies within another one."""
    encoder = getattr(net, "encoder", None)
    inside: set[nn.Module] = set()
    if isinstance(encoder, nn.Module):
        yield from _encoder_blocks(encoder)
        inside = {*encoder.modules()}
    yield from (module for module in net.modules() if isinstance(module, _BLOCKS) and module not in inside)


def _encoder_blocks(encoder: nn.Module) -> list[nn.Module]:
    """Return the layers of the encoder's stages that have layers; the encoder itself if they are not several."""
    stages = encoder.stages if isinstance(encoder, StagedEncoder) else ()
    layers = [layer for stage in stages for layer in stage.children() if [*layer.children()]]
    return layers if len(layers) > 1 else [encoder]


def _forward(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **named)

    def computed(*given: Any, **options: Any) -> Any:
        return forward(*map(_copied, given), **{name: _copied(each) for name, each in options.items()})

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _copied_buffers(block)

    return checkpoint(computed, *inputs, use_reentrant=False, context_fn=contexts, **named)


def _copied(given: Any) -> Any:
    """Copy a list, in which a block may replace maps, as those of HRNet do."""
    return [*given] if isinstance(given, list) else given


@contextmanager
def _copied_buffers(block: nn.Module) -> Iterator[None]:
    """Let a block work on copies of its buffers: batch norms must not count a batch twice."""
    buffers = [(module, *each) for module in block.modules() for each in module.named_buffers(recurse=False)]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
