"""What ``segunet.benchmark`` times: each part of it is a set of cases that take turns."""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segunet.base.errors import UserError
from segunet.cost.machine import COPIED_BYTES, copy, matrix_flops, matrix_product
from segunet.cost.measurement import Workload, prepared, runnable, training_step
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import Batch
from segunet.formats.read import read_exported
from segunet.formats.write import FORMATS, traced
from segunet.inference.logits import predict
from segunet.metrics.counter import Counter
from segunet.models.diffusion_unet import DiffusionUNet


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
        run: does it once.
        amount: how much one run does, in ``unit`` times a second; None for a time in seconds.
        unit: such as images/s.
        precision: that of its arithmetic, as in Lightning.
        flops: floating-point operations in a run; None if they were not counted.
        workload: for its peak memory; None if that is not measured.
    """

    run: Callable[[], object]
    amount: float | None
    unit: str
    precision: str = "32-true"
    flops: float | None = None
    workload: Workload | None = None


def machine_cases(device: torch.device, precisions: list[str]) -> dict[str, Case]:
    """Return the device's own ceilings: matrix products in the dtype of each precision, and copying memory."""
    cases = {
        f"matrix product, {precision}": Case(
            matrix_product(device, dtype_of(precision)), matrix_flops(device) / 1e9, "GFLOP/s", precision
        )
        for precision in precisions
    }
    return cases | {"memory, read and written": Case(copy(device), COPIED_BYTES / 1e9, "GB/s")}


def dtype_of(precision: str) -> torch.dtype:
    """Return the dtype of the matrix products in a precision."""
    return next((dtype for name, dtype in _DTYPES.items() if precision.startswith(name)), torch.float32)


_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


def workload_case(workload: Workload, images: int, precision: str, flops: float) -> Case:
    """Return a case of a training step or a forward pass on ``images`` images.

    Raises:
        UserError: PyTorch cannot run it.
    """
    run = runnable()(prepared(workload, workload.make_fabric()))
    return Case(run, images, "images/s", precision, flops, workload)


def exported_cases(workload: Workload, formats: list[str], folder: Path) -> dict[str, Case]:
    """Export the workload's network to each format in ``folder``, and return a case of a forward pass of each.

    Of a denoiser, whose inputs are other ones, there is none.
    """
    net = workload.make_net().eval()
    if not formats or isinstance(net, DiffusionUNet):
        return {}
    images = workload.make_inputs().args[0]
    network = traced(net, channels=images.shape[1])
    cases = {}
    for name in formats:
        path = folder / f"net{FORMATS[name].suffix}"
        FORMATS[name].write(network, {}, path, None)
        exported, _ = read_exported(path)
        cases[name] = Case(partial(torch.inference_mode()(exported), images), len(images), "images/s")
    return cases


def data_cases(datamodule: VOCDataModule, workload: Workload, batches: int, precision: str) -> dict[str, Case]:
    """Return cases of the training images alone, of training on them, and of a validation.

    Args:
        datamodule: set up; each run takes ``batches`` training batches, or the whole validation list.
        workload: the training step's network, loss and optimizer.
        batches: number of training batches.
        precision: of the workload.
    """
    fabric = workload.make_fabric()
    net, step = training_step(fabric, workload, workload.net())
    counter = Counter(workload.num_classes, datamodule.form.ignore_index)
    endless = _endless(datamodule)

    def train() -> None:
        net.train()
        for batch in islice(endless, batches):
            moved = fabric.to_device(batch)
            step(moved.images, moved.masks)

    @torch.inference_mode()
    def validate() -> None:
        net.eval()
        for batch in datamodule.val_dataloader():
            size = (batch.masks.shape[-2], batch.masks.shape[-1])
            predictions: Tensor = predict(net, fabric.to_device(batch.images), size)
            counter.update(predictions.cpu(), batch.masks, batch.names)
        counter.reset()

    images = batches * datamodule.batch_size
    return {
        f"loading training images, {datamodule.num_workers} workers": Case(
            lambda: list(islice(endless, batches)), images, "images/s"
        ),
        f"training on them, {precision}": Case(train, images, "images/s", precision),
        f"validation, {precision}": Case(validate, len(datamodule.val_pairs), "images/s", precision),
    }


def _endless(datamodule: VOCDataModule) -> Iterator[Batch]:
    """Yield training batches for ever, so that the start of the loader's processes does not count."""
    loader = datamodule.train_dataloader()
    while True:
        yield from loader


def start_cases(folder: Path) -> dict[str, Case]:
    """Return cases of commands from their start to their end; trainings are written below ``folder``."""
    training = ["trainer.max_steps=1", "trainer.num_sanity_val_steps=0", "trainer.limit_val_batches=1"]

    def train() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as below:
            _run(["-m", "segunet.train", *training, f"run_dir={below}/run"])

    return {
        "import segunet": Case(partial(_run, ["-c", "import segunet"]), None, "s"),
        "python -m segunet.train --help": Case(partial(_run, ["-m", "segunet.train", "--help"]), None, "s"),
        "python -m segunet.train, one step of the sample": Case(train, None, "s"),
    }


def _run(arguments: list[str]) -> None:
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"python {shlex.join(arguments)} failed: {result.stderr.strip()[-1000:]}")


def set_cases(folder: Path, numbers: list[int]) -> dict[str, Case]:
    """Return cases of the start of a training on a VOC folder of each number of images, written below ``folder``."""
    return {f"a set of {number:,} images": Case(_set_up(folder / str(number), number), None, "s") for number in numbers}


def _set_up(root: Path, number: int) -> Callable[[], object]:
    image, mask = root / "JPEGImages" / "0.jpg", root / "SegmentationClass" / "0.png"
    lists = root / "ImageSets" / "Segmentation"
    for path in (image.parent, mask.parent, lists):
        path.mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(image)
    Image.fromarray((np.arange(64 * 64).reshape(64, 64) % 2).astype(np.uint8)).save(mask)
    for index in range(1, number):
        for path in (image, mask):
            (path.parent / f"{index}{path.suffix}").hardlink_to(path)
    (lists / "train.txt").write_text("\n".join(map(str, range(number))))

    def set_up() -> None:
        datamodule = VOCDataModule(str(root), ["background", "object"], 255, "train", "train")
        datamodule.setup("fit")
        datamodule.check_labels()

    return set_up
