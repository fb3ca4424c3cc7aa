"""What the page shows of a network: what it finds in an image."""

import io
import threading
from base64 import b64encode
from collections.abc import Mapping
from functools import partial
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

_PLAIN = "none"  # without test-time augmentation
_MAX_PIXELS, _MAX_SIDE = 50_000_000, 16_384  # of an image that browsers draw


class Subject:
    """A network on the page; it predicts one image at a time.

    Args:
        checkpoint: the network.
        name: its name.
        settings: those of its :class:`Predictor`, but for ``tta``.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, settings: Mapping[str, Any]) -> None:
        self._new_model = partial(Predictor, checkpoint, **settings)
        self._models = {_PLAIN: self._new_model(tta=_PLAIN)}
        self.model, self.name, self.colours = self._models[_PLAIN], name, checkpoint.colours
        self.never_mirrored, self.gives_masks = checkpoint.data.flip is False, gives_masks(checkpoint.net)
        self._one_at_a_time = threading.Lock()
        self._finished = False

    def finish(self) -> None:
        """Wait for the prediction that is under way; none begins afterwards."""
        self._finished = True
        self._one_at_a_time.acquire()

    def predict(self, content: bytes, name: str, tta: str) -> dict[str, Any]:
        """Return what the network finds in an image, in plain values.

        Args:
            content: the image's file.
            name: its name.
            tta: test-time augmentation, as in :func:`segunet.load`.

        Raises:
            UserError: not a readable image, one that is too large, out of memory, or another ``tta``.
        """
        with TemporaryDirectory(prefix="segunet-demo-") as folder, self._one_at_a_time:
            path = Path(folder) / "image"
            path.write_bytes(content)
            try:
                return self._found(path, tta)
            except UserError as error:
                raise UserError(str(error).replace(str(path), name or "the image")) from error

    def _found(self, path: Path, tta: str) -> dict[str, Any]:
        if self._finished:
            raise UserError("The program ends.")
        height, width = read_size(path)
        if height * width > _MAX_PIXELS or max(height, width) > _MAX_SIDE:
            raise UserError(
                f"{path} has {width} x {height} pixels, too many for this page. Use python -m segunet.predict."
            )
        if tta not in self._models:
            self._models[tta] = self._new_model(tta=tta)
        image = read_image(path, self.model.image_range)
        mask = self._models[tta].predict(image)
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
