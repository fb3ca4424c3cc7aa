"""Build the data set that a checkpoint is scored on: its own, or the one that a command names."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segunet.base.errors import UserError, abbreviated
from segunet.data.datamodule import VOCDataModule
from segunet.inference.checkpoint import FROM_CHECKPOINT, Checkpoint
from segunet.inference.tiling import check_tile_alone
from segunet.training.build import datamodule_from_config

logger = logging.getLogger(__name__)


def scoring_data(cfg: DictConfig, checkpoint: Checkpoint, prepare: bool) -> tuple[DictConfig, VOCDataModule]:
    """Return ``cfg`` completed from the checkpoint, and its data set, ready for scoring.

    Args:
        cfg: config of a command with ``data``, ``split`` and ``inference_size``.
        checkpoint: its own data set is used unless ``cfg`` names one.
        prepare: check the masks, and write or download the data set if it is missing and ``cfg`` names it; a
            checkpoint's own data set is never written.

    Raises:
        UserError: no such data set, or one with other classes.
    """
    named = "_target_" in cfg.data
    cfg = with_checkpoint_values(cfg, checkpoint)
    if named:
        datamodule = datamodule_from_config(cfg)
    else:
        cfg.data = data = data_of(checkpoint, cfg.data)
        datamodule = VOCDataModule(**data, inference_size=cfg.inference_size)
    check_classes(checkpoint, datamodule)
    if prepare and named:
        datamodule.prepare_scoring()
    datamodule.setup("test")
    if prepare:
        datamodule.check_labels()
    return cfg, datamodule


def with_checkpoint_values(cfg: DictConfig, checkpoint: Checkpoint) -> DictConfig:
    """Fill in settings that ``cfg`` leaves to the checkpoint: the split, the inference size."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    if cfg.split is not None:
        cfg.data.val_split = cfg.split
    if cfg.inference_size == FROM_CHECKPOINT:
        cfg.inference_size = None if cfg.get("tile") else checkpoint.inference_size
    check_tile_alone(cfg.get("tile"), cfg.inference_size)
    return cfg


def data_of(checkpoint: Checkpoint, given: DictConfig) -> dict[str, Any]:
    """Return the settings of the checkpoint's own data set, updated by the ``given`` ones."""
    names, palette, ignore_index = checkpoint.class_names, checkpoint.colours.palette, checkpoint.data.ignore_index
    own = {
        **checkpoint.data.model_dump(exclude={"flip"}),
        "class_names": names,
        "palette": palette[: len(names)].tolist(),
        "mask_values": {pair[0]: pair[1] for pair in checkpoint.data.mask_values or ()},
        "ignore_color": palette[ignore_index].tolist() if ignore_index >= len(names) else None,
    }
    plain = OmegaConf.to_container(given, resolve=True)
    assert isinstance(plain, dict)
    changed = {str(name): value for name, value in plain.items() if value is not None}
    if "val_split" in changed:
        own["fold"] = None  # that list is scored, not a part of the training's
    merged = own | changed
    if "background" not in changed and merged["background"] not in merged["class_names"]:
        merged["background"] = None
    if "ignore_color" not in changed and merged["ignore_index"] < len(merged["class_names"]):
        merged["ignore_color"] = None
    return merged


def check_classes(checkpoint: Checkpoint, datamodule: VOCDataModule) -> None:
    """Raise a UserError unless the data set has as many classes, and bands, as the checkpoint's network."""
    if checkpoint.data.bands != datamodule.form.bands:
        theirs, ours = (each or "null" for each in (checkpoint.data.bands, datamodule.form.bands))
        raise UserError(
            f"The checkpoint's network is for images with data.bands={theirs}, the data set {datamodule.root} has "
            f"data.bands={ours}. Give a data set like the one that it was trained on, or another checkpoint."
        )
    wanted, got = checkpoint.class_names, datamodule.class_names
    if len(wanted) != len(got):
        raise UserError(
            f"The checkpoint's network has {len(wanted)} classes ({abbreviated(wanted)}), the data set "
            f"{datamodule.root} has {len(got)} ({abbreviated(got)}). Give the data set that the checkpoint "
            "was trained on (data=..., data.root=...), or another checkpoint."
        )
    if checkpoint.data.image_range != datamodule.form.image_range:
        logger.warning(
            "The checkpoint's network was trained with data.image_range=%s, the data set has %s",
            checkpoint.data.image_range or "null",
            datamodule.form.image_range or "null",
        )
    if wanted != got:
        logger.warning(
            "The data set names its classes differently from the checkpoint: %s; the checkpoint: %s", got, wanted
        )
