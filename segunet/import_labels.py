"""Bring other labels into VOC's layout: ``python -m segunet.import_labels from=NAME source=PATH output=DIR``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("import_labels")

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig
from pydantic import Field

from segunet.base.errors import UserError, abbreviated, counted, did_you_mean
from segunet.base.extras import import_extra
from segunet.base.files import is_file
from segunet.base.stopping import saying_when_stopped
from segunet.base.terminal import setting
from segunet.base.validation import Count, Settings, Text, one_line
from segunet.cli.command import command
from segunet.cli.run_dir import as_path, check_writable
from segunet.data.classes import check_class_names
from segunet.data.data_file import DATA_FILE
from segunet.data.importing.coco import read_coco
from segunet.data.importing.cvat import read_cvat
from segunet.data.importing.folder import Lists, split_lists, write_folder
from segunet.data.importing.id_masks import read_binary, read_cityscapes
from segunet.data.importing.labelme import read_labelme
from segunet.data.importing.regions import EXTRA
from segunet.data.importing.source import TRAIN, VAL, LabelSource
from segunet.data.importing.yolo import read_yolo
from segunet.images.integrity import IMAGE_SUFFIXES
from segunet.images.palette import IGNORE_INDEX

logger = logging.getLogger("segunet.import_labels")  # __name__ is "__main__" when run as a program
Format = Literal["coco", "yolo", "labelme", "cvat", "cityscapes_ids", "binary"]
READERS: dict[Format, Callable[[Path, Path | None, Sequence[str] | None], LabelSource]] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "cityscapes_ids": read_cityscapes,
    "binary": read_binary,
}
_WITH_POLYGONS = ("coco", "yolo", "labelme", "cvat")


class ImportSettings(Settings):
    """Plain settings of the command."""

    format: Format
    source: Text
    val_source: Text | None
    images: Text | None
    val_images: Text | None
    output: Text
    class_names: Annotated[list[Text], Field(min_length=1)] | None
    val_share: Annotated[float, Field(gt=0, lt=1)]
    seed: Count
    lists: Text | None
    skip_missing: bool


def import_labels(cfg: DictConfig) -> Path:
    """Read a data set of another format, write it in VOC's layout, and return its folder.

    Raises:
        UserError: anything the user can fix; nothing is written then.
    """
    for name, example in {"format": "from=coco", "source": "source=PATH", "output": "output=DIR"}.items():
        if cfg[name] in (None, ""):
            raise UserError(
                f"Give {example}; from is one of {', '.join(READERS)}. python -m segunet.import_labels --help shows "
                "examples."
            )
    if cfg.format not in READERS:
        meant = did_you_mean(str(cfg.format), list(READERS))
        raise UserError(f"from={cfg.format} is none of {', '.join(READERS)}.{meant}")
    given = ImportSettings.of(cfg)
    output = as_path(given.output).resolve()
    check_output(output)
    if given.format in _WITH_POLYGONS:
        import_extra("pycocotools.mask", EXTRA)
    source = with_images_that_are_there(read(given), given)
    check_source(source, given)
    lists = split_lists(source.images, given.val_share, given.seed, _path(given.lists))
    with saying_when_stopped(lambda: f"{output} was not written; start again"):
        write_folder(source, lists, output)
    conclude(source, lists, output)
    return output


def check_output(output: Path) -> None:
    """Raise a UserError unless ``output`` can be a new folder."""
    if output.exists() and (not output.is_dir() or output.is_mount() or any(output.iterdir())):
        raise UserError(f"output={output} exists. Give another folder, or remove it first.")
    check_writable(output.parent)


def read(given: ImportSettings) -> LabelSource:
    """Read the source and, if one is given, that of the validation list."""
    if given.val_source is None:
        if given.val_images is not None:
            raise UserError("val_images is the folder of the images of val_source. Give val_source, too.")
        return read_one(given, given.class_names)
    train, val = (read_one(each, given.class_names) for each in (given, of_validation(given)))
    if any(each.split for each in (*train.images, *val.images)):
        raise UserError(f"val_source: {given.format} has a validation list of its own. Leave it out.")
    names = list(dict.fromkeys([*train.class_names, *val.class_names]))
    if names != list(train.class_names) or names != list(val.class_names):  # each lacks some classes
        train, val = (read_one(each, names) for each in (given, of_validation(given)))
    images = [each._replace(split=split) for split, one in ((TRAIN, train), (VAL, val)) for each in one.images]
    known = list(dict.fromkeys([*train.known, *val.known]))
    return replace(train, images=images, known=known, left_out=train.left_out + val.left_out)


def of_validation(given: ImportSettings) -> ImportSettings:
    """Return the settings with the validation list's source as the source."""
    return given.model_copy(update={"source": given.val_source, "images": given.val_images or given.images})


def read_one(given: ImportSettings, class_names: Sequence[str] | None) -> LabelSource:
    """Read ``given.source``."""
    return READERS[given.format](as_path(given.source), _path(given.images), class_names)


def _path(given: str | None) -> Path | None:
    return None if given is None else as_path(given)


def with_images_that_are_there(source: LabelSource, given: ImportSettings) -> LabelSource:
    """Return the source without the images that are not there, which are counted.

    Raises:
        UserError: one is not there, and ``given.skip_missing`` is not set.
    """
    there = [is_file(each.image) for each in source.images]
    if missing := [each.image for each, found in zip(source.images, there, strict=True) if not found]:
        if not given.skip_missing:
            own_folder = "" if given.format == "yolo" else ", give their folder as images=PATH (val_images=PATH)"
            raise UserError(
                f"{len(missing)} of the {len(source.images)} images that the labels name are not there, such as "
                f"{missing[0]}. Put them there{own_folder}, or leave them out: skip_missing=true."
            )
        source.left_out["images that are not there"] += len(missing)
    return replace(source, images=list(compress(source.images, there)))


def check_source(source: LabelSource, given: ImportSettings) -> None:
    """Raise a UserError for class names or images that cannot be written."""
    if given.class_names and (unknown := [name for name in source.class_names[1:] if name not in source.known]):
        known = abbreviated(source.known, 20)
        raise UserError(f"class_names: there are no labels of {unknown[0]}. Those there are: {known}.")
    if len(source.class_names) > IGNORE_INDEX:
        raise UserError(
            f"There are {len(source.class_names)} classes, but masks have room for {IGNORE_INDEX}. Choose some, as "
            "class_names=[background,...]."
        )
    check_class_names(source.class_names)
    if strange := [name for name in source.class_names if not name.isprintable() or "${" in name or name == "???"]:
        raise UserError(f"The class name {one_line(strange[0])!r} cannot be written into {DATA_FILE}. Rename it.")
    by_name: dict[str, Path] = {}
    for each in source.images:
        if (other := by_name.setdefault(each.name, each.image)) is not each.image:
            raise UserError(f"{other} and {each.image} are both named {each.name}. Each image needs a name of its own.")
        if each.image.suffix not in IMAGE_SUFFIXES:
            raise UserError(f"{each.image}: images are {', '.join(IMAGE_SUFFIXES)}. Save it as one of them.")


def conclude(source: LabelSource, lists: Lists, output: Path) -> None:
    """Log what was written, what was left out, and the next steps."""
    logger.info(
        "written to %s: %s to train and %d to validate on; %d classes (%s)",
        output,
        counted(len(lists[TRAIN]), "image"),
        len(lists[VAL]),
        len(source.class_names),
        abbreviated(source.class_names, 20),
    )
    if left_out := [f"{kind} ({count:,})" for kind, count in source.left_out.most_common()]:
        logger.warning("not imported: %s", abbreviated(left_out, 20))
    data = setting("data", output / DATA_FILE)
    logger.info("check:     python -m segunet.check_data %s", data)
    logger.info("train:     python -m segunet.train %s", data)


@command("import_labels")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    import_labels(cfg)


if __name__ == "__main__":
    main()
