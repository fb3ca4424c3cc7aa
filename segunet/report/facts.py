"""Facts about a run for its report."""

from datetime import datetime

import pytorch_lightning as pl

from segunet.base.environment import hardware, versions
from segunet.data.datamodule import VOCDataModule


def facts(trainer: pl.Trainer, datamodule: VOCDataModule, seconds: float) -> dict[str, dict[str, str]]:
    """Return a report's facts; ``seconds`` is the run's duration, 0 if unknown."""
    devices = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    run = {
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "took": duration(seconds) if seconds else "\N{EN DASH}",
        "device": f"{devices}{trainer.strategy.root_device}, {trainer.precision}",
        "data": str(datamodule.root.absolute()),
        "split": datamodule.val_name,
    }
    if (form := datamodule.form).bands is not None:
        run["bands"] = f"{form.bands}, black and white at {form.image_range or 'the ends of their type'}"
    return {"Run": run, "Software": versions(), "Hardware": hardware()}


def duration(seconds: float) -> str:
    """Return a time span in its two largest units."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.1f} s"
