"""Predict pictures and videos: ``python -m segunet.predict checkpoint=PATH input=FILE|FOLDER|GLOB|VIDEO ...``."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image

from segunet.ahead import map_ahead
from segunet.callbacks import progress_bar
from segunet.commands import command, open_run_dir, planned_run_dir
from segunet.data.inputs import find_inputs, is_video, output_names
from segunet.data.video import Frame, read_frames, read_info, write_video
from segunet.data.voc import read_image
from segunet.errors import UserError
from segunet.files import save_png, whole_file
from segunet.predictor import Predictor, load
from segunet.visualize import (
    LEAST_LEGEND,
    Picture,
    legend,
    overlay,
    overlay_with_legend,
    palette_image,
    stack,
)

logger = logging.getLogger("segunet.predict")  # __name__ is "__main__" when run as a program

RESULTS = ("masks", "overlays")  # what is written below the output folder
_THREADS, _WAITING = 2, 2  # for reading, and again for writing; pictures that wait are held in memory
_MOST_OF_JPEG = 65_500  # pixels a side


class Prediction(NamedTuple):
    """A picture uint8 (H, W, 3), its classes uint8 (H, W), and the name of its files below the output folder."""

    name: str
    image: Picture
    mask: NDArray[np.uint8]


def predict(cfg: DictConfig) -> Path:
    """Predict ``cfg.input`` as ``cfg`` says and return the output folder.

    Raises:
        UserError: whatever the user can mend; at the end, if some inputs could not be read.
    """
    for name in ("checkpoint", "input"):
        if cfg[name] is None:
            raise UserError(f"Which {name}? Give {name}=PATH; python -m segunet.predict --help shows examples.")
    output = planned_run_dir(cfg, "predict", RESULTS)
    results = [output / name for name in RESULTS]
    names = output_names(find_inputs(str(cfg.input), leave_out=results))
    settings = ("tta", "tile", "overlap", "inference_size", "accelerator", "precision")
    model = load(cfg.checkpoint, **{name: cfg[name] for name in settings})
    open_run_dir(cfg, output)
    pictures = {path: name for path, name in names.items() if not is_video(path)}
    with progress_bar() as bar:
        task = bar.add_task("predicting", total=len(names))
        advance = partial(bar.advance, task)
        failed = predict_pictures(model, pictures, output, advance)
        for path in (path for path in names if path not in pictures):
            failed += predict_video(model, path, output / "overlays" / f"{names[path]}.mp4", advance)
    logger.info("written to %s", output)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(names)} inputs could not be predicted, see above: "
            f"{', '.join(map(str, failed[:5]))}{', ...' if len(failed) > 5 else ''}. The others are in {output}."
        )
    return output


def predict_pictures(
    model: Predictor, names: Mapping[Path, str], output: Path, advance: Callable[[float], object]
) -> list[Path]:
    """Write masks/<name>.png and overlays/<name>.jpg of each picture; return those that failed.

    Pictures are read, and results written, by threads while the network works.

    Args:
        model: predicts.
        names: of the files to write, for each picture's path.
        output: folder to write to.
        advance: is told how much was done, a picture being 1.
    """
    failed: list[Path] = []
    busy = 0.0

    def predictions() -> Iterator[Prediction]:
        nonlocal busy
        for path, image in map_ahead(_read, names, _THREADS, _WAITING):
            began = time.monotonic()
            try:
                if isinstance(image, UserError):
                    raise image
                prediction = Prediction(names[path], image, model.predict(image, advance))
            except UserError as error:
                text = error.paragraph
                logger.error(text if str(path) in text else f"{path}: {text}")
                failed.append(path)
                continue
            busy += time.monotonic() - began
            yield prediction

    began = time.monotonic()
    for _ in map_ahead(partial(_save, model, output), predictions(), _THREADS, _WAITING):
        pass
    seconds = time.monotonic() - began
    if done := len(names) - len(failed):
        share = f"{100 * busy / seconds:.0f} % of it in the network"
        logger.info("%d picture(s) in %.1f s (%.3g pictures/s; %s)", done, seconds, done / seconds, share)
    return failed


def predict_video(model: Predictor, path: Path, target: Path, advance: Callable[[float], object]) -> list[Path]:
    """Write a video under its prediction's colours, with a legend of the classes; return [path] if it failed.

    Args:
        model: predicts.
        path: of the video.
        target: of the MP4 to write.
        advance: is told how much was done, the video being 1.
    """
    try:
        info = read_info(path)
        with whole_file(target) as file:
            frames = _overlaid(model, read_frames(path))
            write_video(file, _counted(frames, info.frames, advance), info.rate)
    except UserError as error:
        logger.error("%s", error.paragraph)
        return [path]
    return []


def _read(path: Path) -> tuple[Path, Picture | UserError]:
    try:
        return path, read_image(path)
    except UserError as error:
        return path, error


def _save(model: Predictor, output: Path, prediction: Prediction) -> None:
    name, image, mask = prediction
    with whole_file(output / "masks" / f"{name}.png") as file:
        palette_image(mask, model.palette).save(file, format="PNG")
    picture = overlay_with_legend(image, mask, model.palette, model.class_names)
    if max(picture.shape) < _MOST_OF_JPEG:
        with whole_file(output / "overlays" / f"{name}.jpg") as file:
            Image.fromarray(picture).save(file, format="JPEG", quality=92, subsampling=0)
    else:
        save_png(picture, output / "overlays" / f"{name}.png")


def _overlaid(model: Predictor, frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield each frame's overlay, above a legend of all classes that stays the same."""
    entries, below = dict(enumerate(model.class_names)), None
    for frame in frames:
        if below is None:
            below = legend(entries, model.palette, max(frame.image.shape[1], LEAST_LEGEND))
        coloured = overlay(frame.image, model.predict(frame.image), model.palette)
        yield Frame(stack([coloured, below]), frame.time)


def _counted(frames: Iterable[Frame], total: int, advance: Callable[[float], object]) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        advance(1 / max(total, 1))


@command("predict")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    predict(cfg)


if __name__ == "__main__":
    main()
