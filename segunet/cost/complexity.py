"""The cost of a network, counted: parameters and FLOPs of its layers, bytes of its weights.

Everything runs on torch's meta device, where tensors have a shape but no memory. There, attention
(``scaled_dot_product_attention``) is counted as two matrix products; on a CPU it would not be counted.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segunet.base.nested import tensors_in

_REST = "(the rest)"


class Inputs(NamedTuple):
    """Arguments of a network's forward call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Layer(NamedTuple):
    """A module with its submodules.

    Attributes:
        name: dotted name as in ``net.named_modules()``; "(the rest)" for computations outside the layers.
        type: its class.
        outputs: shape of each tensor that its last call returned; empty if it was not called.
        parameters: number of parameters; shared ones are counted in their first layer.
        flops: FLOPs in one call of the network.
    """

    name: str
    type: str
    outputs: list[list[int]]
    parameters: int
    flops: int


def layers_of(net: nn.Module, inputs: Inputs, depth: int) -> list[Layer]:
    """Return the layers of ``net`` in call order; every parameter and FLOP is in one of them.

    FLOPs are those of convolutions, matrix products and attention; a multiply and an add are two.

    Args:
        net: on the meta device.
        inputs: on the meta device.
        depth: number of module levels to list as layers; 1 or more. A ``ModuleList`` is not a layer, its members
            are.
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

    Integer buffers are unchanged. In int8, weights with two or more dimensions take one byte each; biases, norms
    and buffers stay float32; scales are not counted.
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
    """Yield the modules ``depth`` levels below ``module``, and leaf modules above that."""
    for name, child in module.named_children():
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if is_list or (depth > 1 and any(True for _ in child.children())):
            yield from _modules(child, depth - 1, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _recorder(outputs: dict[str, list[list[int]]], name: str) -> Callable[[nn.Module, Any, Any], None]:
    """Return a forward hook that records the shapes of a module's outputs."""

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        outputs[name] = [list(tensor.shape) for tensor in tensors_in(output)]

    return note


def _numbers(tensors: set[Any]) -> int:
    return sum(tensor.numel() for tensor in tensors)
