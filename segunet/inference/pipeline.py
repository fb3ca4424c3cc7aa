"""Predict images and videos while threads read the next ones and write the results."""

import errno
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segunet.base.ahead import draw_ahead, map_ahead
from segunet.base.errors import UserError, counted
from segunet.base.files import check_within, save_png, whole_file, write_json
from segunet.images.drawing import ImageArray, frame_legend, overlay, overlay_with_legend, palette_image, stack
from segunet.images.levels import channels_of
from segunet.images.outputs import GEOJSON, GEOTIFF, MASK, PROBABILITIES, Wanted, results_of
from segunet.images.polygons import geojson, regions_of
from segunet.images.rasters import opened_raster, save_georeferenced
from segunet.images.reading import read_image, read_size
from segunet.images.resizing import resize_mask
from segunet.images.video import Frame, VideoWriter, read_frames, read_info, video_writer
from segunet.inference.predictor import Predictor

logger = logging.getLogger(__name__)
Mask = NDArray[np.uint8]
_THREADS, _WAITING = 2, 2  # for reading, and the same for writing; waiting images are held in memory
_LARGE = 20_000_000  # pixels; larger images are read and written one at a time
_SHOWN_SIDE = 4096  # of the overlay of a large raster, in pixels
_MAX_JPEG_SIDE = 65_500  # pixels per side
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class Read(NamedTuple):
    """An image uint8 (H, W, 3); of a raster, which is predicted from its file, what is shown: (h, w, 3)."""

    path: Path
    image: ImageArray


class Prediction(NamedTuple):
    """What is shown of an image, its classes uint8 (H, W), and perhaps their probabilities, float16 (K, H, W)."""

    path: Path
    image: ImageArray
    mask: Mask
    probabilities: NDArray[np.float16] | None

    def is_large(self) -> bool:
        """Return whether others are not to be held in memory beside it."""
        return max(self.image.size, 3 * self.mask.size) > 3 * _LARGE


class Clock:
    """Measure elapsed time, and the share spent in the network."""

    def __init__(self) -> None:
        self.began, self.busy = time.monotonic(), 0.0

    @contextmanager
    def network(self) -> Iterator[None]:
        """Count the time spent inside."""
        began = time.monotonic()
        yield
        self.busy += time.monotonic() - began

    def log(self, done: int, kind: str, head: str = "") -> None:
        """Log the number ``done`` of a ``kind`` ("image" or "frame") and the speed."""
        seconds = time.monotonic() - self.began
        speed = f"{done / seconds:.3g} {kind}s/s; {100 * self.busy / seconds:.0f} % of it in the network"
        logger.info("%s%s in %.1f s (%s)", head, counted(done, kind), seconds, speed)


class Work:
    """Predict while threads read the next inputs and write the results.

    An input that fails is reported and the others continue; a full disk ends the command.

    Attributes: ``failed``, the paths of the inputs that failed.

    Args:
        model: the predictor.
        names: output name by input path.
        wanted: what is written, and where.
        advance: called with the progress made, 1 per input.
        probabilities: write each image's probabilities too.
        frame_masks: write the mask of each frame of a video too.
        outlines: write each image's polygons too, simplified by this tolerance in pixels; None for none.
    """

    def __init__(
        self,
        model: Predictor,
        names: Mapping[Path, str],
        wanted: Wanted,
        advance: Callable[[float], object],
        probabilities: bool = False,
        frame_masks: bool = False,
        outlines: float | None = None,
    ) -> None:
        self.model, self.names, self.output, self.advance = model, names, wanted.output, advance
        self.georeferenced = wanted.georeferenced
        self.probabilities, self.frame_masks, self.outlines = probabilities, frame_masks, outlines
        if outlines is not None and self.georeferenced:
            logger.warning("polygons are in pixels, also of georeferenced images such as %s", min(self.georeferenced))
        self.failed: list[Path] = []

    def predict_images(self, paths: Iterable[Path]) -> None:
        """Write masks/<name>.png, overlays/<name>.jpg and what else is wanted for each image."""
        clock = Clock()
        with closing(map_ahead(self._read, paths, _THREADS, _WAITING, alone=self._is_large)) as read:
            predictions = filter(None, map(partial(self._predict, clock), filter(None, read)))
            saved = map_ahead(self._save, predictions, _THREADS, _WAITING, Prediction.is_large)
            if done := sum(saved):
                clock.log(done, "image")

    def predict_video(self, path: Path) -> None:
        """Write overlays/<name>.mp4: each frame overlaid with its prediction, above a legend of its classes.

        And, if wanted, frame_masks/<name>/<frame>.png.
        """
        clock, done = Clock(), 0
        try:
            if self.model.bands is not None:
                raise UserError(
                    f"{path}: the network is for rasters of {counted(self.model.bands, 'band')}, no videos."
                )
            check_within(self.output, [*results_of(path, self.names[path]), f"frame_masks/{self.names[path]}"])
            info = read_info(path)
            with (
                whole_file(self.output / "overlays" / f"{self.names[path]}.mp4") as file,
                closing(read_frames(path)) as frames,
                closing(draw_ahead(frames, _WAITING)) as read,
                video_writer(file, info.rate) as writer,
                closing(map_ahead(self._drawing(path, writer), self._masked(clock, read), 1, _WAITING)) as written,
            ):
                for _ in written:
                    done += 1
                    self.advance(1 / info.frames if info.frames else 0)
        except UserError as error:
            self._note(path, error)
        else:
            clock.log(done, "frame", f"{path}: ")

    def _read(self, path: Path) -> Read | None:
        try:
            if self.model.bands is None:
                return Read(path, read_image(path, self.model.image_range))
            with opened_raster(path, self.model.bands, self.model.image_range) as raster:
                return Read(path, raster.shown(_SHOWN_SIDE, self.model.colours.channels))
        except UserError as error:
            self._note(path, error)
            return None

    def _is_large(self, path: Path) -> bool:
        bands = self.model.bands
        try:
            return math.prod(read_size(path, bands)) * channels_of(bands) > 3 * _LARGE
        except UserError:
            return False  # reported when it is read

    def _predict(self, clock: Clock, read: Read) -> Prediction | None:
        path, image = read
        source = image if self.model.bands is None else path
        try:
            with clock.network():
                if not self.probabilities:
                    return Prediction(path, image, self.model.predict(source, self.advance), None)
                mask, probabilities = self.model.predict_with_scores(source, self.advance)
                return Prediction(path, image, mask, probabilities.astype(np.float16))
        except UserError as error:
            self._note(path, error)
            return None

    def _save(self, prediction: Prediction) -> bool:
        path, image, mask, probabilities = prediction
        name, colours = self.names[path], self.model.colours
        try:
            check_within(self.output, results_of(path, name))
            with whole_file(self.output / MASK.format(name)) as file:
                palette_image(mask, colours.palette).save(file, format="PNG")
            if path in self.georeferenced:
                with whole_file(self.output / GEOTIFF.format(name)) as file:
                    save_georeferenced(mask, colours, path, file)
            if probabilities is not None:
                with whole_file(self.output / PROBABILITIES.format(name)) as file:
                    np.savez_compressed(file, probabilities=probabilities, class_names=np.array(colours.names))
            if self.outlines is not None:
                regions = list(regions_of(mask, colours, self.outlines))
                write_json(self.output / GEOJSON.format(name), geojson(regions, colours.names), indent=None)
            height, width = image.shape[:2]
            drawn = overlay_with_legend(image, resize_mask(mask, (width, height)), colours)
            _save_overlay(drawn, self.output / "overlays" / name)
            return True
        except UserError as error:
            self._note(path, error)
            return False

    def _masked(self, clock: Clock, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Mask]]:
        for frame in frames:
            with clock.network():
                mask = self.model.predict(frame.image)
            yield frame, mask

    def _drawing(self, path: Path, writer: VideoWriter) -> Callable[[tuple[Frame, Mask]], None]:
        """Return a function that writes a frame's overlay, above a legend of its classes, and its mask if wanted."""
        colours, masks, numbers = self.model.colours, self.output / "frame_masks" / self.names[path], count()
        # Consecutive frames mostly have the same classes.
        below = lru_cache(maxsize=64)(partial(frame_legend, colours=colours))

        def draw(masked: tuple[Frame, Mask]) -> None:
            (image, seconds), mask = masked
            if self.frame_masks:
                with whole_file(masks / f"{next(numbers):06d}.png") as file:
                    palette_image(mask, colours.palette).save(file, format="PNG")
            found = tuple(np.flatnonzero(np.bincount(mask.ravel())).tolist())
            drawn = stack([overlay(image, mask, colours), below(found, width=image.shape[1])])
            writer.write(Frame(drawn, seconds))

        return draw

    def _note(self, path: Path, error: UserError) -> None:
        """Report an input that failed; raise its error if the others would fail too."""
        if getattr(error.__cause__, "errno", None) in _FULL_DISK:
            raise error
        text = error.paragraph
        logger.error(text if str(path) in text else f"{path}: {text}")
        self.failed.append(path)


def _save_overlay(image: ImageArray, target: Path) -> None:
    """Write ``target``.jpg, or .png if it is too large for JPEG."""
    if max(image.shape) >= _MAX_JPEG_SIDE:
        save_png(image, target.with_name(f"{target.name}.png"))
        return
    with whole_file(target.with_name(f"{target.name}.jpg")) as file:
        Image.fromarray(image).save(file, format="JPEG", quality=92, subsampling=0)
