"""Ways to damage the folder of ``voc_folder``, and what is to be found then."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segunet.images.palette import voc_palette
from tests.conftest import VOC_SIZES

Damage = Callable[[Path], object]
IMAGE, MASK = Path("JPEGImages/val_1.jpg"), Path("SegmentationClass/val_1.png")
TRAIN_LIST, VAL_LIST = Path("ImageSets/Segmentation/train.txt"), Path("ImageSets/Segmentation/val.txt")
SIZE = VOC_SIZES["val"][1]  # (64, 80), so that a turned image is another size


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def save_mask(path: Path, *values: int, dtype: type = np.uint8, palette: NDArray[np.uint8] | None = None) -> None:
    """Replace a mask by one of the same size that takes the values in turn."""
    with Image.open(path) as old:
        image = Image.fromarray(np.resize(np.array(values, dtype=dtype), (old.height, old.width)))
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(path, format="TIFF" if dtype in (np.int32, np.float32) else "PNG")


def save_colours(path: Path, mode: str, colours: list[list[int]]) -> None:
    with Image.open(path) as old:
        indices = np.resize(np.arange(len(colours)), (old.height, old.width))
    Image.fromarray(np.array(colours, dtype=np.uint8)[indices]).convert(mode).save(path)


def convert(path: Path, mode: str) -> None:
    """Save a file anew in another of Pillow's modes; the suffix stays, Pillow goes by the content."""
    with Image.open(path) as image:
        known_by_suffix = mode not in ("F", "RGBA") and (path.suffix, mode) != (".png", "CMYK")
        converted = image.convert(mode)
        if mode == "RGBA":
            converted.putalpha(200)
        converted.save(path, format=None if known_by_suffix else "TIFF")


def deepen(path: Path) -> None:
    """Save an image of 12 bits in a file of 16."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L")).astype(np.uint16)
    Image.fromarray(900 + 2 * grey).save(path, format="PNG")


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def turn(path: Path, orientation: int) -> None:
    """Mark an image as turned, as a camera does, its pixels as they are."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    with Image.open(path) as image:
        image.save(path, exif=exif)


def add_name(path: Path, name: str) -> None:
    path.write_text(f"{path.read_text()}{name}\n")


def replace_in(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def all_binary(folder: Path) -> None:
    for mask in (folder / "SegmentationClass").glob("train_*"):
        save_mask(mask, 0, 255)


def as_png(path: Path) -> None:
    with Image.open(path) as image:
        image.save(path.with_suffix(".png"))


def copy_example(folder: Path, source: str, target: str) -> None:
    """Overwrite an example of the same size; the copy's file differs, its pixels do not."""
    image = (folder / f"JPEGImages/{source}.jpg").read_bytes()
    comment = b"\xff\xfe\x00\x09comment"
    (folder / f"JPEGImages/{target}.jpg").write_bytes(image[:2] + comment + image[2:])
    (folder / f"SegmentationClass/{target}.png").write_bytes((folder / f"SegmentationClass/{source}.png").read_bytes())


def renumber(path: Path) -> None:
    """Save a mask whose palette says what its indices were before."""
    save_mask(path, 0, 2, palette=voc_palette()[[0, 2, 1, *range(3, 256)]])


def swap_colours(folder: Path) -> None:
    """Draw class 2 in red in one mask, class 1 in the next."""
    palette = np.full((256, 3), 7, dtype=np.uint8)
    palette[1:3] = [[9, 250, 9], [250, 9, 9]]
    save_mask(folder / "SegmentationClass/val_0.png", 0, 1, 2, palette=palette)
    palette[1:3] = palette[[2, 1]]
    save_mask(folder / MASK, 0, 1, 2, palette=palette)


def copy_saved_anew(folder: Path) -> None:
    as_png(folder / "JPEGImages/train_0.jpg")
    copy_example(folder, "train_0", "val_3")


def without_discs(folder: Path) -> None:
    for mask in (folder / "SegmentationClass").glob("val_*"):
        save_mask(mask, 0, 2)


def fill_masks(folder: Path, value: int) -> None:
    for mask in (folder / "SegmentationClass").glob("train_*"):
        save_mask(mask, value)


def turn_with_mask(folder: Path) -> None:
    turn(folder / IMAGE, 6)
    Image.new("P", SIZE, 1).save(folder / MASK)


def take_off_the_list(folder: Path, remove: Path) -> None:
    replace_in(folder / VAL_LIST, f"{IMAGE.stem}\n", "")
    (folder / remove).unlink()


EMPTY_CLASSES = {"absent_class": [str(TRAIN_LIST)] * 2}

# How the folder is damaged, and the files of each kind that are found.
ERRORS: dict[str, tuple[Damage, dict[str, list[str]]]] = {
    "image truncated": (lambda f: cut(f / IMAGE, 0.5), {"unreadable": [str(IMAGE)]}),
    "image of zero bytes": (lambda f: cut(f / IMAGE, 0), {"unreadable": [str(IMAGE)]}),
    "image is text": (lambda f: (f / IMAGE).write_text("404"), {"unreadable": [str(IMAGE)]}),
    "image is gone": (lambda f: (f / IMAGE).unlink(), {"missing": [str(IMAGE)]}),
    "image is a folder": (lambda f: into_folder(f / IMAGE), {"missing": [str(IMAGE)]}),
    "mask is .bmp": (
        lambda f: (f / MASK).rename(f / MASK.with_suffix(".bmp")),
        {"missing": [str(MASK)], "unused_file": [str(MASK.with_suffix(".bmp"))]},
    ),
    "image of floats": (lambda f: convert(f / IMAGE, "F"), {"unreadable": [str(IMAGE)]}),
    "mask truncated": (lambda f: cut(f / MASK, 0.5), {"unreadable": [str(MASK)]}),
    "mask of zero bytes": (lambda f: cut(f / MASK, 0), {"unreadable": [str(MASK)]}),
    "mask is gone": (lambda f: (f / MASK).unlink(), {"missing": [str(MASK)]}),
    "mask is a folder": (lambda f: into_folder(f / MASK), {"missing": [str(MASK)]}),
    "mask of grey and alpha": (lambda f: convert(f / MASK, "LA"), {"mask_values": [str(MASK)]}),
    "mask of CMYK": (lambda f: convert(f / MASK, "CMYK"), {"mask_values": [str(MASK)]}),
    "mask of other colours": (
        lambda f: save_colours(f / MASK, "RGB", [[0, 0, 0], [255, 0, 0]]),
        {"mask_values": [str(MASK)]},
    ),
    "mask of other colours and alpha": (
        lambda f: save_colours(f / MASK, "RGBA", [[0, 0, 0], [1, 2, 3]]),
        {"mask_values": [str(MASK)]},
    ),
    "mask of another size": (
        lambda f: Image.new("P", (10, 20)).save(f / MASK),
        {"other_size": [str(MASK)], "only_class_0": [str(MASK)]},
    ),
    "image turned, mask not": (
        lambda f: turn(f / IMAGE, 6),
        {"converted": [str(IMAGE)], "other_size": [str(MASK)]},
    ),
    "mask of greys": (lambda f: save_mask(f / MASK, 0, 77, 78), {"mask_values": [str(MASK)]}),
    "palette mask of other values": (
        lambda f: save_mask(f / MASK, 0, 3, palette=voc_palette()),
        {"mask_values": [str(MASK)]},
    ),
    "16-bit mask of other values": (
        lambda f: save_mask(f / MASK, 1, 257, dtype=np.uint16),
        {"mask_values": [str(MASK)]},
    ),
    "32-bit mask of huge values": (
        lambda f: save_mask(f / MASK, 2**31 - 1, dtype=np.int32),
        {"mask_values": [str(MASK)]},
    ),
    "all of a list is 0 and 255": (
        all_binary,
        {
            "ignored_mask": [f"SegmentationClass/train_{number}.png" for number in range(6)],
            "nothing_to_learn": [str(TRAIN_LIST)],
            **EMPTY_CLASSES,
        },
    ),
    "all of a list is 255": (
        lambda f: fill_masks(f, 255),
        {
            "ignored_mask": [f"SegmentationClass/train_{number}.png" for number in range(6)],
            "nothing_to_learn": [str(TRAIN_LIST)],
        },
    ),
    "a name twice": (lambda f: add_name(f / VAL_LIST, "val_0"), {"faulty_list": [str(VAL_LIST)]}),
    "a name with its suffix": (
        lambda f: replace_in(f / VAL_LIST, "val_1", "val_1.jpg"),
        {
            "missing": ["JPEGImages/val_1.jpg.jpg", "SegmentationClass/val_1.jpg.png"],
            "unused_file": [str(IMAGE)],
        },
    ),
    "a name that no file can have": (
        lambda f: replace_in(f / VAL_LIST, "val_1", "x" * 300),
        {
            "missing": [f"JPEGImages/{'x' * 300}.jpg", f"SegmentationClass/{'x' * 300}.png"],
            "unused_file": [str(IMAGE)],
        },
    ),
}
# These spoil the scores of a training that runs.
LEAKS: dict[str, tuple[Damage, dict[str, list[str]]]] = {
    "all of a list is background": (
        lambda f: fill_masks(f, 0),
        {
            "only_class_0": [f"SegmentationClass/train_{number}.png" for number in range(6)],
            "nothing_to_learn": [str(TRAIN_LIST)],
            **EMPTY_CLASSES,
        },
    ),
    "a name on both lists": (
        lambda f: add_name(f / VAL_LIST, "train_0"),
        {"leak": [str(VAL_LIST)]},
    ),
    "an image on both lists": (
        lambda f: copy_example(f, "train_0", "val_3"),
        {"leak": ["JPEGImages/val_3.jpg"]},
    ),
    "an image on both lists, saved anew": (
        copy_saved_anew,
        {
            "leak": ["JPEGImages/val_3.jpg"],
            "stray_file": ["JPEGImages/train_0.png"],
        },
    ),
}
HARMLESS: dict[str, tuple[Damage, dict[str, list[str]]]] = {
    "nothing": (lambda _: None, {}),
    "image is .JPG": (lambda f: (f / IMAGE).rename(f / IMAGE.with_suffix(".JPG")), {}),
    "an image twice on a list": (
        lambda f: copy_example(f, "val_0", "val_3"),
        {"repeated_image": ["JPEGImages/val_3.jpg"]},
    ),
    "one mask is 0 and 255": (lambda f: save_mask(f / MASK, 0, 255), {"ignored_mask": [str(MASK)]}),
    "a mask is all 255": (lambda f: save_mask(f / MASK, 255), {"ignored_mask": [str(MASK)]}),
    "a mask is all 0": (lambda f: save_mask(f / MASK, 0), {"only_class_0": [str(MASK)]}),
    "a mask's palette is renumbered": (
        lambda f: renumber(f / MASK),
        {"palette_order": [str(MASK)]},
    ),
    "two masks swap the colours of their own palette": (
        swap_colours,
        {"palette_order": [str(MASK)]},
    ),
    "a mask has a palette of its own": (
        lambda f: save_mask(f / MASK, 0, 2, palette=np.arange(768, dtype=np.uint8).reshape(256, 3) + 1),
        {},
    ),
    "a mask has 16 bits": (lambda f: save_mask(f / MASK, 0, 2, 255, dtype=np.uint16), {}),
    "a mask has one bit": (lambda f: convert(f / MASK, "1"), {}),
    "a mask of the palette's colours": (
        lambda f: save_colours(f / MASK, "RGB", voc_palette()[[0, 1, 2, 255]].tolist()),
        {"converted": [str(MASK)]},
    ),
    "a mask of the palette's colours and alpha": (
        lambda f: save_colours(f / MASK, "RGBA", voc_palette()[[0, 2]].tolist()),
        {"converted": [str(MASK)]},
    ),
    "a class is absent": (
        without_discs,
        {"absent_class": [str(VAL_LIST)]},
    ),
    "an image turned, the mask upright": (
        turn_with_mask,
        {"converted": [str(IMAGE)]},
    ),
    "an image of CMYK": (lambda f: convert(f / IMAGE, "CMYK"), {}),
    "12 bits in 16": (lambda f: deepen(f / IMAGE), {"few_levels": [str(IMAGE)]}),
    "a transparent image": (lambda f: convert(f / IMAGE, "RGBA"), {"converted": [str(IMAGE)]}),
    "a grey image": (lambda f: convert(f / IMAGE, "L"), {}),
    "an image of two formats": (
        lambda f: as_png(f / IMAGE),
        {"stray_file": [str(IMAGE.with_suffix(".png"))]},
    ),
    "a mask of two formats": (
        lambda f: shutil.copy(f / MASK, f / MASK.with_suffix(".tif")),
        {"stray_file": [str(MASK.with_suffix(".tif"))]},
    ),
    "a name off the list": (
        lambda f: replace_in(f / VAL_LIST, "val_1\n", ""),
        {"unused_file": [str(IMAGE)]},
    ),
    "a name off the list and its mask gone": (
        lambda f: take_off_the_list(f, remove=MASK),
        {"unused_file": [str(IMAGE)]},
    ),
    "a name off the list and its image gone": (
        lambda f: take_off_the_list(f, remove=IMAGE),
        {"stray_file": [str(MASK)]},
    ),
    "notes among the images": (
        lambda f: (f / "JPEGImages/notes.txt").write_text("by me"),
        {"unused_file": ["JPEGImages/notes.txt"]},
    ),
}
