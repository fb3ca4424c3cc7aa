"""The cost of a network, measured: time and peak memory of a forward pass and of a training step.

Each measurement runs in a fresh process, so that no peak is hidden by an earlier one. The baseline is taken after
the libraries are loaded and before the network is built: the peak includes weights, gradients, the optimizer's
state, activations and the operators' workspace.

On a CUDA GPU the peak is that of torch's tensors (``torch.cuda.max_memory_allocated``). On the CPU it is the
process's resident memory: on Linux VmHWM of /proc/self/status, as ``ru_maxrss`` there starts at the level of the
process that started this one (getrusage(2): it survives an execve); elsewhere ``ru_maxrss``, in bytes on macOS.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segunet.base.environment import memory, proc_bytes
from segunet.base.errors import UserError
from segunet.base.failures import first_line
from segunet.base.terminal import setup_logging
from segunet.cost.complexity import Inputs
from segunet.cost.machine import finished
from segunet.cost.rounds import WARM_UPS
from segunet.losses.segmentation import SegmentationLoss
from segunet.training.optimizer import OptimizerFactory

ROUNDS = 5
# Forks from a server that has only imported everything; macOS's libraries do not support forking.
_START = "forkserver" if sys.platform == "linux" else "spawn"
_STATUS = Path("/proc/self/status")
TrainingStep = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Workload:
    """A forward pass, or a training step (forward, loss, backward, optimizer), with everything a process needs for it.

    Attributes:
        make_net: builds the network on the current default device.
        make_inputs: builds its inputs on the current default device; the first is (N, C, H, W).
        make_fabric: selects the device, the CPU or a CUDA GPU, and the precision.
        channels_last: use the channels_last memory format.
        compile: torch.compile the network.
        num_classes: channels of the logits in training.
        training: the loss and the optimizer factory; None for a forward pass in evaluation mode.
    """

    make_net: Callable[[], nn.Module]
    make_inputs: Callable[[], Inputs]
    make_fabric: Callable[[], Fabric]
    channels_last: bool = True
    compile: bool = False
    num_classes: int = 1
    training: tuple[SegmentationLoss, OptimizerFactory] | None = None

    def net(self) -> nn.Module:
        """Return the network on the current default device, in its memory format."""
        net = self.make_net()
        return net.to(memory_format=torch.channels_last) if self.channels_last else net


@dataclass(frozen=True)
class Measurement:
    """Cost of a workload.

    Attributes:
        seconds: median of :data:`ROUNDS` runs after two warm-up runs.
        warmup_seconds: first warm-up run, including compilation.
        peak_bytes: see the module docstring.
    """

    seconds: float
    warmup_seconds: float
    peak_bytes: int


def measure(workload: Workload, rounds: int = ROUNDS) -> Measurement:
    """Measure ``workload`` in a fresh process, ``rounds`` times after two warm-up runs.

    Raises:
        UserError: it cannot be run: out of memory, no compiler, a size that the network does not accept.
    """
    context = get_context(_START)
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as fresh:
        try:
            return fresh.submit(_measure_here, workload, rounds).result()
        except BrokenProcessPool as error:
            raise UserError(
                "The measuring process was killed by the system, most likely for lack of memory",
                "Give a smaller size or batch_size, or measure=false to skip the measurements.",
            ) from error


def _measure_here(workload: Workload, rounds: int) -> Measurement:
    setup_logging(quiet=True)
    with runnable():
        fabric = workload.make_fabric()
        _load_libraries(fabric, workload)
        level = peak_memory(fabric.device)
        step = prepared(workload, fabric)
        seconds = [_time(step) for _ in range(WARM_UPS + rounds)]
    return Measurement(statistics.median(seconds[WARM_UPS:]), seconds[0], peak_memory(fabric.device) - level)


@contextmanager
def runnable() -> Iterator[None]:
    """Raise what PyTorch says of a workload that it cannot run as a UserError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"PyTorch cannot run this: {reason}", "Try another size, batch_size or precision.") from None


def _load_libraries(fabric: Fabric, workload: Workload) -> None:
    """Load the libraries with a tiny workload, so that their memory is not attributed to the network."""
    with torch.device("meta"):
        workload.make_net()
    tiny = nn.Conv2d(3, workload.num_classes, kernel_size=1)
    _step(fabric, workload, tiny, Inputs((torch.rand(1, 3, 8, 8, device=fabric.device),), {}))()


def prepared(workload: Workload, fabric: Fabric) -> Callable[[], object]:
    """Return a function that runs ``workload`` once, and waits until its device has done it."""
    with fabric.init_module():
        net = workload.net()
    with fabric.device:
        inputs = workload.make_inputs()
    if workload.compile:
        net.compile()
    return partial(finished, _step(fabric, workload, net, inputs), fabric.device)


def _step(fabric: Fabric, workload: Workload, net: nn.Module, inputs: Inputs) -> Callable[[], object]:
    if workload.training is None:
        return _forward_pass(fabric.setup(net.eval()), inputs)
    images = inputs.args[0]  # (N, C, H, W)
    size = (len(images), *images.shape[-2:])
    masks = torch.randint(workload.num_classes, size, device=fabric.device)
    _, step = training_step(fabric, workload, net)
    return partial(step, images, masks)


def training_step(fabric: Fabric, workload: Workload, net: nn.Module) -> tuple[nn.Module, TrainingStep]:
    """Return the network on the device, in training mode, and a step on images (N, C, H, W) and masks (N, H, W)."""
    assert workload.training is not None
    loss, make_optimizer = workload.training
    loss.to(fabric.device)
    net, optimizer = fabric.setup(net.train(), make_optimizer(net))

    def step(images: Tensor, masks: Tensor) -> None:
        optimizer.zero_grad()
        fabric.backward(loss(net(images), masks).total)
        optimizer.step()

    return net, step


def _forward_pass(net: nn.Module, inputs: Inputs) -> Callable[[], object]:
    @torch.inference_mode()
    def step() -> Any:
        return net(*inputs.args, **inputs.kwargs)

    return step


def _time(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has used on ``device`` so far (see the module docstring)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():
        return proc_bytes(_STATUS, "VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory()


def check_memory(needed: int, device: torch.device) -> None:
    """Raise a UserError if ``device`` has fewer than ``needed`` bytes free."""
    free = free_memory(device)
    if needed > free:
        raise UserError(
            f"Measuring this network takes at least {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free "
            f"on {device}. Give measure=false to skip the measurements."
        )
