"""Predict images and videos: ``python -m segunet.predict checkpoint=PATH input=FILE|FOLDER|GLOB|VIDEO ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("predict")

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from omegaconf import DictConfig, OmegaConf

from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.files import DRAFTS, check_within, is_file, remove_abandoned, write_json
from segunet.base.stopping import saying_when_stopped
from segunet.base.terminal import progress_bar
from segunet.base.validation import AtLeast0, check
from segunet.cli.command import command
from segunet.cli.run_dir import CONFIG, as_paths, command_line, open_run_dir, planned_run_dir
from segunet.formats.interface import check_gives_scores
from segunet.images.inputs import find_inputs, is_video, output_names
from segunet.images.outputs import COCO, FOLDERS, GEOJSON, MASK, PROBABILITIES, RESULTS, Wanted, remove_earlier
from segunet.images.palette import ClassColours
from segunet.images.polygons import CocoWriter, regions_of
from segunet.images.rasters import georeferenced_among
from segunet.images.reading import opened, warn_of_few_levels
from segunet.inference.ensemble import load_checkpoints
from segunet.inference.pipeline import Work
from segunet.inference.predictor import Predictor

logger = logging.getLogger("segunet.predict")  # __name__ is "__main__" when run as a program


def predict(cfg: DictConfig) -> Path:
    """Predict ``cfg.input`` as ``cfg`` says and return the output folder.

    Raises:
        UserError: anything the user can fix; at the end, if some inputs could not be predicted.
    """
    check_settings(cfg)
    output = planned_run_dir(cfg, "predict", RESULTS)
    results = [output / name for name in FOLDERS]
    if cfg.skip_existing:
        check_same_settings(cfg, output)
    names = output_names(find_inputs(str(cfg.input), leave_out=results))
    model = predictor_of(cfg)
    open_run_dir(cfg, output)
    for folder in results:
        remove_abandoned(folder.rglob(DRAFTS))
    logger.info("writing to %s", output)
    wanted = wanted_results(cfg, output, names)
    left = inputs_left(cfg, wanted, names)
    images = [path for path in left if not is_video(path)]
    warn_of_few_levels(images, model.image_range, model.bands, "image_range")
    with saying_when_stopped(partial(how_to_go_on, wanted, names)), progress_bar() as bar:
        advance = partial(bar.advance, bar.add_task("predicting", total=len(left)))
        outlines = cfg.polygon_tolerance if cfg.polygons == "geojson" else None
        work = Work(model, names, wanted, advance, cfg.save_probabilities, cfg.save_frame_masks, outlines)
        work.predict_images(images)
        for path in filter(is_video, left):
            work.predict_video(path)
        if cfg.polygons == "coco":
            done = {path: name for path, name in names.items() if path not in work.failed}
            write_coco(done, output, model.colours, cfg.polygon_tolerance)
    check_all_done(work.failed, len(names), output)
    return output


def check_settings(cfg: DictConfig) -> None:
    """Raise a UserError for invalid values that no constructor checks."""
    for name in ("checkpoint", "input"):
        if cfg[name] in (None, ""):
            raise UserError(f"Which {name}? Give {name}=PATH; python -m segunet.predict --help shows examples.")
    for name in ("skip_existing", "save_probabilities", "save_frame_masks"):
        check(name, cfg[name], bool)
    check("polygons", cfg.polygons, Literal["geojson", "coco"] | None)
    check("polygon_tolerance", cfg.polygon_tolerance, AtLeast0)


def predictor_of(cfg: DictConfig) -> Predictor:
    """Return what predicts with ``cfg.checkpoint``."""
    checkpoint = load_checkpoints(as_paths(cfg.checkpoint))
    if cfg.save_probabilities:
        check_gives_scores(checkpoint.net, "save_probabilities")
    settings = ("tta", "tile", "overlap", "inference_size", "image_range", "accelerator", "precision")
    return Predictor(checkpoint, **{name: cfg[name] for name in settings})


def wanted_results(cfg: DictConfig, output: Path, names: Mapping[Path, str]) -> Wanted:
    """Return what is written for each input, of output ``names`` by path."""
    changed = max(path.stat().st_mtime for path in as_paths(cfg.checkpoint))
    extras = (PROBABILITIES,) * cfg.save_probabilities + (GEOJSON,) * (cfg.polygons == "geojson")
    return Wanted(output, changed, extras, georeferenced_among(names))


def inputs_left(cfg: DictConfig, wanted: Wanted, names: Mapping[Path, str]) -> list[Path]:
    """Return the inputs to predict; of all of them, remove the earlier results."""
    if not cfg.skip_existing:
        remove_earlier(names, wanted.output)
        return list(names)
    left = wanted.not_done(names)
    logger.info("%d of %s predicted before and skipped", len(names) - len(left), counted(len(names), "input"))
    return left


def how_to_go_on(wanted: Wanted, names: Mapping[Path, str]) -> str:
    """Return what a command that was stopped says."""
    done = len(names) - len(wanted.not_done(names))
    return f"{done} of {len(names)} are predicted; go on: {command_line(output=wanted.output, skip_existing='true')}"


def check_all_done(failed: Sequence[Path], number: int, output: Path) -> None:
    """Raise a UserError if some of a ``number`` of inputs failed."""
    if failed:
        text = f"{len(failed)} of {counted(number, 'input')} could not be predicted, see above: "
        others = f" The others are in {output}." if len(failed) < number else ""
        raise UserError(f"{text}{abbreviated([str(path) for path in failed])}.{others}")


def check_same_settings(cfg: DictConfig, output: Path) -> None:
    """Raise a UserError if the results in the ``output`` folder are from a network or settings other than ``cfg``'s."""
    if not is_file(output / CONFIG):
        return
    earlier = OmegaConf.load(output / CONFIG)
    for name in map(str, cfg):
        value = OmegaConf.select(earlier, name)
        if name in earlier and name not in ("input", "output", "run_dir", "skip_existing") and value != cfg[name]:
            raise UserError(
                f"skip_existing=true: the results in {output} were predicted with {name}={value}, not {cfg[name]}. "
                "Give the same settings, or another output."
            )


def write_coco(names: Mapping[Path, str], output: Path, colours: ClassColours, tolerance: float) -> None:
    """Write annotations.json, of the images' masks in the output folder."""
    writer = CocoWriter(colours.names)
    for path, name in names.items():
        if not is_video(path) and is_file(file := output / MASK.format(name)):
            with opened(file, "mask") as (image, _):
                mask = np.asarray(image)
            file_name, (height, width) = (Path(name).parent / path.name).as_posix(), mask.shape
            writer.add(file_name, (height, width), regions_of(mask, colours, tolerance))
    check_within(output, [COCO])
    write_json(output / COCO, writer.content(), indent=None)


@command("predict")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    predict(cfg)


if __name__ == "__main__":
    main()
