"""What the page shows of a network: what it finds in an image."""

import io
import threading
from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segunet.base.errors import UserError
from segunet.formats.interface import gives_masks
from segunet.images.drawing import palette_image
from segunet.images.reading import read_image, read_size
from segunet.inference.checkpoint import Checkpoint
from segunet.inference.predictor import Predictor

_MAX_PIXELS, _MAX_SIDE = 50_000_000, 16_384  # of an image that browsers draw


class Subject:
    """A network on the page; it predicts one image at a time.

    Args:
        model: the network.
        checkpoint: where it comes from.
        name: its name.
    """

    def __init__(self, model: Predictor, checkpoint: Checkpoint, name: str) -> None:
        self.model, self.name, self.colours = model, name, checkpoint.colours
        self.never_mirrored, self.gives_masks = checkpoint.data.flip is False, gives_masks(checkpoint.net)
        self._one_at_a_time = threading.Lock()
        self._finished = False

    def finish(self) -> None:
        """Wait for the prediction that is under way; none begins afterwards."""
        self._finished = True
        self._one_at_a_time.acquire()

    def predict(self, content: bytes, name: str, tta: bool) -> dict[str, Any]:
        """Return what the network finds in an image, in plain values.

        Args:
            content: the image's file.
            name: its name.
            tta: whether to average the predictions of the image and its mirror image.

        Raises:
            UserError: not a readable image, one that is too large, or out of memory.
        """
        with TemporaryDirectory(prefix="segunet-demo-") as folder, self._one_at_a_time:
            path = Path(folder) / "image"
            path.write_bytes(content)
            try:
                return self._found(path, tta)
            except UserError as error:
                raise UserError(str(error).replace(str(path), name or "the image")) from error

    def _found(self, path: Path, tta: bool) -> dict[str, Any]:
        if self._finished:
            raise UserError("The program ends.")
        height, width = read_size(path)
        if height * width > _MAX_PIXELS or max(height, width) > _MAX_SIDE:
            raise UserError(
                f"{path} has {width} x {height} pixels, too many for this page. Use python -m segunet.predict."
            )
        if tta and self.gives_masks:
            raise UserError("This network was exported with argmax=true, and masks cannot be averaged.")
        self.model.tta = "flip" if tta else "none"
        image = read_image(path, self.model.image_range)
        mask = self.model.predict(image)
        return {
            "image": _as_url(Image.fromarray(image), "jpeg"),
            "painted": _as_url(self._painted(mask), "png"),
            "mask": _as_url(palette_image(mask, self.colours.palette), "png"),
            "classes": self._classes(mask),
        }

    def _painted(self, mask: NDArray[np.uint8]) -> Image.Image:
        """Return the classes' colours, transparent where nothing is painted."""
        rgba = np.column_stack([self.colours.drawn, self.colours.painted * np.uint8(255)])  # (256, 4)
        return Image.fromarray(rgba[mask])

    def _classes(self, mask: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Return the classes that are found, the largest first."""
        counts, colours = np.bincount(mask.ravel(), minlength=256), self.colours
        found = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        return [
            {
                "name": colours.labels.get(index, str(index)),
                "share": counts[index] / mask.size,
                "colour": "#{:02x}{:02x}{:02x}".format(*colours.drawn[index]) if colours.painted[index] else None,
            }
            for index in found
        ]


def _as_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=92)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
