"""The kinds of findings about a data set: how serious each one is, what it is called, what to do about it."""

from pathlib import Path
from typing import Literal, NamedTuple

from segunet.data.voc import IMAGE_SUFFIXES

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


_COPY_AGAIN = "Copy them again from their source, or take their names off the list."
_ON_BOTH = "Take them off one of the lists: a score on pictures that were learnt says nothing."
_SUFFIXES = ", ".join(suffix for suffix in IMAGE_SUFFIXES if suffix.islower())

# The most serious first, as they are reported.
KINDS = {
    "missing_picture": Kind(
        "error", "names without their picture", f"Put it there as one of {_SUFFIXES}, or fix the list."
    ),
    "missing_mask": Kind(
        "error", "names without their mask", "Put it there as .png (small letters), or mend the list."
    ),
    "unreadable_picture": Kind("error", "pictures that cannot be read", _COPY_AGAIN),
    "unreadable_mask": Kind("error", "masks that cannot be read", _COPY_AGAIN),
    "mask_mode": Kind("error", "masks that hold no indices", "Save them as index PNGs: the class index per pixel."),
    "mask_colours": Kind(
        "error",
        "RGB masks that cannot be read by the palette",
        "Save them as index PNGs, or give each class its colour as data.palette; JPEG and resizing blur colours.",
    ),
    "other_size": Kind(
        "error",
        "masks of another size than their picture",
        "Make them again at the size of the upright picture, without interpolation.",
    ),
    "values": Kind(
        "error",
        "masks with values outside the classes",
        "Write class indices into them (255 or greys for an object are none), or list more data.class_names.",
    ),
    "binary_list": Kind(
        "error",
        "lists whose masks hold only 0 and the ignore index, or that alone",
        "Nothing can be learnt from them: write the object's class index (1, 2, ...) where they hold the ignore index.",
    ),
    "one_class": Kind(
        "error",
        "training lists whose masks hold one class alone",
        "There is nothing to tell it from: are these the right masks, and did the other indices get lost?",
    ),
    "repeated_name": Kind("error", "names that are on a list more than once", "Keep one line of each."),
    "name_on_both_lists": Kind("error", "names on both lists", _ON_BOTH),
    "same_picture_on_both_lists": Kind("error", "pictures that are on the other list by another name", _ON_BOTH),
    "short_list": Kind("error", "lists shorter than a batch", "Lower data.batch_size, or add examples."),
    "same_picture_on_list": Kind(
        "warning", "pictures that are on their list by another name too", "Keep one of them, if that was not meant."
    ),
    "binary_mask": Kind(
        "warning",
        "masks that hold only 0 and the ignore index",
        "If an object was meant, write its class index (1, 2, ...) instead of the ignore index.",
    ),
    "all_ignored": Kind("warning", "masks that are ignored as a whole", "Nothing is learnt from them: look at them."),
    "palette_order": Kind(
        "warning",
        "masks that draw a class in the colour that another class has in other masks, or in data.palette",
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
    "passed_over": Kind(
        "warning", "pictures passed over for another file of that name", "Remove the one that is not meant."
    ),
    "mask_without_picture": Kind("warning", "masks without a picture, on no list", "Are their pictures lost?"),
    "only_class_0": Kind("note", "masks that hold only class 0", "Fine where there is nothing else to see."),
    "colour_mask": Kind("note", "RGB masks, read by the palette", "Fine; index PNGs are smaller."),
    "transparency": Kind("note", "images with transparent pixels", "Alpha is dropped: what lies below it is seen."),
    "exif_rotation": Kind("note", "pictures turned by EXIF", "They are read upright, as their masks must be drawn."),
    "picture_without_mask": Kind("note", "pictures without a mask, on no list", "They are not used."),
    "pair_on_no_list": Kind("note", "pictures with a mask, on no list", "They are not used: put them on a list."),
    "other_file": Kind(
        "note", "files of other kinds", f"They are not read: images are {_SUFFIXES}, and masks .png in small letters."
    ),
}
