"""What happens around the steps of a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segunet.data.dataset import Batch
from segunet.images.palette import IGNORE_INDEX, ClassColours, voc_palette
from segunet.training.callbacks import ImageStrips, StepSeed


def test_a_step_s_numbers_are_of_its_place_alone_and_no_absent_device_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(epoch: int, batch: int) -> list[float]:
        trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=0)
        torch.rand(7)  # as a loader draws
        StepSeed(5).on_train_batch_start(trainer, module, nothing, batch)
        return list(torch.rand(3).tolist())

    nothing: Any = None
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr("torch.cuda.manual_seed_all", None)  # which formats a stack trace where there is no GPU
    assert numbers(1, 2) == numbers(1, 2)
    assert len({tuple(numbers(epoch, batch)) for epoch in range(2) for batch in range(2)}) == 4
    seed = int(np.random.SeedSequence([5, 1, 2, 0]).generate_state(1, np.uint64)[0])
    assert numbers(1, 2) == torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()


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
