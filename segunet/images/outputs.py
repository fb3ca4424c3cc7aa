"""The files that a prediction writes, by the names of ``inputs.output_names``."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segunet.base.errors import UserError
from segunet.base.files import check_within, is_file
from segunet.images.inputs import is_video

FOLDERS = ("masks", "overlays", "probabilities", "polygons", "frame_masks")  # written below the output folder
COCO = "annotations.json"  # written there, too
RESULTS = (*FOLDERS, COCO)
MASK, GEOTIFF = "masks/{}.png", "masks/{}.tif"  # of an image's name
PROBABILITIES, GEOJSON = "probabilities/{}.npz", "polygons/{}.geojson"
_OVERLAYS = ("overlays/{}.jpg", "overlays/{}.png")  # of which one is written
_VIDEO = "overlays/{}.mp4"


def results_of(path: Path, name: str) -> list[str]:
    """Return an input's possible results below the output folder, without the masks of a video's frames."""
    if is_video(path):
        return [_VIDEO.format(name)]
    return [each.format(name) for each in (MASK, GEOTIFF, *_OVERLAYS, PROBABILITIES, GEOJSON)]


def remove_earlier(names: Mapping[Path, str], output: Path) -> None:
    """Remove what an earlier command wrote for these inputs: a stopped one leaves no results of other settings."""
    with suppress(OSError, UserError):
        check_within(output, [COCO])
        (output / COCO).unlink(missing_ok=True)
    for path, name in names.items():
        with suppress(OSError, UserError):  # which is said when they are written
            check_within(output, [*results_of(path, name), f"frame_masks/{name}"])
            frames = (output / "frame_masks" / name).glob("*.png") if is_video(path) else []
            for result in (*frames, *(output / each for each in results_of(path, name))):
                result.unlink(missing_ok=True)


@dataclass(frozen=True)
class Wanted:
    """What is written for each input, and from when on it counts as done.

    Attributes:
        output: the folder.
        changed: when the checkpoint's file was changed, in seconds: older results are not its own.
        extras: what is written for an image besides mask and overlay, with {} for its name.
        georeferenced: the images whose mask is written as a GeoTIFF, too.
    """

    output: Path
    changed: float
    extras: tuple[str, ...]
    georeferenced: frozenset[Path]

    def not_done(self, names: Mapping[Path, str]) -> list[Path]:
        """Return the inputs, of output names by path, whose results are not all there, each a whole file."""
        return [path for path, name in names.items() if not self._is_done(path, name)]

    def _is_done(self, path: Path, name: str) -> bool:
        if is_video(path):  # its own file is written after the masks of its frames
            return self._is_there(_VIDEO.format(name))
        results = [MASK, *self.extras, *([GEOTIFF] if path in self.georeferenced else [])]
        overlays = [self._is_there(each.format(name)) for each in _OVERLAYS]
        return any(overlays) and all(self._is_there(each.format(name)) for each in results)

    def _is_there(self, result: str) -> bool:
        path = self.output / result
        return is_file(path) and path.stat().st_mtime >= self.changed
