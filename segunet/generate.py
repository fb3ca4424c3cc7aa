"""Generate images: ``python -m segunet.generate checkpoint=PATH prompt="disc, star" ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("generate")

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from segunet.base.errors import UserError, counted
from segunet.base.files import DRAFTS, check_within, remove_abandoned, save_png, whole_file
from segunet.base.stopping import saying_when_stopped
from segunet.base.terminal import progress_bar
from segunet.base.validation import Text, check
from segunet.cli.command import command
from segunet.cli.run_dir import as_path, open_run_dir, planned_run_dir
from segunet.cost.measurement import peak_memory
from segunet.images.drawing import ImageArray, labelled_grid
from segunet.inference.generator import Film, Generator, Request, Samples, load_denoiser

logger = logging.getLogger("segunet.generate")  # __name__ is "__main__" when run as a program
RESULTS = ("images", "latents", "grid.png", "film.png")  # written below the output folder
_MOST_IN_GRID = 64  # images
_NUMBERED = re.compile(r"\d{4,}")  # names of what is generated


def generate(cfg: DictConfig) -> Path:
    """Generate images as ``cfg`` says and return the output folder.

    Raises:
        UserError: anything the user can fix; nothing is written before all settings are checked.
    """
    if cfg.checkpoint in (None, ""):
        raise UserError("Which checkpoint? Give checkpoint=PATH; python -m segunet.generate --help shows examples.")
    output = planned_run_dir(cfg, "generate", RESULTS)
    vae = None if cfg.vae is None else as_path(cfg.vae)
    model = Generator(load_denoiser(as_path(cfg.checkpoint)), cfg.accelerator, cfg.precision, vae)
    wanted = request_of(model, cfg)
    open_run_dir(cfg, output)
    remove_abandoned(output.rglob(DRAFTS))
    remove_earlier(output)
    logger.info("%s; writing to %s", description_of(wanted), output)

    def so_far() -> str:
        return f"{len(numbered(output))} of {wanted.count} are in {output}; the same command makes the same ones again"

    with saying_when_stopped(so_far), progress_bar() as bar:
        task = bar.add_task("denoising", total=wanted.count * wanted.steps)
        batches = model.batches(wanted, lambda done: bar.advance(task, done))
        if model.decode is None:
            write_latents(batches, output / "latents")
        else:
            write_sheets(write_images(batches, output / "images"), model.film, wanted, output)
    logger.info(
        "%s, %.3g s per step of up to %d at once; peak memory %.2f GB",
        counted(wanted.count, "latent" if model.decode is None else "image"),
        model.seconds_per_step,
        min(wanted.batch_size, wanted.count),
        peak_memory(model.fabric.device) / 1e9,
    )
    return output


def remove_earlier(output: Path) -> None:
    """Remove what an earlier command generated into this folder, so that nothing of it lies among the new images.

    Raises:
        UserError: a link leads out of the folder.
    """
    for path in (*numbered(output), output / "grid.png", output / "film.png"):
        check_within(output, [str(path.relative_to(output))])
        path.unlink(missing_ok=True)


def numbered(output: Path) -> list[Path]:
    """Return the images and latents that were generated into this folder."""
    found = [path for name in ("images/*.png", "latents/*.npy") for path in output.glob(name)]
    return [path for path in found if _NUMBERED.fullmatch(path.stem)]


def request_of(model: Generator, cfg: DictConfig) -> Request:
    """Return what ``cfg`` asks for.

    Raises:
        UserError: an invalid value; a prompt or guidance for an unconditional network.
    """
    names = ("count", "steps", "guidance", "seed", "scheduler", "batch_size", "size")
    prompt = check("prompt", cfg.prompt, Text | None)  # YAML reads some names as numbers
    check("scheduler", cfg.scheduler, str | None)
    return model.request(prompt, **{name: cfg[name] for name in names})


def write_images(batches: Iterable[Samples], folder: Path) -> list[ImageArray]:
    """Write each image of the batches as PNG, and return the first ones, for the grid.

    Raises:
        UserError: a link leads out of the folder; the disk is full.
    """
    first: list[ImageArray] = []
    for number, image in enumerate(image for batch in batches for image in batch):
        name = f"{number:04d}.png"
        check_within(folder, [name])
        save_png(image, folder / name)
        if number < _MOST_IN_GRID:
            first.append(image.copy())  # a view would keep the whole batch
    return first


def write_latents(batches: Iterable[Samples], folder: Path) -> None:
    """Write each latent of the batches as .npy, float32 (C, H, W); raises as :func:`write_images`."""
    for number, latent in enumerate(latent for batch in batches for latent in batch):
        name = f"{number:04d}.npy"
        check_within(folder, [name])
        with whole_file(folder / name) as file:
            np.save(file, latent)


def write_sheets(images: list[ImageArray], film: Film | None, wanted: Request, output: Path) -> None:
    """Write the grid of the images, and the film of the first."""
    save_png(labelled_grid(images, [description_of(wanted)]), output / "grid.png")
    if film is not None:
        labels = [f"{steps}/{wanted.steps}" for steps in film.steps]
        save_png(labelled_grid(list(film.frames), labels, columns=len(labels)), output / "film.png")


def description_of(wanted: Request) -> str:
    """Describe what is generated, in one line."""
    prompt = {None: "", "": "no prompt, "}.get(wanted.prompt, f'"{wanted.prompt}", ')
    return prompt + wanted.way


@command("generate")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    generate(cfg)


if __name__ == "__main__":
    main()
