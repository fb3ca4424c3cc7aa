"""What a network costs: ``python -m segunet.summary [model=NAME|checkpoint=PATH|source=sd15|sdxl|PATH] ...``."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from segunet import build
from segunet.checkpoint import build_network, load_checkpoint
from segunet.commands import as_path, command
from segunet.cost.complexity import Inputs, layers_of, weight_bytes
from segunet.cost.measurement import Workload, check_memory, measure
from segunet.cost.report import show_layers, show_measurements
from segunet.cost.stable_diffusion import PIXELS, own_size, read_config, unet_from_config, unet_inputs
from segunet.environment import hardware, versions
from segunet.errors import UserError, check_whole_number
from segunet.exported import READERS
from segunet.files import write_text
from segunet.precision import default_precision, fabric_from_settings
from segunet.terminal import progress_bar

logger = logging.getLogger("segunet.summary")  # __name__ is "__main__" when run as a program

_SIZE = 512
_ELSEWHERE = ("model", "data")  # where the network comes from without checkpoint= and source=


@dataclass(frozen=True)
class Subject:
    """The network in question.

    Attributes:
        title: for the user.
        make_net: builds it at random, on the current default device.
        make_inputs: what it is called with, on the current default device.
        segments: its logits are the project's, so that a training step can be measured.
    """

    title: str
    make_net: Callable[[], nn.Module]
    make_inputs: Callable[[], Inputs]
    segments: bool


def summarize(cfg: DictConfig) -> dict[str, Any]:
    """Show what the network that ``cfg`` names costs; return it in plain containers, which ``cfg.output`` gets, too.

    Raises:
        UserError: whatever the user can mend.
    """
    check_settings(cfg)
    check_one_network(cfg)
    subject = subject_of(cfg)
    with torch.device("meta"):  # shapes without memory
        net, inputs = subject.make_net().eval(), subject.make_inputs()
    layers = layers_of(net, inputs, cfg.depth)
    content: dict[str, Any] = {
        "network": subject.title,
        "input": list(inputs.args[0].shape),
        "parameters": sum(layer.parameters for layer in layers),
        "trainable_parameters": sum(each.numel() for each in net.parameters() if each.requires_grad),
        "flops": sum(layer.flops for layer in layers),
        "weight_bytes": weight_bytes(net),
        "layers": [layer._asdict() for layer in layers],
        "versions": versions(),
    }
    show_layers(layers, content)
    if cfg.measure is True or (cfg.measure == "auto" and subject.segments):
        content |= {"hardware": hardware(), "measurements": list(measurements_of(cfg, subject, net, inputs))}
        show_measurements(content["measurements"])
    if cfg.output is not None:
        write_text(as_path(cfg.output), json.dumps(content, indent=2) + "\n")
        logger.info("written to %s", cfg.output)
    return content


def check_settings(cfg: DictConfig) -> None:
    """Raise a UserError for values that mean nothing."""
    choices = {
        "measure": ("auto", True, False),
        "compile": (True, False),
        "channels_last": (True, False),
        "accelerator": ("auto", "cpu", "cuda"),
    }
    for name, values in choices.items():
        if not any(cfg[name] == value and type(cfg[name]) is type(value) for value in values):
            wanted = ", ".join(str(value).lower() for value in values)
            raise UserError(f"{name} must be one of {wanted}, got {cfg[name]}.")
    for name in ("batch_size", "depth"):
        check_whole_number(name, cfg[name], least=1)
    if "_target_" not in cfg.data:
        raise UserError("Which data set? The network has its classes. Give data=sample, data=voc2012 or data=custom.")
    if OmegaConf.select(cfg.loss, "pixelwise.class_weights") == "auto":
        raise UserError("loss.pixelwise.class_weights=auto needs training masks, and none are read here: leave it out.")
    if cfg.output is not None:
        check_output(as_path(cfg.output))


def check_output(path: Path) -> None:
    """Raise a UserError unless ``path`` is the name of a new JSON file, or of one that this command wrote."""
    if path.suffix != ".json":
        raise UserError(f"output={path}: wanted the name of a .json file to write.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= {"network", "layers"}:
        raise UserError(f"output={path} is there already, and segunet.summary has not written it. Give another name.")


def check_one_network(cfg: DictConfig) -> None:
    """Raise a UserError where the command line names more than one network."""
    given = [f"{name}={cfg[name]}" for name in ("checkpoint", "source") if cfg[name] is not None]
    if given:
        task = HydraConfig.get().overrides.task
        given += [each for each in task if each.lstrip("+~").partition("=")[0].split(".")[0] in _ELSEWHERE]
    if len(given) > 1:
        raise UserError(
            f"{' and '.join(given)} do not go together: a checkpoint, like a source, brings its own network and "
            "classes. Give one of model=NAME (with data=NAME), checkpoint=PATH and source=NAME."
        )


def subject_of(cfg: DictConfig) -> Subject:
    """Return the network that ``cfg`` names; weights are not loaded, as they change no cost."""
    if cfg.source is not None:
        return _diffusion_unet(cfg)
    if cfg.checkpoint is None:
        title = HydraConfig.get().runtime.choices["model"]
        make_net: Callable[[], nn.Module] = partial(build.net_from_config, build.without_weights(cfg.model))
    else:
        title = str(cfg.checkpoint)
        make_net = partial(build_network, _model_of(as_path(cfg.checkpoint)))
    size = size_of(cfg.size) or (_SIZE, _SIZE)
    return Subject(title, make_net, partial(pictures, cfg.batch_size, size), segments=True)


def _model_of(checkpoint: Path) -> dict[str, Any]:
    """Return the config of a checkpoint's network; the checkpoint is seen to be sound and trusted."""
    if checkpoint.suffix in READERS:
        raise UserError(
            f"checkpoint={checkpoint}: an exported network shows no layers. Give the .ckpt file that it was made from."
        )
    model = load_checkpoint(checkpoint).model
    assert model is not None
    return model


def _diffusion_unet(cfg: DictConfig) -> Subject:
    config = read_config(str(cfg.source))
    with torch.device("meta"):
        complete = dict(unet_from_config(config).config)  # type: ignore[arg-type]
    size = size_of(cfg.size) or own_size(complete)
    if size[0] % PIXELS or size[1] % PIXELS:
        raise UserError(f"size={cfg.size}: for a diffusion U-Net height and width must be multiples of {PIXELS}.")
    make_inputs = partial(unet_inputs, complete, cfg.batch_size, size)
    return Subject(str(cfg.source), partial(unet_from_config, config), make_inputs, segments=False)


def size_of(value: Any) -> tuple[int, int] | None:
    """Return height and width of a ``size`` setting; None for null.

    Raises:
        UserError: neither a whole number above 0 nor two of them.
    """
    sides = list(value) if isinstance(value, ListConfig) else [value, value]
    if value is None:
        return None
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"size must be a number of pixels, such as 512, or [height,width], got {value}.")
    return sides[0], sides[1]


def pictures(batch_size: int, size: tuple[int, int]) -> Inputs:
    """Return random pictures uint8 (N, 3, H, W) on the current default device."""
    return Inputs((torch.randint(256, (batch_size, 3, *size), dtype=torch.uint8),), {})


def measurements_of(cfg: DictConfig, subject: Subject, net: nn.Module, inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Measure, and yield each measurement in plain containers.

    Args:
        cfg: of the command.
        subject: to measure.
        net: of the subject, on the meta device.
        inputs: of the net, on the meta device.
    """
    accelerator, precision = _how(cfg)
    make_fabric = partial(fabric_from_settings, accelerator, precision)
    numbers = 2 if subject.segments else 1  # at the least: each weight, and its gradient
    width = 2 if precision in ("bf16-true", "16-true") else 4
    check_memory(numbers * width * sum(each.numel() for each in net.parameters()), make_fabric().device)
    forward = Workload(subject.make_net, subject.make_inputs, make_fabric, channels_last=cfg.channels_last)
    workloads = {"forward pass": forward}
    if subject.segments:
        training = instantiate(cfg.loss), instantiate(cfg.optimizer)
        workloads["training step"] = replace(forward, num_classes=net(*inputs.args).shape[1], training=training)
    modes = [(name, compiled) for name in workloads for compiled in ((False, True) if cfg.compile else (False,))]
    with progress_bar() as bar:
        task = bar.add_task("", total=len(modes))
        for name, compiled in modes:
            bar.update(task, description=f"measuring a {name}{', torch.compile' if compiled else ''}")
            measurement = measure(replace(workloads[name], compile=compiled))
            bar.advance(task)
            how = {"accelerator": accelerator, "precision": precision, "batch_size": cfg.batch_size}
            yield {"what": name, "compile": compiled, **how, **asdict(measurement)}


def _how(cfg: DictConfig) -> tuple[str, str]:
    """Return the accelerator and the precision to measure with, "auto" resolved."""
    accelerator = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.accelerator == "auto" else cfg.accelerator
    precision = default_precision(accelerator) if cfg.precision == "auto" else str(cfg.precision)
    if accelerator == "cpu" and precision.startswith("16"):
        raise UserError(f"precision={precision} needs a CUDA GPU; the CPU takes 32-true, bf16-mixed and bf16-true.")
    return accelerator, precision


@command("summary")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    summarize(cfg)


if __name__ == "__main__":
    main()
