"""Run a command of segunet in this process, as its user would type it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest

from segunet.base.paths import CONF_DIR


@dataclass
class Result:
    """What a command left: its exit status, what it printed, and the text of its error."""

    status: int
    output: str
    error: str


Command = Callable[..., Result]

# A network small enough to be trained in seconds, for the folder that the fixture ``voc_folder`` writes.
TINY = [
    "data=custom",
    "data.class_names=[background,disc,square]",
    "data.transform.crop_size=64",
    "data.batch_size=2",
    "data.num_workers=0",
    "model.encoder.depth=18",
    "model.encoder.weights=null",
    "model.encoder.num_maps=3",
    "model.decoder.widths=[16,16]",
    "model.decoder.reduced_channels=[8,8,16]",
    "trainer.accelerator=cpu",
]
# What a training leaves in its folder of checkpoints.
CHECKPOINTS = ["best.ckpt", "last.ckpt", "model_card.md", "previous.ckpt"]
# On top of TINY, the whole encoder and a decoder of four steps.
WHOLE = [
    "model.encoder.num_maps=5",
    "model.decoder.widths=[32,32,16,16]",
    "model.decoder.reduced_channels=[8,8,16,16,32]",
]


# A denoiser small enough to be trained in seconds, for the same folder, in samples of 32 pixels.
TINY_DENOISER = [
    "model=diffusion_unet",
    "loss=denoising",
    "data=custom",
    "data.class_names=[background,disc,square]",
    "data.transform.crop_size=32",
    "data.transform.color_jitter=0",
    "data.batch_size=2",
    "data.num_workers=0",
    "model.cross_attention_dim=8",
    "model.attending_maps=1",
    "model.time_width=16",
    "model.full_resolution_width=8",
    "model.encoder.num_maps=3",
    "model.decoder.widths=[16,16,16]",
    "optimizer.encoder_lr=null",
    "trainer.accelerator=cpu",
    "callbacks.images=1",
]


# The choices of conf/model that return logits.
SEGMENTATION_MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml") if path.stem != "diffusion_unet")


def for_any_size(model: str) -> list[str]:
    """Return the settings with which a choice of conf/model starts at random and takes images of any size."""
    return ["model.padded=true"] if model == "classic_unet" else ["model.encoder.weights=null"]


def main(module: ModuleType, *overrides: str) -> None:
    """Run a command as ``python -m`` does, with the words of a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{module.__name__}.py", *overrides])
        module.main()


def make_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command with overrides."""

    def run(module: ModuleType, *overrides: str) -> Result:
        status, error = 0, ""
        try:
            main(module, *overrides)
        except SystemExit as stop:
            error = stop.code if isinstance(stop.code, str) else ""
            status = 1 if error else int(stop.code or 0)
        printed = capsys.readouterr()
        return Result(status, printed.out, error or printed.err)

    return run
