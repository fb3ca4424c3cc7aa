"""Export a network: ``python -m segunet.export checkpoint=PATH format=NAME [key=value] ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("export")

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig
from pydantic import Field

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.files import is_folder
from segunet.base.safetensors_file import SUFFIX
from segunet.base.stopping import saying_when_stopped
from segunet.base.terminal import setting
from segunet.base.validation import Count, Positive, Settings, Share, Text
from segunet.base.version import __version__
from segunet.cli.command import command
from segunet.cli.run_dir import as_path
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import EvalDataset
from segunet.data.voc import find_voc_folder, list_pairs, voc_folder_in
from segunet.formats.interface import Interface, resized
from segunet.formats.output import check_output, whole_files
from segunet.formats.quantize import Calibration
from segunet.formats.read import READERS, ExportedNet, read_exported
from segunet.formats.write import FORMATS, Format, Traced, least_side, traced, traced_denoiser
from segunet.inference.card import CheckpointCard
from segunet.inference.checkpoint import Checkpoint, card_of, checkpoint_of, read_checkpoint, write_safetensors
from segunet.inference.denoiser_fidelity import check_same_denoiser, compare_denoisers, show_denoisers
from segunet.inference.fidelity import check_same, check_same_masks, check_scores, compare, noise, show
from segunet.inference.generator import DenoiserCheckpoint, denoiser_of
from segunet.losses.denoising import SCALE
from segunet.models.classic_unet import border_of
from segunet.models.prompts import PromptEncoder
from segunet.training.build_scoring import scoring_data

logger = logging.getLogger("segunet.export")  # __name__ is "__main__" when run as a program
_WEIGHTS = "safetensors"  # the format of weights alone
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
    opset: Annotated[int, Field(ge=18, le=25)] | None
    seed: Count
    tolerance: Tolerance


def export(cfg: DictConfig) -> None:
    """Write ``cfg.checkpoint`` in ``cfg.format``, and log what was written and how it is used.

    Raises:
        UserError: anything the user can fix, or the exported network differs from the original. No file is then
            written, and an existing one is unchanged.
    """
    ExportSettings.of(cfg)
    source = chosen_source(cfg)
    if cfg.format == _WEIGHTS:
        export_weights(cfg, source)
        return
    chosen = chosen_format(cfg)
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


def export_weights(cfg: DictConfig, source: Path) -> None:
    """Write the weights of a checkpoint and its card as they are, and log how the file is used."""
    allowed = ("checkpoint", "format", "output")
    if given := [each for each in HydraConfig.get().overrides.task if not _names(each, allowed)]:
        raise UserError(f"{', '.join(given)}: format={_WEIGHTS} holds the weights as they are. Leave it out.")
    output = source.with_suffix(SUFFIX) if cfg.output is None else as_path(cfg.output)
    check_output(output, SUFFIX, read_checkpoint)
    content = read_checkpoint(source)
    is_denoiser = card_of(content, source).denoiser is not None
    (denoiser_of if is_denoiser else checkpoint_of)(content, source)  # its weights fit its network
    with saying_when_stopped(lambda: f"{output} was not written"):
        write_safetensors(content, output)
    log_files(output)
    use = "generate" if is_denoiser else "evaluate"
    logger.info("use it as a checkpoint: python -m segunet.%s %s", use, setting("checkpoint", output))


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
        self.num_classes, self.data = len(checkpoint.class_names), checkpoint.data
        self.datamodule = images_to_compare(cfg, checkpoint)

    def traced(self) -> Traced:
        """Return its graph."""
        return traced(self.net, self.interface, self.data.channels)

    def calibration(self) -> Calibration | None:
        """Return the images that the scales of 8 bits are taken from, spread over the training list; None for float32.

        Raises:
            UserError: there is no training list, or an image of it is not readable.
        """
        if self.cfg.quantize is None:
            return None
        data, batch = self.datamodule, self.interface.batch or 1
        if data is None:
            raise UserError(
                f"quantize={self.cfg.quantize} needs images: the checkpoint's data set is not here. Give it as "
                "data.root=PATH."
            )
        pairs = list_pairs(find_voc_folder(data.root), self.cfg.calibration_split or data.train_split)
        count = math.ceil(min(self.cfg.calibration_images, len(pairs)) / batch) * batch
        spread = [pairs[number * len(pairs) // count] for number in range(count)]
        images = EvalDataset(spread, data.form, data.inference_size)
        return [self._input(images, range(first, first + batch)) for first in range(0, count, batch)]

    def _input(self, images: EvalDataset, batch: range) -> NDArray[Any]:
        """Return images (N, C, H, W), of one size if N is more than 1, as the exported network takes them."""
        singles = [images[index].images[None] for index in batch]
        fitting = torch.cat([resized(each, self.interface.size or each.shape[-2:]) for each in singles])
        return (fitting.float() if self.interface.float_input else fitting).numpy()

    def about(self) -> dict[str, Any]:
        """Return what its card has besides :func:`about`."""
        return {
            "input": self.interface.takes(least_side(self.net), self.data.bands),
            "border": border_of(self.net),
            "stride": getattr(self.net, "stride", 1),
            "output": self.interface.returns(),
            "interface": self.interface.model_dump(),
        }

    def compare(self, exported: ExportedNet) -> None:
        """Print how ``exported`` compares with it; raise a UserError if they differ."""
        exported.border, exported.float_input = border_of(self.net), self.interface.float_input
        nets = (self.interface.exported_module(self.net), exported)
        original, other = (self.interface.for_any_images(net, self.num_classes) for net in nets)
        tried = noise(least_side(self.net), self.cfg.seed, self.data.channels)
        comparison = compare(original, other, tried, self.datamodule)
        show(comparison, self.cfg.format, self.interface)
        tolerance = self.cfg.tolerance
        if self.cfg.quantize is not None:
            check_scores(comparison, tolerance.miou)
        elif self.interface.argmax:
            check_same_masks(comparison, tolerance.agreement)
        else:
            check_same(comparison, tolerance.logits, tolerance.agreement)

    def log_use(self, output: Path) -> None:
        """Log the next steps."""
        checkpoint = setting("checkpoint", output)
        logger.info("evaluate:  python -m segunet.evaluate %s", checkpoint)
        logger.info("predict:   python -m segunet.predict %s input=PATH", checkpoint)


def images_to_compare(cfg: DictConfig, checkpoint: Checkpoint) -> VOCDataModule | None:
    """Return the data set whose first ``cfg.images`` the networks are compared on.

    None if the checkpoint's own is not on this machine and ``cfg`` names no other: they are compared on noise alone.

    Raises:
        UserError: it is named and not there, or it is invalid.
    """
    named = "_target_" in cfg.data or any(_names(each, ("data", "split")) for each in HydraConfig.get().overrides.task)
    root = Path(checkpoint.data.root)
    if not named and not (is_folder(root) and voc_folder_in(root)):
        logger.warning(
            "the checkpoint's data set %s is not here: the networks are compared on noise alone; with data.root=PATH "
            "on images too",
            root,
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
        raise UserError(f"format must be one of {', '.join((*FORMATS, _WEIGHTS))}, got {cfg.format!r}.")
    if cfg.quantize is not None and cfg.format == "torch_export":
        raise UserError(f"quantize={cfg.quantize} is for format=onnx and format=openvino.")
    if cfg.opset is not None and cfg.format != "onnx":
        raise UserError(f"opset={cfg.opset} is for format=onnx.")
    if cfg.quantize is not None and cfg.batch not in (None, 1) and cfg.size is None:
        raise UserError(f"quantize={cfg.quantize} with batch={cfg.batch} needs images of one size: give size, too.")
    FORMATS[cfg.format].packages()
    if cfg.quantize is not None and cfg.format == "openvino":
        import_extra("nncf", "int8")
    return FORMATS[cfg.format]


def chosen_output(cfg: DictConfig, source: Path, chosen: Format) -> Path:
    """Return the output path: ``cfg.output``, or beside the checkpoint; raises as :func:`check_output`."""
    path = source.with_suffix(chosen.suffix) if cfg.output is None else as_path(cfg.output)
    check_output(path, chosen.suffix)
    return path


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
