"""Export a network: ``python -m segunet.export checkpoint=PATH format=NAME [key=value] ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("export")

import logging
from pathlib import Path
from typing import Annotated, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import Field

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.files import is_folder
from segunet.base.safetensors_file import SUFFIX
from segunet.base.stopping import saying_when_stopped
from segunet.base.terminal import setting
from segunet.base.validation import Count, Positive, Settings, Share, Text
from segunet.cli.command import command
from segunet.cli.run_dir import as_path
from segunet.data.datamodule import VOCDataModule
from segunet.data.voc import voc_folder_in
from segunet.formats.interface import Interface
from segunet.formats.output import check_output, whole_files
from segunet.formats.read import READERS, read_exported
from segunet.formats.write import FORMATS, Format
from segunet.inference.checkpoint import Checkpoint, card_of, checkpoint_of, read_checkpoint, write_safetensors
from segunet.inference.exporting import Denoiser, Segmentation, about, write
from segunet.inference.generator import denoiser_of
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
        interface, checkpoint = Interface.of(cfg), checkpoint_of(content, source)
        subject = Segmentation(cfg, interface, checkpoint, images_to_compare(cfg, checkpoint))
    else:
        check_denoiser_settings(cfg)
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


def check_denoiser_settings(cfg: DictConfig) -> None:
    """Raise a UserError for settings that are for segmentation networks."""
    if given := [each for each in HydraConfig.get().overrides.task if _names(each, _OF_IMAGES)]:
        raise UserError(
            f"{', '.join(given)}: a denoiser is not compared on images, but on noise (seed, tolerance.prediction). "
            "Leave it out."
        )
    if given := [each for each in HydraConfig.get().overrides.task if _names(each, _OF_INTERFACE)]:
        raise UserError(f"{', '.join(given)}: only for segmentation networks. Leave it out.")
    if cfg.quantize is not None:
        raise UserError(f"quantize={cfg.quantize} is for segmentation networks; a denoiser stays in float32.")


def _names(override: str, settings: tuple[str, ...]) -> bool:
    """Return whether a word of the command line sets one of the ``settings``, or something below it."""
    name = override.lstrip("+~").partition("=")[0]
    return any(f"{name}.".startswith(f"{each}.") for each in settings)


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
