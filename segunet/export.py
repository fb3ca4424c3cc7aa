"""Export a network: ``python -m segunet.export checkpoint=PATH format=onnx|torch_export|openvino [key=value] ...``."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.table import Table

from segunet.base.errors import UserError
from segunet.base.files import DRAFTS, draft_folder_beside, remove_abandoned
from segunet.base.terminal import console, setting
from segunet.base.validation import Count, Positive, Settings, Share
from segunet.base.version import __version__
from segunet.cli.command import command
from segunet.cli.run_dir import as_path
from segunet.formats.read import READERS, read_exported
from segunet.formats.write import FORMATS, Format, traced
from segunet.inference.checkpoint import Checkpoint, load_checkpoint
from segunet.inference.fidelity import Comparison, check_same, compare
from segunet.models.classic_unet import border_of
from segunet.training import build

logger = logging.getLogger("segunet.export")  # __name__ is "__main__" when run as a program


class Tolerance(Settings):
    """How much an exported network may differ from the original."""

    logits: Share
    agreement: Share


class ExportSettings(Settings):
    """Plain settings of the command."""

    images: Positive
    seed: Count
    tolerance: Tolerance


def export(cfg: DictConfig) -> Path:
    """Write ``cfg.checkpoint`` in ``cfg.format`` and return the file's path.

    Raises:
        UserError: anything the user can fix, or the exported network differs from the original. No file is then
            written, and an existing one is unchanged.
    """
    ExportSettings.of(cfg)
    source, chosen = chosen_source(cfg), chosen_format(cfg)
    output = chosen_output(cfg, source, chosen)
    checkpoint = load_checkpoint(source)
    cfg, datamodule = build.scoring_data(cfg, checkpoint, prepare=True)
    datamodule.val_pairs = datamodule.val_pairs[: cfg.images]
    datamodule.num_workers = 0  # nothing else may run during the timing
    with whole_files(output) as draft:
        write(checkpoint, chosen, draft)
        exported, _ = read_exported(draft)
        comparison = compare(checkpoint.net, exported, datamodule, cfg.seed)
        show(comparison, cfg.format)
        check_same(comparison, cfg.tolerance.logits, cfg.tolerance.agreement)
    return output


def chosen_source(cfg: DictConfig) -> Path:
    """Return the checkpoint's path.

    Raises:
        UserError: no checkpoint given, or an exported file.
    """
    if cfg.checkpoint is None:
        raise UserError("Which checkpoint? Give checkpoint=PATH, such as a run's checkpoints/best.ckpt.")
    path = as_path(cfg.checkpoint)
    if path.suffix in READERS:
        raise UserError(
            f"checkpoint={path} is an exported network already. Give the .ckpt file that segunet.train wrote."
        )
    return path


def chosen_format(cfg: DictConfig) -> Format:
    """Return the format of ``cfg.format``.

    Raises:
        UserError: an unknown format, or a package that it needs is not installed.
    """
    if cfg.format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {cfg.format!r}.")
    FORMATS[cfg.format].packages()
    return FORMATS[cfg.format]


def chosen_output(cfg: DictConfig, source: Path, chosen: Format) -> Path:
    """Return the output path: ``cfg.output``, or beside the checkpoint.

    Raises:
        UserError: the suffix does not match the format, or the path is a folder or a file that segunet.export did
            not write.
    """
    path = source.with_suffix(chosen.suffix) if cfg.output is None else as_path(cfg.output)
    if path.suffix != chosen.suffix or path.is_dir():
        raise UserError(
            f"output={cfg.output} must be the name of a {chosen.suffix} file, which format={cfg.format} writes"
            f"{'; it is a folder' if path.is_dir() else f', such as {path.with_suffix(chosen.suffix).name}'}."
        )
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and weights.exists() and not path.exists():
        raise UserError(
            f"{weights} exists without {path.name}, and would be overwritten by this network's weights. Move it, or "
            "give another name as output=PATH."
        )
    if path.exists():
        check_exported(path)
    return path


def check_exported(path: Path) -> None:
    """Raise a UserError unless segunet.export wrote ``path``, so that it may be replaced."""
    try:
        read_exported(path)
    except UserError as error:
        raise UserError(
            f"{path} exists and would be overwritten, but: {error} Or give another name as output=PATH."
        ) from error


@contextmanager
def whole_files(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it and the files beside it are moved to ``path`` only if the block succeeds.

    Temporary files of killed processes are removed.

    Raises:
        UserError: the folder is not writable.
    """
    path = Path(os.path.realpath(path))
    try:
        with draft_folder_beside(path) as folder:
            remove_abandoned(path.parent.glob(DRAFTS))
            draft = folder / path.name
            yield draft
            others = [each for each in folder.iterdir() if each != draft]
            for each in [*others, draft]:
                with each.open("rb") as file:
                    os.fsync(file.fileno())
            if others:
                path.unlink(missing_ok=True)  # never leave it beside the weights of another network
            for each in [*others, draft]:
                each.replace(path.parent / each.name)
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. Free some space or give another output=PATH."
        ) from error


def write(checkpoint: Checkpoint, chosen: Format, path: Path) -> None:
    """Write the network and its card.

    Raises:
        UserError: the format cannot express the network.
    """
    card = {
        "version": __version__,
        "torch": torch.__version__,
        "class_names": checkpoint.class_names,
        "palette": checkpoint.palette.tolist(),
        "inference_size": checkpoint.inference_size,
        "ignore_index": checkpoint.data.ignore_index,
        "data": checkpoint.data.model_dump(),
        "input": "images: uint8 (N, 3, H, W), RGB, 0..255, any N, H and W, without normalization",
        "border": border_of(checkpoint.net),
        "stride": getattr(checkpoint.net, "stride", 1),
        "output": "logits: float32 (N, K, H, W), K the number of classes; the class of a pixel is the argmax over K",
    }
    try:
        chosen.write(traced(checkpoint.net), card, path)
    except (UserError, OSError):
        raise
    except Exception as error:  # each exporter has its own errors
        reason = " ".join(str(error).split())[:500].rstrip(".")
        raise UserError(
            f"The network could not be written as {path.suffix} for images of any size: {type(error).__name__}: "
            f"{reason}. Free some space if the disk is full, else try another format ({', '.join(FORMATS)})."
        ) from error


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


def conclude(output: Path) -> None:
    """Log what was written and the next steps."""
    files = [output, *([output.with_suffix(".bin")] if output.suffix == ".xml" else [])]
    sizes = ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in files)
    checkpoint = setting("checkpoint", output)
    logger.info("written to %s", sizes)
    logger.info("evaluate:  python -m segunet.evaluate %s", checkpoint)
    logger.info("predict:   python -m segunet.predict %s input=PATH", checkpoint)


@command("export")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    conclude(export(cfg))


if __name__ == "__main__":
    main()
