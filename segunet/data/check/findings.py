"""The kinds of findings about a data set: how serious each one is, what it is called, what to do about it."""

from pathlib import Path
from typing import Literal, NamedTuple

from segunet.images.integrity import IMAGE_SUFFIXES

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """A kind of finding: an error stops a training or spoils its scores, a warning is worth a look."""

    severity: Severity
    title: str
    advice: str


class Finding(NamedTuple):
    """One file and what was found of it; ``file`` and ``detail`` make a sentence.

    Attributes:
        kind: a key of ``KINDS``.
        file: the file.
        detail: what is so.
        split: "train" or "val", the list that names it; None if neither does.
    """

    kind: str
    file: Path
    detail: str
    split: str | None


_SUFFIXES = ", ".join(suffix for suffix in IMAGE_SUFFIXES if suffix.islower())

# The most serious first, as they are reported.
KINDS = {
    "missing": Kind(
        "error",
        "names without their image or mask",
        f"Put the image there as one of {_SUFFIXES}, the mask as .png in small letters, or fix the list.",
    ),
    "unreadable": Kind(
        "error",
        "images and masks that cannot be read",
        "Copy or save them again, as what is wanted here, or take their names off the list.",
    ),
    "mask_values": Kind(
        "error",
        "masks with values or colours that are no classes",
        "Save index PNGs, the class index per pixel (255 or greys for an object are none); or list more "
        "data.class_names, or each class's own colour as data.palette. JPEG and resizing blur colours.",
    ),
    "other_size": Kind(
        "error",
        "masks of another size than their image",
        "Make them again at the size of the upright image, without interpolation.",
    ),
    "nothing_to_learn": Kind(
        "error",
        "lists whose masks hold nothing to be told apart",
        "Are these the right masks? Write each object's class index (1, 2, ...) into them, also where they hold the "
        "ignore index.",
    ),
    "faulty_list": Kind(
        "error",
        "lists with repeated names, or shorter than a batch",
        "Keep one line of each, or lower data.batch_size.",
    ),
    "leak": Kind(
        "error",
        "images on both lists",
        "Take them off one of the lists: scores on images that were trained on are too high.",
    ),
    "repeated_image": Kind(
        "warning", "images that are on their list by another name too", "Keep one of them, if that was not meant."
    ),
    "ignored_mask": Kind(
        "warning",
        "masks that hold only the ignore index, or only 0 and it",
        "If an object was meant, write its class index (1, 2, ...) instead of the ignore index.",
    ),
    "palette_order": Kind(
        "warning",
        "masks that draw a class in another one's colour",
        "A program may have renumbered their indices: look at overlays.png, and save them with their true indices.",
    ),
    "few_levels": Kind(
        "warning",
        "16-bit images that lose nearly all of their levels",
        "Say which values are black and white, such as data.image_range=[0,4095] for 12 bits.",
    ),
    "absent_class": Kind(
        "warning", "classes without a pixel", "They are not learnt, or not scored: add examples, or drop the class."
    ),
    "stray_file": Kind(
        "warning",
        "images passed over for another of that name, and masks without an image",
        "Remove what is not meant, or put the lost image back.",
    ),
    "only_class_0": Kind("note", "masks that hold only class 0", "Fine where there is nothing else to see."),
    "converted": Kind(
        "note",
        "images turned by EXIF or with alpha, and RGB masks",
        "Images are read upright, as their masks must be drawn, and without alpha; RGB masks by the palette.",
    ),
    "unused_file": Kind(
        "note",
        "files that no list leads to",
        f"They are not used. Images are {_SUFFIXES}, masks .png in small letters, and their names are on a list.",
    ),
}
