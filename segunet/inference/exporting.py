"""Networks to export, each compared with what was written of it."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from segunet.base.errors import UserError
from segunet.base.terminal import setting
from segunet.base.version import __version__
from segunet.data.datamodule import VOCDataModule
from segunet.data.dataset import EvalDataset
from segunet.data.voc import find_voc_folder, list_pairs
from segunet.formats.interface import Interface, resized
from segunet.formats.quantize import Calibration
from segunet.formats.read import ExportedNet
from segunet.formats.write import FORMATS, Format, Traced, least_side, traced, traced_denoiser
from segunet.inference.card import CheckpointCard
from segunet.inference.checkpoint import Checkpoint
from segunet.inference.denoiser_fidelity import check_same_denoiser, compare_denoisers, show_denoisers
from segunet.inference.fidelity import check_same, check_same_masks, check_scores, compare, noise, show
from segunet.inference.generator import DenoiserCheckpoint
from segunet.losses.denoising import SCALE
from segunet.models.classic_unet import border_of
from segunet.models.prompts import PromptEncoder

logger = logging.getLogger(__name__)


class Segmentation:
    """A segmentation network to export.

    Args:
        cfg: config of ``segunet.export``.
        interface: what the exported network takes and returns.
        checkpoint: the network.
        datamodule: the images to compare it on; None for noise alone.
    """

    def __init__(
        self, cfg: DictConfig, interface: Interface, checkpoint: Checkpoint, datamodule: VOCDataModule | None
    ) -> None:
        self.cfg, self.net, self.interface = cfg, checkpoint.net, interface
        self.num_classes, self.data = len(checkpoint.class_names), checkpoint.data
        self.datamodule = datamodule

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


class Denoiser:
    """A denoiser to export.

    Args:
        cfg: config of ``segunet.export``.
        checkpoint: the denoiser.
        card: the checkpoint's.
    """

    def __init__(self, cfg: DictConfig, checkpoint: DenoiserCheckpoint, card: CheckpointCard) -> None:
        self.cfg, self.checkpoint, self.card = cfg, checkpoint, card

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


def prompts_of(encoder: PromptEncoder | None) -> dict[str, Any] | None:
    """Return an ``inference.card.PromptsCard`` in plain values."""
    if encoder is None:
        return None
    return {"names": encoder.names, "named": encoder.named.tolist(), "empty": encoder.empty.tolist()}


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
