"""What happens around the steps of a run."""

from pathlib import Path
from typing import Any

import torch

from segunet.data.dataset import Batch
from segunet.images.palette import IGNORE_INDEX, ClassColours, voc_palette
from segunet.training.callbacks import ImageStrips


def test_a_large_image_s_strip_is_small_and_shows_all_of_it(tmp_path: Path) -> None:
    nothing: Any = None
    strips = ImageStrips(1, ClassColours(["background", "disc"], voc_palette(), IGNORE_INDEX, 0), tmp_path)
    images, masks = torch.zeros(1, 3, 2100, 30, dtype=torch.uint8), torch.zeros(1, 2100, 30, dtype=torch.uint8)
    masks[:, 1050:], images[:, :, 1050:] = 1, 200
    strips.on_test_batch_end(nothing, nothing, masks.long(), Batch(images, masks, ["large"]))
    (shown,) = strips.strips
    assert 700 < len(shown) < 800  # with a legend
    assert (shown[:349, :10] == 0).all()
    assert (shown[351:700, :10] == 200).all()
