"""Show the cost of a network: ``python -m segunet.summary [model=NAME|checkpoint=PATH|source=sd15|sdxl|PATH] ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("summary")

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import AfterValidator
from torch import nn

from segunet.base.environment import hardware, versions
from segunet.base.errors import UserError
from segunet.base.files import write_json
from segunet.base.terminal import progress_bar
from segunet.base.validation import Positive, Settings
from segunet.cli.command import command
from segunet.cli.run_dir import as_path
from segunet.cost.complexity import Inputs, layers_of, weight_bytes
from segunet.cost.measurement import Workload, check_memory, measure
from segunet.cost.output import check_output
from segunet.cost.subject import Subject, check_subject, device_kind, size_of, subject_of
from segunet.cost.tables import show_layers, show_measurements
from segunet.inference.precision import default_precision, fabric_from_settings

logger = logging.getLogger("segunet.summary")  # __name__ is "__main__" when run as a program
_NETWORK_GROUPS = ("model", "data")  # groups that define the network without checkpoint= and source=


def _auto_or_flag(value: object) -> object:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError("must be auto, true or false")
    return value


class SummarySettings(Settings):
    """Plain settings of the command."""

    measure: Annotated[Any, AfterValidator(_auto_or_flag)]
    compile: bool
    channels_last: bool
    accelerator: Literal["auto", "cpu", "cuda"]
    batch_size: Positive
    depth: Positive


def summarize(cfg: DictConfig) -> dict[str, Any]:
    """Show the cost of the network that ``cfg`` names; return it in plain containers, also written to ``cfg.output``.

    Raises:
        UserError: anything the user can fix.
    """
    check_settings(cfg)
    check_one_network(cfg)
    subject = subject_of(cfg)
    make_inputs = partial(subject.make_inputs, cfg.batch_size, size_of(cfg.size) or subject.size)
    with torch.device("meta"):  # shapes without memory
        net, inputs = subject.make_net().eval(), make_inputs()
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
    if cfg.measure is True or (cfg.measure == "auto" and cfg.source is None):
        content["hardware"] = hardware()
        content["measurements"] = list(measurements_of(cfg, subject, make_inputs, net))
        show_measurements(content["measurements"])
    if cfg.output is not None:
        write_json(as_path(cfg.output), content)
        logger.info("written to %s", cfg.output)
    return content


def check_settings(cfg: DictConfig) -> None:
    """Raise a UserError for invalid values."""
    SummarySettings.of(cfg)
    check_subject(cfg)
    if cfg.output is not None:
        check_output(as_path(cfg.output), {"network", "layers"}, "segunet.summary")


def check_one_network(cfg: DictConfig) -> None:
    """Raise a UserError if the command line names more than one network."""
    given = [f"{name}={cfg[name]}" for name in ("checkpoint", "source") if cfg[name] is not None]
    if given:
        task = HydraConfig.get().overrides.task
        given += [each for each in task if each.lstrip("+~").partition("=")[0].split(".")[0] in _NETWORK_GROUPS]
    if len(given) > 1:
        raise UserError(
            f"{' and '.join(given)} cannot be combined: a checkpoint or source has its own network and "
            "classes. Give one of model=NAME (with data=NAME), checkpoint=PATH and source=NAME."
        )


def measurements_of(
    cfg: DictConfig, subject: Subject, make_inputs: Callable[[], Inputs], net: nn.Module
) -> Iterator[dict[str, Any]]:
    """Measure, and yield each measurement in plain containers.

    Args:
        cfg: config of the command.
        subject: the network to measure.
        make_inputs: builds its inputs.
        net: its network, on the meta device.
    """
    accelerator, precision = _device_settings(cfg)
    make_fabric = partial(fabric_from_settings, accelerator, precision)
    numbers = 2 if subject.segments else 1  # at least the weights, and their gradients
    width = 2 if precision in ("bf16-true", "16-true") else 4
    check_memory(numbers * width * sum(each.numel() for each in net.parameters()), make_fabric().device)
    forward = Workload(subject.make_net, make_inputs, make_fabric, channels_last=cfg.channels_last)
    workloads = {"forward pass": forward}
    if subject.segments:
        training = instantiate(cfg.loss, _convert_="all"), instantiate(cfg.optimizer, _convert_="all")
        with torch.device("meta"):
            num_classes = net(*make_inputs().args).shape[1]
        workloads["training step"] = replace(forward, num_classes=num_classes, training=training)
    modes = [(name, compiled) for name in workloads for compiled in ((False, True) if cfg.compile else (False,))]
    with progress_bar() as bar:
        task = bar.add_task("", total=len(modes))
        for name, compiled in modes:
            bar.update(task, description=f"measuring a {name}{', torch.compile' if compiled else ''}")
            measurement = measure(replace(workloads[name], compile=compiled))
            bar.advance(task)
            how = {"accelerator": accelerator, "precision": precision, "batch_size": cfg.batch_size}
            yield {"what": name, "compile": compiled, **how, **asdict(measurement)}


def _device_settings(cfg: DictConfig) -> tuple[str, str]:
    """Return the accelerator and the precision to measure with, "auto" resolved."""
    accelerator = device_kind(cfg.accelerator)
    precision = default_precision(accelerator) if cfg.precision == "auto" else str(cfg.precision)
    if accelerator == "cpu" and precision.startswith("16"):
        raise UserError(f"precision={precision} needs a CUDA GPU; the CPU supports 32-true, bf16-mixed and bf16-true.")
    return accelerator, precision


@command("summary")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    summarize(cfg)


if __name__ == "__main__":
    main()
