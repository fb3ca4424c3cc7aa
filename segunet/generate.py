"""Generate images: ``python -m segunet.generate checkpoint=PATH prompt="disc, star" ...``."""

import logging
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig

from segunet.base.errors import UserError
from segunet.base.files import DRAFTS, check_within, remove_abandoned, save_png
from segunet.base.terminal import progress_bar
from segunet.base.validation import Text, check
from segunet.cli.command import command
from segunet.cli.run_dir import as_path, open_run_dir, planned_run_dir
from segunet.cost.measurement import peak_memory
from segunet.images.drawing import ImageArray, labelled_grid
from segunet.inference.generator import Generator, Request, load_denoiser

logger = logging.getLogger("segunet.generate")  # __name__ is "__main__" when run as a program
RESULTS = ("images", "grid.png", "film.png")  # written below the output folder
_MOST_IN_GRID = 64  # images


def generate(cfg: DictConfig) -> Path:
    """Generate images as ``cfg`` says and return the output folder.

    Raises:
        UserError: anything the user can fix; nothing is written before all settings are checked.
    """
    if cfg.checkpoint in (None, ""):
        raise UserError("Which checkpoint? Give checkpoint=PATH; python -m segunet.generate --help shows examples.")
    output = planned_run_dir(cfg, "generate", RESULTS)
    model = Generator(load_denoiser(as_path(cfg.checkpoint)), cfg.accelerator, cfg.precision)
    wanted = request_of(model, cfg)
    open_run_dir(cfg, output)
    remove_abandoned(output.rglob(DRAFTS))
    logger.info("%s; writing to %s", description_of(wanted), output)
    with progress_bar() as bar:
        task = bar.add_task("denoising", total=wanted.count * wanted.steps)
        images = write_images(model.batches(wanted, lambda done: bar.advance(task, done)), output / "images")
    grid = labelled_grid(images[:_MOST_IN_GRID], [description_of(wanted)])
    save_png(grid, output / "grid.png")
    if model.film is not None:
        labels = [f"{steps}/{wanted.steps}" for steps in model.film.steps]
        save_png(labelled_grid(list(model.film.frames), labels, columns=len(labels)), output / "film.png")
    logger.info(
        "%d image(s), %.3g s per step of up to %d at once; peak memory %.2f GB",
        len(images),
        model.seconds_per_step,
        min(wanted.batch_size, wanted.count),
        peak_memory(model.fabric.device) / 1e9,
    )
    return output


def request_of(model: Generator, cfg: DictConfig) -> Request:
    """Return what ``cfg`` asks for.

    Raises:
        UserError: an invalid value; a prompt or guidance for an unconditional network.
    """
    names = ("count", "steps", "guidance", "seed", "scheduler", "batch_size", "size")
    prompt = check("prompt", cfg.prompt, Text | None)  # YAML reads some names as numbers
    check("scheduler", cfg.scheduler, str | None)
    return model.request(prompt, **{name: cfg[name] for name in names})


def write_images(batches: Iterable[ImageArray], folder: Path) -> list[ImageArray]:
    """Write each image of the batches as PNG, and return all of them.

    Raises:
        UserError: a link leads out of the folder; the disk is full.
    """
    images: list[ImageArray] = []
    for batch in batches:
        for image in batch:
            name = f"{len(images):04d}.png"
            check_within(folder, [name])
            save_png(image, folder / name)
            images.append(image)
    return images


def description_of(wanted: Request) -> str:
    """Describe what is generated, in one line."""
    prompt = [] if wanted.prompt is None else [f'"{wanted.prompt}"', f"guidance {wanted.guidance:g}"]
    return ", ".join([*prompt, f"{wanted.scheduler}, {wanted.steps} steps", f"seed {wanted.seed}"])


@command("generate")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    generate(cfg)


if __name__ == "__main__":
    main()
