"""The kinds of findings about a data set: severity, title and advice."""

from pathlib import Path
from typing import Literal, NamedTuple

from segunet.data.voc import MASK_SUFFIXES
from segunet.images.integrity import IMAGE_SUFFIXES

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """A kind of finding: an error stops training or invalidates its scores, a warning is worth a look."""

    severity: Severity
    title: str
    advice: str


class Finding(NamedTuple):
    """A finding about one file; ``file`` and ``detail`` form a sentence.

    Attributes:
        kind: a key of ``KINDS``.
        file: the file.
        detail: what was found.
        split: "train" or "val", the list that names it; None if neither does.
    """

    kind: str
    file: Path
    detail: str
    split: str | None


_SUFFIXES, _MASK_SUFFIXES = (
    ", ".join(suffix for suffix in suffixes if suffix.islower()) for suffixes in (IMAGE_SUFFIXES, MASK_SUFFIXES)
)

# In the order of the report, most serious first.
KINDS = {
    "missing": Kind(
        "error",
        "names without their image, mask or object map",
        f"Put the image there as one of {_SUFFIXES}, mask and object map as one of {_MASK_SUFFIXES}, or fix the list.",
    ),
    "unreadable": Kind(
        "error",
        "images and masks that cannot be read",
        "Copy them again or save them in a supported format, set data.bands if they are rasters, or remove their names "
        "from the list.",
    ),
    "mask_values": Kind(
        "error",
        "masks with values or colours that are not classes",
        "Save the class index per pixel (not 255 or grey levels for an object), or give the class of each value as "
        "data.mask_values (without class names, check_data proposes them); or list more data.class_names, or each "
        "class's own colour as data.palette. JPEG and resizing blur colours.",
    ),
    "object_map": Kind(
        "error",
        "object maps that cannot be used",
        "Save masks of the image's size: the number of each pixel's object, 1, 2, ..., 0 for background.",
    ),
    "other_size": Kind(
        "error",
        "masks of another size than their image",
        "Create them again at the size of the upright image, without interpolation.",
    ),
    "nothing_to_learn": Kind(
        "error",
        "lists whose masks give nothing to learn",
        "Are these the right masks? Give each object's class as data.mask_values, such as {0: 0, 255: 1}, or write its "
        "index (1, 2, ...) into them.",
    ),
    "faulty_list": Kind(
        "error",
        "lists with repeated names, or shorter than a batch",
        "Keep one line per name, or lower data.batch_size.",
    ),
    "leak": Kind(
        "error",
        "images on both lists",
        "Remove them from one of the lists: scores on training images are too high.",
    ),
    "repeated_image": Kind(
        "warning", "images on their list twice, by different names", "Keep one of them, unless this is intended."
    ),
    "ignored_mask": Kind(
        "warning",
        "masks that hold only the ignore index, or only it and 0",
        "If an object was meant, give its class as data.mask_values, such as {0: 0, 255: 1}.",
    ),
    "palette_order": Kind(
        "warning",
        "masks that draw a class in the colour of another",
        "A program may have renumbered their indices: check overlays.png, and save them with the correct indices.",
    ),
    "few_levels": Kind(
        "warning",
        "images of more than 8 bits that lose nearly all of their levels",
        "Set which values are black and white, such as data.image_range=[0,4095] for 12 bits.",
    ),
    "absent_class": Kind(
        "warning", "classes without pixels", "They cannot be learned or scored: add examples, or remove the class."
    ),
    "stray_file": Kind(
        "warning",
        "images and masks hidden by another of the same name, and masks without an image",
        "Remove the wrong file, or restore the missing image.",
    ),
    "only_class_0": Kind("note", "masks that hold only class 0", "Fine if nothing else is in the image."),
    "converted": Kind(
        "note",
        "images rotated by EXIF or with alpha, and RGB masks",
        "Images are read upright, as masks must be, and without alpha; RGB masks are read by the palette.",
    ),
    "unused_file": Kind(
        "note",
        "files that are not on a list",
        f"They are not used. Images are {_SUFFIXES}, masks {_MASK_SUFFIXES}, and their names are on a list.",
    ),
}
