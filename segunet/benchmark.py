"""Time segunet on this machine: ``python -m segunet.benchmark [parts=[training,inference]] ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("benchmark")

import logging
import tempfile
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import Field

from segunet.base.environment import hardware, versions
from segunet.base.errors import UserError, counted
from segunet.base.files import write_json
from segunet.base.terminal import progress_bar
from segunet.base.validation import Count, Positive, Settings
from segunet.cli.command import command
from segunet.cli.run_dir import as_path
from segunet.cost.cases import (
    Case,
    data_cases,
    exported_cases,
    machine_cases,
    set_cases,
    start_cases,
    workload_case,
)
from segunet.cost.complexity import layers_of
from segunet.cost.measurement import Workload
from segunet.cost.output import check_output
from segunet.cost.results import Row, rows_of
from segunet.cost.rounds import WARM_UPS
from segunet.cost.subject import check_subject, device_kind, subject_of
from segunet.cost.tables import show_rows
from segunet.formats.write import FORMATS
from segunet.inference.precision import fabric_from_settings, mixed_precision
from segunet.training import build

logger = logging.getLogger("segunet.benchmark")  # __name__ is "__main__" when run as a program
_CLASSES = (21, 150, 256)  # of VOC, of ADE20K, and the most that 8-bit masks hold
_IMAGES = (1_000, 10_000)  # in a set
_TRAINED = 3  # forward passes that a training step is counted as: backward twice as much as forward


class BenchmarkSettings(Settings):
    """Plain settings of the command."""

    parts: Annotated[list[Literal["machine", "training", "inference", "data", "start", "growth"]], Field(min_length=1)]
    sizes: Annotated[list[Positive], Field(min_length=1)]
    batch_size: Positive
    inference_batch_sizes: Annotated[list[Positive], Field(min_length=1)]
    precisions: Literal["auto"] | Annotated[list[str], Field(min_length=1)]
    formats: Literal["auto"] | list[Literal["onnx", "openvino", "torch_export"]]
    batches: Positive
    rounds: Positive
    memory: bool
    channels_last: bool
    accelerator: Literal["auto", "cpu", "cuda"]
    seed: Count


class Benchmark:
    """What the command's parts have in common.

    Args:
        cfg: config of the command.

    Raises:
        UserError: an invalid setting.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = BenchmarkSettings.of(cfg)
        check_subject(cfg)
        if cfg.output is not None:
            check_output(as_path(cfg.output), {"rows", "hardware"}, "segunet.benchmark")
        self.cfg = cfg
        self.accelerator = device_kind(self.settings.accelerator)
        given = self.settings.precisions
        both: list[str] = ["32-true", mixed_precision(self.accelerator)]
        self.precisions = both if given == "auto" else given
        self.fabrics = {each: partial(fabric_from_settings, self.accelerator, each) for each in self.precisions}
        self.device = next(iter(self.fabrics.values()))().device  # or says what the device does not support
        self.subject = cache(partial(subject_of, cfg))  # by its number of classes
        self.workload(self.precisions[0], self.settings.sizes[0], 1, training=False)  # or says what is wrong with it

    def case(self, precision: str, size: int, batch: int, training: bool, num_classes: int | None = None) -> Case:
        """Return a training step or a forward pass of the network on ``batch`` images of ``size`` x ``size``."""
        workload, flops = self.workload(precision, size, batch, training, num_classes)
        return workload_case(workload, batch, precision, flops)

    def workload(
        self, precision: str, size: int, batch: int, training: bool, num_classes: int | None = None
    ) -> tuple[Workload, float]:
        """Return the workload of :meth:`case`, and its floating-point operations."""
        if training and not self.subject().segments:
            raise UserError("A denoiser is timed in a forward pass alone, a denoising step: parts=[machine,inference].")
        subject = self.subject() if num_classes is None else self.subject(num_classes)
        make_inputs = partial(subject.make_inputs, batch, (size, size))
        with torch.device("meta"):
            net, inputs = subject.make_net().eval(), make_inputs()
        flops = sum(layer.flops for layer in layers_of(net, inputs, depth=1)) * (_TRAINED if training else 1)
        parts = (instantiate(self.cfg.loss, _convert_="all"), instantiate(self.cfg.optimizer, _convert_="all"))
        workload = Workload(
            subject.make_net,
            make_inputs,
            self.fabrics[precision],
            channels_last=self.settings.channels_last,
            num_classes=net(*inputs.args).shape[1] if training else 1,
            training=parts if training else None,
        )
        return workload, flops

    def machine(self, _: Path) -> dict[str, Case]:
        """Return the cases of the machine's own ceilings."""
        return machine_cases(self.device, self.precisions)

    def training(self, _: Path) -> dict[str, Case]:
        """Return the cases of a training step."""
        batch = self.settings.batch_size
        return {
            f"{size} x {size}, batch {batch}, {precision}": self.case(precision, size, batch, training=True)
            for size, precision in product(self.settings.sizes, self.precisions)
        }

    def inference(self, folder: Path) -> dict[str, Case]:
        """Return the cases of a forward pass, in PyTorch and in exported formats."""
        given = self.settings.formats
        formats = [name for name in FORMATS if is_writable(name)] if given == "auto" else list[str](given)
        cases: dict[str, Case] = {}
        for size, batch in product(self.settings.sizes, self.settings.inference_batch_sizes):
            name = f"{size} x {size}, batch {batch}"
            cases |= {f"{name}, {each}": self.case(each, size, batch, training=False) for each in self.precisions}
            below = folder / f"{size}_{batch}"
            below.mkdir()
            eager, _flops = self.workload("32-true", size, batch, training=False)
            exported = exported_cases(eager, formats, below)
            cases |= {f"{name}, {each}": case for each, case in exported.items()}
        return cases

    def data(self, _: Path) -> dict[str, Case]:
        """Return the cases of loading images, training on them, and validation."""
        datamodule = build.datamodule_from_config(self.cfg)
        datamodule.prepare_data()
        datamodule.setup("fit")
        precision = self.precisions[-1]
        workload, _flops = self.workload(precision, self.settings.sizes[0], 1, training=True)
        return data_cases(datamodule, workload, self.settings.batches, precision)

    def start(self, folder: Path) -> dict[str, Case]:
        """Return the cases of the commands' start."""
        return start_cases(folder)

    def growth(self, folder: Path) -> dict[str, Case]:
        """Return training steps that differ from a first one in a single thing, and the start on larger sets."""
        size, batch, first = self.settings.sizes[0], self.settings.batch_size, _CLASSES[0]
        step = partial(self.case, self.precisions[0], training=True)
        cases = {
            f"{size} x {size}, batch {batch}, {first} classes": step(size, batch, num_classes=first),
            "four times the area": step(2 * size, batch, num_classes=first),
            "twice the batch": step(size, 2 * batch, num_classes=first),
        }
        cases |= {f"{number:,} classes": step(size, batch, num_classes=number) for number in _CLASSES[1:]}
        return {name: in_seconds(case) for name, case in cases.items()} | set_cases(folder, list(_IMAGES))


def is_writable(name: str) -> bool:
    """Return whether the packages of an exported format are installed."""
    try:
        FORMATS[name].packages()
    except UserError:
        return False
    return True


def in_seconds(case: Case) -> Case:
    """Return the case with its time instead of its speed, and without its memory."""
    return replace(case, amount=None, unit="s", workload=None)


def benchmark(cfg: DictConfig) -> list[Row]:
    """Time what ``cfg`` names; show the rows and return them, also written to ``cfg.output``.

    Raises:
        UserError: anything the user can fix.
    """
    bench = Benchmark(cfg)
    rows: list[Row] = []
    for part in bench.settings.parts:
        ceilings = {row.case.rpartition(" ")[2]: row.median * 1e9 for row in rows if row.unit == "GFLOP/s"}
        with tempfile.TemporaryDirectory(prefix="segunet-") as folder, progress_bar() as bar:
            cases = getattr(bench, part)(Path(folder))
            task = bar.add_task(part, total=len(cases) * (bench.settings.rounds + WARM_UPS))
            timed = rows_of(
                part, cases, bench.settings.rounds, ceilings, bench.settings.memory, partial(bar.advance, task)
            )
        show_rows(timed)
        rows += timed
    found, rounds = hardware(), bench.settings.rounds
    where = found.get("GPU", f"{found['processor']}, {counted(int(found['cores']), 'core')}")
    logger.info("%s, torch %s; median and range of %s", where, torch.__version__, counted(rounds, "round"))
    if cfg.output is not None:
        content = {"rows": [asdict(row) for row in rows], "hardware": found, "versions": versions()}
        write_json(as_path(cfg.output), content)
        logger.info("written to %s", cfg.output)
    return rows


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    benchmark(cfg)


if __name__ == "__main__":
    main()
