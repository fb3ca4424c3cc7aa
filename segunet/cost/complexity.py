"""What a network costs on paper: parameters and FLOPs of its layers, bytes of its weights.

All of it is had on torch's meta device, where tensors have a shape and no memory. There, attention
(``scaled_dot_product_attention``) is two matrix products and counts as such; on a CPU it would not count.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segunet.base.nested import tensors_in

_REST = "(the rest)"


class Inputs(NamedTuple):
    """What a network is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Layer(NamedTuple):
    """A module and all that is inside of it.

    Attributes:
        name: dotted, as in ``net.named_modules()``; "(the rest)" is what modules above the layers do themselves.
        type: its class.
        outputs: shape of each tensor that it returned when it was last called; none if it never was.
        parameters: how many numbers; those that an earlier layer has too are counted there.
        flops: of one call of the network.
    """

    name: str
    type: str
    outputs: list[list[int]]
    parameters: int
    flops: int


def layers_of(net: nn.Module, inputs: Inputs, depth: int) -> list[Layer]:
    """Return the layers of ``net`` in the order of their calls; every parameter and FLOP is in one of them.

    FLOPs are those of convolutions, matrix products and attention; a multiply and an add are two.

    Args:
        net: on the meta device.
        inputs: on the meta device.
        depth: how many levels of modules are layers of their own; 1 or more. A ``ModuleList`` is never a layer,
            its members are.
    """
    modules = dict(_modules(net, depth))
    outputs: dict[str, list[list[int]]] = {}
    hooks = [module.register_forward_hook(_recorder(outputs, name)) for name, module in modules.items()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*inputs.args, **inputs.kwargs)
    for hook in hooks:
        hook.remove()
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    counted = set[nn.Parameter]()
    layers = list[Layer]()
    for name in sorted(modules, key=[*outputs, *modules].index):
        own = set(modules[name].parameters()) - counted
        counted |= own
        below = flops.get(f"{type(net).__name__}.{name}", 0)
        layers.append(Layer(name, type(modules[name]).__name__, outputs.get(name, []), _numbers(own), below))
    rest = set(net.parameters()) - counted
    flops_left = counter.get_total_flops() - sum(layer.flops for layer in layers)
    if rest or flops_left:
        layers.append(Layer(_REST, "", [], _numbers(rest), flops_left))
    return layers


def weight_bytes(net: nn.Module) -> dict[str, int]:
    """Return the bytes of all parameters and buffers in float32, in float16 and in int8.

    Integer buffers stay as they are. In int8 the weights of convolutions and matrices (two dimensions and more)
    take a byte each; biases, norms and buffers stay float32; the few scales are not counted.
    """
    parameters, buffers = list(net.parameters()), list(net.buffers())
    floats = _numbers({each for each in (*parameters, *buffers) if each.is_floating_point()})
    integers = sum(buffer.nbytes for buffer in buffers if not buffer.is_floating_point())
    matrices = _numbers({parameter for parameter in parameters if parameter.ndim > 1})
    return {
        "fp32": 4 * floats + integers,
        "fp16": 2 * floats + integers,
        "int8": matrices + 4 * (floats - matrices) + integers,
    }


def _modules(module: nn.Module, depth: int, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules ``depth`` levels below ``module``, and those above that have none below."""
    for name, child in module.named_children():
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if is_list or (depth > 1 and any(True for _ in child.children())):
            yield from _modules(child, depth - 1, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _recorder(outputs: dict[str, list[list[int]]], name: str) -> Callable[[nn.Module, Any, Any], None]:
    """Return a forward hook that notes the shapes of what a module returns."""

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        outputs[name] = [list(tensor.shape) for tensor in tensors_in(output)]

    return note


def _numbers(tensors: set[Any]) -> int:
    return sum(tensor.numel() for tensor in tensors)
