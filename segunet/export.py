"""Export a network: ``python -m segunet.export checkpoint=PATH format=onnx|torch_export|openvino [key=value] ...``."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig
from pydantic import Field
from rich.table import Table
from torch import Tensor

from segunet.base.errors import UserError, counted
from segunet.base.extras import import_extra
from segunet.base.files import DRAFTS, draft_folder_beside, remove_abandoned
from segunet.base.stopping import saying_when_stopped
from segunet.base.terminal import console, setting, show_table
from segunet.base.validation import Count, Positive, Settings, Share, Text
from segunet.base.version import __version__
from segunet.cli.command import command
from segunet.cli.run_dir import as_path
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import EvalDataset
from segunet.data.voc import find_voc_folder, list_pairs
from segunet.formats.interface import Interface, resized
from segunet.formats.quantize import Calibration
from segunet.formats.read import READERS, ExportedNet, read_exported
from segunet.formats.write import FORMATS, Format, Traced, least_side, traced, traced_denoiser
from segunet.inference.card import CheckpointCard
from segunet.inference.checkpoint import Checkpoint, card_of, checkpoint_of, read_checkpoint
from segunet.inference.denoiser_fidelity import DenoiserComparison, check_same_denoiser, compare_denoisers
from segunet.inference.fidelity import Comparison, check_same, check_scores, compare
from segunet.inference.generator import DenoiserCheckpoint, denoiser_of
from segunet.losses.denoising import SCALE
from segunet.models.classic_unet import border_of
from segunet.models.prompts import PromptEncoder
from segunet.training.build_scoring import scoring_data

logger = logging.getLogger("segunet.export")  # __name__ is "__main__" when run as a program
# Settings of segmentation networks.
_OF_IMAGES = ("data", "split", "images", "inference_size", "tolerance.logits", "tolerance.agreement")
_OF_INTERFACE = tuple(Interface.model_fields)


class Tolerance(Settings):
    """How much an exported network may differ from the original."""

    logits: Share
    agreement: Share
    prediction: Share
    miou: Share


class ExportSettings(Settings):
    """Plain settings of the command."""

    images: Positive
    quantize: Literal["int8"] | None
    calibration_images: Positive
    calibration_split: Text | None
    opset: Annotated[int, Field(ge=18, le=30)] | None
    seed: Count
    tolerance: Tolerance


def export(cfg: DictConfig) -> None:
    """Write ``cfg.checkpoint`` in ``cfg.format``, and log what was written and how it is used.

    Raises:
        UserError: anything the user can fix, or the exported network differs from the original. No file is then
            written, and an existing one is unchanged.
    """
    ExportSettings.of(cfg)
    source, chosen = chosen_source(cfg), chosen_format(cfg)
    output = chosen_output(cfg, source, chosen)
    content = read_checkpoint(source)
    card = card_of(content, source)
    subject: Segmentation | Denoiser
    if card.denoiser is None:
        subject = Segmentation(cfg, checkpoint_of(content, source))
    else:
        subject = Denoiser(cfg, denoiser_of(content, source), card)
    calibration = subject.calibration()
    options = {} if cfg.opset is None else {"opset": cfg.opset}
    with saying_when_stopped(lambda: f"{output} was not written"), whole_files(output) as draft:
        write(subject.traced, about(card) | subject.about(), chosen, draft, calibration, **options)
        exported, _ = read_exported(draft)
        subject.compare(exported)
    log_files(output)
    subject.log_use(output)


class Segmentation:
    """A segmentation network to export.

    Args:
        cfg: config of the command.
        checkpoint: the network.

    Raises:
        UserError: the images to compare it on are not there, or invalid.
    """

    def __init__(self, cfg: DictConfig, checkpoint: Checkpoint) -> None:
        self.cfg, self.net, self.interface = cfg, checkpoint.net, Interface.of(cfg)
        self.num_classes = len(checkpoint.class_names)
        self.datamodule = images_to_compare(cfg, checkpoint)

    def traced(self) -> Traced:
        """Return its graph."""
        return traced(self.net, self.interface)

    def calibration(self) -> Calibration | None:
        """Return the images that the scales of 8 bits are taken from, spread over the training list; None for float32.

        Raises:
            UserError: there is no training list, or an image of it is not readable.
        """
        if self.cfg.quantize is None:
            return None
        data = self.datamodule
        if data is None:
            raise UserError(
                f"quantize={self.cfg.quantize} needs images: the checkpoint's data set is not here. Give it as "
                "data.root=PATH."
            )
        pairs = list_pairs(find_voc_folder(data.root), self.cfg.calibration_split or data.train_split)
        count = min(self.cfg.calibration_images, len(pairs))
        spread = [pairs[number * len(pairs) // count] for number in range(count)]
        images = EvalDataset(spread, data.form, data.inference_size)
        return [self._input(images[index].images[None]) for index in range(count)]

    def _input(self, image: Tensor) -> NDArray[Any]:
        """Return an image (1, 3, H, W) uint8 as the exported network takes it."""
        fitting = resized(image, self.interface.size or image.shape[-2:]).repeat(self.interface.batch or 1, 1, 1, 1)
        return (fitting.float() if self.interface.float_input else fitting).numpy()

    def about(self) -> dict[str, Any]:
        """Return what its card has besides :func:`about`."""
        return {
            "input": self.interface.takes(least_side(self.net)),
            "border": border_of(self.net),
            "stride": getattr(self.net, "stride", 1),
            "output": self.interface.returns(),
            "interface": self.interface.model_dump(),
        }

    def compare(self, exported: ExportedNet) -> None:
        """Print how ``exported`` compares with it; raise a UserError if they differ."""
        exported.border, exported.float_input = border_of(self.net), self.interface.float_input
        nets = [self.interface.adapted(net, self.num_classes) for net in (self.interface(self.net), exported)]
        comparison = compare(*nets, self.datamodule, self.cfg.seed)
        show(comparison, self.cfg.format, logits=not self.interface.argmax)
        if self.cfg.quantize is None:
            logits = math.inf if self.interface.argmax else self.cfg.tolerance.logits
            check_same(comparison, logits, self.cfg.tolerance.agreement)
        else:
            check_scores(comparison, self.cfg.tolerance.miou)

    def log_use(self, output: Path) -> None:
        """Log the next steps."""
        checkpoint = setting("checkpoint", output)
        logger.info("evaluate:  python -m segunet.evaluate %s", checkpoint)
        logger.info("predict:   python -m segunet.predict %s input=PATH", checkpoint)


def images_to_compare(cfg: DictConfig, checkpoint: Checkpoint) -> VOCDataModule | None:
    """Return the data set whose first ``cfg.images`` the networks are compared on.

    None if the checkpoint's own is not on this machine and ``cfg`` names no other: noise has to do.

    Raises:
        UserError: it is named and not there, or it is invalid.
    """
    named = "_target_" in cfg.data or any(_names(each, ("data", "split")) for each in HydraConfig.get().overrides.task)
    if not named and not Path(checkpoint.data.root).is_dir():
        logger.warning(
            "the checkpoint's data set %s is not here: the networks are compared on noise alone; with data.root=PATH "
            "on images too",
            checkpoint.data.root,
        )
        return None
    _, datamodule = scoring_data(cfg, checkpoint, prepare=True)
    datamodule.val_pairs = datamodule.val_pairs[: cfg.images]
    datamodule.num_workers = 0  # nothing else may run during the timing
    return datamodule


class Denoiser:
    """A denoiser to export.

    Args:
        cfg: config of the command.
        checkpoint: the denoiser.
        card: the checkpoint's.

    Raises:
        UserError: a setting was given that is for the images that segmentation networks are compared on.
    """

    def __init__(self, cfg: DictConfig, checkpoint: DenoiserCheckpoint, card: CheckpointCard) -> None:
        self.cfg, self.checkpoint, self.card = cfg, checkpoint, card
        if given := [each for each in HydraConfig.get().overrides.task if _names(each, _OF_IMAGES)]:
            raise UserError(
                f"{', '.join(given)}: a denoiser is not compared on images, but on noise (seed, tolerance.prediction). "
                "Leave it out."
            )
        if given := [each for each in HydraConfig.get().overrides.task if _names(each, _OF_INTERFACE)]:
            raise UserError(f"{', '.join(given)}: only for segmentation networks. Leave it out.")
        if cfg.quantize is not None:
            raise UserError(f"quantize={cfg.quantize} is for segmentation networks; a denoiser stays in float32.")

    def traced(self) -> Traced:
        """Return its graph."""
        return traced_denoiser(self.checkpoint.net)

    def calibration(self) -> None:
        """Return None: it stays in float32."""

    def about(self) -> dict[str, Any]:
        """Return what its card has besides :func:`about`."""
        net, denoiser = self.checkpoint.net, self.card.denoiser
        assert denoiser is not None
        stride, width = net.encoder.stride, net.cross_attention_dim
        states = f"; encoder_hidden_states: float32 (N, L, {width}), one for each of the names in the metadata's "
        states += "denoiser.prompts: its entry in named if the prompt has the name, else empty"
        scale, kind = (SCALE, "RGB") if denoiser.latent_scale is None else (None, "latents")
        shape = f"float32 (N, {net.in_channels}, H, W)"
        return {
            "input": f"sample: {shape}, {kind}, any N, H and W multiples of {stride}; "
            f"timestep: float32 (N,), 0..{denoiser.steps}{'' if width is None else states}",
            "stride": stride,
            "output": f"prediction: {shape}, {denoiser.prediction}",
            "denoiser": denoiser.model_dump() | {"scale": scale, "prompts": prompts_of(self.checkpoint.prompts)},
        }

    def compare(self, exported: ExportedNet) -> None:
        """Print how ``exported`` compares with it; raise a UserError if they differ."""
        comparison = compare_denoisers(self.checkpoint, exported, self.cfg.seed)
        show_denoisers(comparison, self.cfg.format)
        check_same_denoiser(comparison, self.cfg.tolerance.prediction)

    def log_use(self, _output: Path) -> None:
        """Log how it is called."""
        about = self.about()
        logger.info("input:     %s", about["input"])
        logger.info("output:    %s", about["output"])


def _names(override: str, settings: tuple[str, ...]) -> bool:
    """Return whether a word of the command line sets one of the ``settings``, or something below it."""
    name = override.lstrip("+~").partition("=")[0]
    return any(f"{name}.".startswith(f"{each}.") for each in settings)


def prompts_of(encoder: PromptEncoder | None) -> dict[str, Any] | None:
    """Return an ``inference.card.PromptsCard`` in plain values."""
    if encoder is None:
        return None
    return {"names": encoder.names, "named": encoder.named.tolist(), "empty": encoder.empty.tolist()}


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
    if cfg.quantize is not None and cfg.format == "torch_export":
        raise UserError(f"quantize={cfg.quantize} is for format=onnx and format=openvino.")
    if cfg.opset is not None and cfg.format != "onnx":
        raise UserError(f"opset={cfg.opset} is for format=onnx.")
    FORMATS[cfg.format].packages()
    if cfg.quantize is not None and cfg.format == "openvino":
        import_extra("nncf", "int8")
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


def about(card: CheckpointCard) -> dict[str, Any]:
    """Return what the cards of all exported files have, in plain values."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "class_names": card.class_names,
        "palette": card.palette,
        "inference_size": card.inference_size,
        "ignore_index": card.data.ignore_index,
        "data": card.data.model_dump(),
    }


def write(
    trace: Callable[[], Traced],
    card: dict[str, Any],
    chosen: Format,
    path: Path,
    calibration: Calibration | None,
    **options: Any,
) -> None:
    """Write the network that ``trace`` returns and its card, in 8 bits if there are ``calibration`` images.

    Raises:
        UserError: the format cannot express the network.
    """
    try:
        chosen.write(trace(), card, path, calibration, **options)
    except (UserError, OSError):
        raise
    except Exception as error:  # each exporter has its own errors
        reason = " ".join(str(error).split())[:500].rstrip(".")
        raise UserError(
            f"The network could not be written as {path.suffix}: {type(error).__name__}: {reason}. Free some space if "
            f"the disk is full, else try another format ({', '.join(FORMATS)})."
        ) from error


def show(comparison: Comparison, name: str, logits: bool) -> None:
    """Print the comparison, with its ``logits`` or of masks alone."""
    table = Table()
    for heading in ("", "PyTorch", name, "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    if comparison.scores:
        before, after = (scores.miou for scores in comparison.scores)
        table.add_row("mIoU", f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    if logits:
        table.add_row("largest logit", f"{comparison.largest:.4g}", "", f"{comparison.difference:.2g} at most")
    table.add_row("pixels of the same class", "", "", f"{100 * comparison.agreement:.3f} %")
    if comparison.speeds:
        first, second = comparison.speeds
        table.add_row("images/s", f"{first:.2f}", f"{second:.2f}", f"{second / first:.2f} times")
    show_table(table)
    compared = counted(comparison.scores[0].images, "image") if comparison.scores else "noise of several sizes"
    console.print(f"({compared}, {counted(torch.get_num_threads(), 'thread')})", highlight=False)


def show_denoisers(comparison: DenoiserComparison, name: str) -> None:
    """Print the comparison of a denoiser."""
    table = Table()
    for heading in ("", "PyTorch", name, "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    first, second = comparison.seconds
    table.add_row("largest prediction", f"{comparison.largest:.4g}", "", f"{comparison.difference:.2g} at most")
    speed = f"{first / second:.2f} times as fast"
    table.add_row("ms per denoising step", f"{1000 * first:.1f}", f"{1000 * second:.1f}", speed)
    show_table(table)
    threads = torch.get_num_threads()
    console.print(
        f"({comparison.samples} noises, time steps and prompts of several sizes; a step is of one sample of "
        f"{comparison.side} x {comparison.side}, {counted(threads, 'thread')})",
        highlight=False,
    )


def log_files(output: Path) -> None:
    """Log what was written."""
    files = [output, *([output.with_suffix(".bin")] if output.suffix == ".xml" else [])]
    sizes = ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in files)
    logger.info("written to %s", sizes)


@command("export")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    export(cfg)


if __name__ == "__main__":
    main()
