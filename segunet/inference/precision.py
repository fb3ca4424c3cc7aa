"""Device and precision of a network outside a trainer, and the precision that is fastest on this machine."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from platformdirs import user_cache_path
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from segunet.base.environment import processor
from segunet.base.errors import UserError
from segunet.base.files import write_json
from segunet.formats.read import ArrayNet
from segunet.models.encoder import ResNetEncoder

logger = logging.getLogger(__name__)
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

SPEED_UPS = user_cache_path("segunet") / "bf16_speed_ups.json"  # by machine
_SpeedUps = TypeAdapter(dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]])
_WORTH = 1.1  # a smaller speed-up may be noise
_ROUNDS = 2


def precision_for(net: nn.Module, precision: str) -> str:
    """Return the precision to run ``net`` in: a network of another runtime has its own, for which auto is float32."""
    return "32-true" if precision == "auto" and any(isinstance(each, ArrayNet) for each in net.modules()) else precision


def fabric_from_settings(accelerator: str, precision: str, devices: list[int] | int = 1) -> Fabric:
    """Build a Fabric for one device, any one or that of an index, and a precision.

    Raises:
        UserError: a setting that Lightning does not support, or an unavailable device.
    """
    chosen: Any = default_precision(accelerator) if precision == "auto" else precision
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=chosen)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"accelerator={accelerator} precision={precision}: Lightning says: {error}") from error


def default_precision(accelerator: str) -> Precision:
    """Return mixed precision on a CUDA GPU, and on a CPU if it is faster there; float32 elsewhere."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    return _cpu_precision() if on_cpu else gpu_precision(accelerator)


def gpu_precision(accelerator: str) -> Precision:
    """Return mixed precision on a CUDA GPU, float32 elsewhere."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return mixed_precision("cuda")


def mixed_precision(accelerator: str) -> Precision:
    """Return the mixed precision of a CPU, or of the CUDA GPU: bf16 if supported."""
    supported = accelerator == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if supported else "16-mixed"


@cache
def _cpu_precision() -> Precision:
    """Return bf16-mixed if this CPU is faster with it; timed once, and kept in the user's cache folder."""
    known = _known_speed_ups()
    if (speed_up := known.get(machine())) is None:
        speed_up = bf16_speed_up()
        try:
            write_json(SPEED_UPS, known | {machine(): speed_up})
        except UserError as error:
            logger.warning("bfloat16's speed will be measured again: %s", error)
    chosen: Precision = "bf16-mixed" if speed_up >= _WORTH else "32-true"
    logger.info("precision: %s, as bfloat16 is %.2f times as fast as float32 on this CPU", chosen, speed_up)
    return chosen


def machine() -> str:
    """Return the key of this machine's speed-up: processor and torch version."""
    return f"{processor()}, torch {torch.__version__}"


def _known_speed_ups() -> dict[str, float]:
    try:
        return _SpeedUps.validate_json(SPEED_UPS.read_bytes())
    except (OSError, ValidationError):
        return {}  # measured again


def bf16_speed_up() -> float:
    """Return how many times as fast as in float32 a small network's training step is in bfloat16 autocast.

    Timed in one thread and by its CPU time, which other programs do not disturb.
    """
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        net = ResNetEncoder(18, num_maps=4).to(memory_format=torch.channels_last)
        images = torch.rand(2, 3, 160, 160).contiguous(memory_format=torch.channels_last)

    def seconds(bf16: bool) -> float:
        start = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = net(images)[-1].float().square().mean()
        loss.backward()
        return time.thread_time() - start

    with _one_thread(), torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode
        rounds = [(seconds(bf16=False), seconds(bf16=True)) for _ in range(1 + _ROUNDS)][1:]  # the first warms up
    return min(float32 for float32, _ in rounds) / min(bfloat16 for _, bfloat16 in rounds)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
