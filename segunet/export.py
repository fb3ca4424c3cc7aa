"""Export a network: ``python -m segunet.export checkpoint=PATH format=onnx|torch_export|openvino [key=value] ...``."""

import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import Tensor, nn

from segunet import build
from segunet.callbacks import progress_bar
from segunet.commands import command
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import Batch
from segunet.errors import UserError
from segunet.exported import READERS, read_exported
from segunet.formats import FORMATS, Format, traced
from segunet.inference import logits_at
from segunet.metrics import Scores
from segunet.tasks.segmentation import ScoringTask
from segunet.terminal import console
from segunet.version import __version__

logger = logging.getLogger("segunet.export")  # __name__ is "__main__" when run as a program

# Batches and sizes that are not those of the trace.
_OTHER_SHAPES = ((1, 3, 33, 47), (3, 3, 97, 64), (1, 3, 1, 1))


@dataclass(frozen=True)
class Comparison:
    """What an exported network gives beside the original one, on the same images.

    Attributes:
        difference: the largest absolute difference between their logits.
        largest: the largest absolute logit of the original.
        agreement: share of the pixels to which both give the same class, 0..1.
        scores: of the original and the exported network.
        speeds: of both, images/s.
    """

    difference: float
    largest: float
    agreement: float
    scores: tuple[Scores, Scores]
    speeds: tuple[float, float]


class Contender:
    """A network, its scores and its time."""

    def __init__(self, net: nn.Module, num_classes: int, ignore_index: int) -> None:
        self.net = net
        self.task = ScoringTask(net, num_classes, ignore_index)
        self.seconds = 0.0

    def run(self, batch: Batch) -> Tensor:
        """Return logits (N, K, H', W') at the masks' size, having counted them."""
        height, width = batch.masks.shape[-2:]
        start = time.perf_counter()
        logits = logits_at(self.net, batch.images, (height, width))
        self.seconds += time.perf_counter() - start
        self.task.count(logits.argmax(dim=1), batch)
        return logits


def export(cfg: DictConfig) -> Path:
    """Write ``cfg.checkpoint`` in ``cfg.format`` and return the file's path.

    Raises:
        UserError: whatever the user can mend; the exported network differs from the original. Then the file is not
            written, and an older one is as it was.
    """
    check_numbers(cfg)
    source, chosen = chosen_source(cfg), chosen_format(cfg)
    output = chosen_output(cfg, source, chosen)
    checkpoint = build.load_checkpoint(source)
    cfg = build.with_checkpoint_values(cfg, checkpoint)
    datamodule = build.datamodule_from_config(cfg)
    build.check_classes(checkpoint, datamodule)
    datamodule.prepare_data()
    datamodule.setup("test")
    datamodule.val_pairs = datamodule.val_pairs[: cfg.images]
    datamodule.num_workers = 0  # nothing else shall run while the networks are timed
    with whole_files(output) as draft:
        write(checkpoint, chosen, draft)
        exported, _ = read_exported(draft)
        comparison = compare(checkpoint.net, exported, datamodule, cfg.seed)
        show(comparison, cfg.format)
        check(comparison, cfg.tolerance, output)
    return output


def check_numbers(cfg: DictConfig) -> None:
    """Raise a UserError for numbers that mean nothing."""
    wanted = {
        "images": (cfg.images, isinstance(cfg.images, int) and cfg.images >= 1, "1 or more"),
        "tolerance.logits": (cfg.tolerance.logits, _is_share(cfg.tolerance.logits), "a number in 0..1"),
        "tolerance.agreement": (cfg.tolerance.agreement, _is_share(cfg.tolerance.agreement), "a number in 0..1"),
    }
    for name, (came, fits, what) in wanted.items():
        if not fits:
            raise UserError(f"{name} must be {what}, got {came}.")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def chosen_source(cfg: DictConfig) -> Path:
    """Return the checkpoint's path.

    Raises:
        UserError: none was given, or an exported file.
    """
    if cfg.checkpoint is None:
        raise UserError("Which checkpoint? Give checkpoint=PATH, such as a run's checkpoints/best.ckpt.")
    path = Path(cfg.checkpoint).expanduser()
    if path.suffix in READERS:
        raise UserError(
            f"checkpoint={path} is the name of a network that is exported already. Give the .ckpt file that "
            "segunet.train wrote."
        )
    return path


def chosen_format(cfg: DictConfig) -> Format:
    """Return the format of ``cfg.format``.

    Raises:
        UserError: there is none of that name, or a package that it needs is not installed.
    """
    if cfg.format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {cfg.format!r}.")
    FORMATS[cfg.format].packages()
    return FORMATS[cfg.format]


def chosen_output(cfg: DictConfig, source: Path, chosen: Format) -> Path:
    """Return where to write: ``cfg.output``, or beside the checkpoint.

    Raises:
        UserError: the name does not fit the format, or is a folder's.
    """
    if cfg.output is None:
        return source.with_suffix(chosen.suffix)
    path = Path(cfg.output).expanduser()
    if path.suffix != chosen.suffix or path.is_dir():
        raise UserError(
            f"output={cfg.output} must be the name of a {chosen.suffix} file, which format={cfg.format} writes"
            f"{'; it is a folder' if path.is_dir() else f', such as {path.with_suffix(chosen.suffix).name}'}."
        )
    return path


@contextmanager
def whole_files(path: Path) -> Iterator[Path]:
    """Give the path of a draft; it, and what was written beside it, gets to ``path`` only if the block ends well.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            yield draft
            others = [each for each in Path(folder).iterdir() if each != draft]
            for each in [*others, draft]:
                with each.open("rb") as file:
                    os.fsync(file.fileno())
            if others:
                path.unlink(missing_ok=True)  # it never stands beside another's weights, even for a moment
            for each in [*others, draft]:
                each.replace(path.parent / each.name)
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. Make room or give another place (output=PATH)."
        ) from error


def write(checkpoint: build.Checkpoint, chosen: Format, path: Path) -> None:
    """Write the network and what describes it.

    Raises:
        UserError: the format cannot express the network.
    """
    card = {
        "version": __version__,
        "torch": torch.__version__,
        "class_names": checkpoint.class_names,
        "palette": checkpoint.palette.tolist(),
        "inference_size": checkpoint.inference_size,
        "ignore_index": checkpoint.data["ignore_index"],
        "data": checkpoint.data,
        "input": "images: uint8 (N, 3, H, W), RGB, 0..255, any N, H and W; nothing is to be subtracted or divided",
        "output": "logits: float32 (N, K, H, W), K the number of classes; the class of a pixel is the argmax over K",
    }
    try:
        chosen.write(traced(checkpoint.net), card, path)
    except (UserError, OSError):
        raise
    except Exception as error:  # each exporter has kinds of its own
        reason = " ".join(str(error).split())[:500]
        raise UserError(
            f"The network cannot be written as {path.suffix} for images of any size: {type(error).__name__}: {reason} "
            f"Try another format ({', '.join(FORMATS)}); HYDRA_FULL_ERROR=1 shows where it stopped."
        ) from error


@torch.inference_mode()
def compare(original: nn.Module, exported: nn.Module, datamodule: VOCDataModule, seed: int) -> Comparison:
    """Run both on noise of several sizes, then, timed and scored, on the pictures of the validation list."""
    num_classes, ignore_index = datamodule.form.num_classes, datamodule.form.ignore_index
    both = [Contender(net, num_classes, ignore_index) for net in (original, exported)]
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randint(256, shape, dtype=torch.uint8, generator=generator) for shape in _OTHER_SHAPES]
    differences = [(exported(images) - original(images)).abs().max() for images in noise]
    largest, agreeing = [], []
    with progress_bar() as bar:
        task = bar.add_task("comparing", total=len(datamodule.val_pairs))
        for batch in datamodule.val_dataloader():
            wanted, came = (contender.run(batch) for contender in both)
            differences.append((came - wanted).abs().max())
            largest.append(wanted.abs().max())
            agreeing.append((came.argmax(dim=1) == wanted.argmax(dim=1)).float().mean() * len(batch.names))
            bar.advance(task, len(batch.names))
    scores = [contender.task.gather_scores() for contender in both]
    images = scores[0].images
    return Comparison(
        difference=torch.stack(differences).max().item(),
        largest=torch.stack(largest).max().item(),
        agreement=torch.stack(agreeing).sum().item() / images,
        scores=(scores[0], scores[1]),
        speeds=(images / both[0].seconds, images / both[1].seconds),
    )


def show(comparison: Comparison, name: str) -> None:
    """Print the comparison."""
    table = Table()
    for heading in ("", "PyTorch", name, "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    miou = [scores.miou for scores in comparison.scores]
    speeds = comparison.speeds
    table.add_row("mIoU", f"{miou[0]:.4f}", f"{miou[1]:.4f}", f"{miou[1] - miou[0]:+.4f}")
    table.add_row("largest logit", f"{comparison.largest:.4g}", "", f"{comparison.difference:.2g} at most")
    table.add_row("pixels of the same class", "", "", f"{100 * comparison.agreement:.3f} %")
    table.add_row("images/s", f"{speeds[0]:.2f}", f"{speeds[1]:.2f}", f"{speeds[1] / speeds[0]:.2f} times")
    console.print(table)
    console.print(f"({comparison.scores[0].images} images, {torch.get_num_threads()} threads)", highlight=False)


def check(comparison: Comparison, tolerance: DictConfig, output: Path) -> None:
    """Raise a UserError unless the networks are the same within the tolerance; what is not a number is not."""
    close = comparison.difference <= tolerance.logits * comparison.largest
    if not (close and comparison.agreement >= tolerance.agreement):
        raise UserError(
            f"The exported network is not the original one: its logits differ by up to {comparison.difference:.3g}, "
            f"allowed are {tolerance.logits} (tolerance.logits) times the largest, {comparison.largest:.3g}; "
            f"{100 * comparison.agreement:.3f} % of the pixels get the same class, wanted are "
            f"{100 * tolerance.agreement:g} % (tolerance.agreement). {output} was not written. Try another format, or "
            "allow more if the mIoU above is good enough for you."
        )


def conclude(output: Path) -> None:
    """Say what was written and how to go on."""
    files = [output, *([output.with_suffix(".bin")] if output.suffix == ".xml" else [])]
    sizes = ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in files)
    path = shlex.quote(str(output))
    logger.info("written to %s", sizes)
    logger.info("evaluate:  python -m segunet.evaluate checkpoint=%s", path)
    logger.info("predict:   python -m segunet.predict checkpoint=%s input=PATH", path)


@command("export")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    conclude(export(cfg))


if __name__ == "__main__":
    main()
