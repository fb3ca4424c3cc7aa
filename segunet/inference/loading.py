"""Load any checkpoint: ``segunet.load``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from segunet.base.errors import UserError
from segunet.formats.read import READERS
from segunet.images.levels import Range
from segunet.inference.checkpoint import FROM_CHECKPOINT, card_of, checkpoint_of, read_checkpoint
from segunet.inference.ensemble import load_checkpoints
from segunet.inference.generator import Generator, denoiser_of
from segunet.inference.predictor import Predictor


def load(
    path: str | Path | Sequence[str | Path],
    *,
    tta: str = "none",
    tile: int | None = None,
    overlap: float = 0.25,
    inference_size: int | Literal["checkpoint"] | None = FROM_CHECKPOINT,
    image_range: Range | Literal["checkpoint"] = FROM_CHECKPOINT,
    accelerator: str = "auto",
    precision: str = "auto",
) -> Any:
    """Load a checkpoint: a :class:`Predictor`, or of a denoiser a :class:`Generator`.

    >>> model = load(checkpoint, tta="flip")
    >>> model.class_names
    ['background', 'disc', 'square']
    >>> mask = model.predict(image)  # a path, a PIL image or an array
    >>> mask.shape, mask.dtype
    ((64, 80), dtype('uint8'))
    >>> model.show(image).save(overlay)

    >>> images = load(denoiser).generate("disc", count=2, steps=3, guidance=2.0, seed=1)
    >>> images.shape, images.dtype
    ((2, 32, 32, 3), dtype('uint8'))

    Args:
        path: a run's checkpoints/best.ckpt, or a file written by segunet.convert or segunet.export; or several, whose
            predictions are averaged.
        tta: test-time augmentation, a key of ``inference.logits.TTA``.
        tile: side in pixels of the tiles that an image is cut into, at its own size; None for the whole image
            at once, at ``inference_size``.
        overlap: minimum overlap of neighbouring tiles, as a share of a tile, 0..0.9.
        inference_size: long side at which whole images enter the network, None for their own size, or
            "checkpoint" for the one used in validation. The prediction has the image's own size.
        image_range: (low, high), the values of 16-bit images that become 0 and 255, None for (0, 65535), or
            "checkpoint" for those used in training. For a network of rasters, also one such pair for each band.
        accelerator: auto, cpu, gpu, ..., as in Lightning.
        precision: auto (mixed on a GPU, and on a CPU if faster), 32-true, bf16-mixed, ..., as in Lightning.

    Raises:
        UserError: no file, not segunet's, or an invalid setting.
    """
    paths = [Path(str(each)).expanduser() for each in ([path] if isinstance(path, str | Path) else path)]
    content = read_checkpoint(paths[0]) if len(paths) == 1 and paths[0].suffix not in READERS else None
    if content and card_of(content, paths[0]).denoiser is not None:
        segmentation_only = {"tta": tta != "none", "tile": tile is not None, "overlap": overlap != 0.25}
        segmentation_only |= {
            "inference_size": inference_size != FROM_CHECKPOINT,
            "image_range": image_range != FROM_CHECKPOINT,
        }
        if given := [name for name, is_given in segmentation_only.items() if is_given]:
            raise UserError(f"{paths[0]} holds a denoiser, which has no {', '.join(given)}. Leave them out.")
        return Generator(denoiser_of(content, paths[0]), accelerator, precision)
    return Predictor(
        checkpoint_of(content, paths[0]) if content else load_checkpoints(paths),
        tta=tta,
        tile=tile,
        overlap=overlap,
        inference_size=inference_size,
        image_range=image_range,
        accelerator=accelerator,
        precision=precision,
    )
