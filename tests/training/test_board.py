"""TensorBoard's files: what a resumed run does again is cut off."""

from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from segunet.training.board import drop_lost
from tests.runs import board_of, scalars


def write_events(folder: Path, steps: int, validated: tuple[int, ...]) -> Path:
    """Log a loss at every step, and scores with an image at the ``validated`` ones."""
    with SummaryWriter(str(folder)) as writer:
        for step in range(steps):
            writer.add_scalar("train/loss", step, step)
            if step in validated:
                writer.add_scalar("val/miou", step, step)
                noise = np.random.default_rng(step).integers(0, 256, (120, 120, 3), dtype=np.uint8)
                writer.add_image("image", noise, step, dataformats="HWC")
    (written,) = folder.iterdir()
    return written


@pytest.mark.parametrize(
    ("steps", "validated", "left"), [(10, True, (10, [4, 9])), (10, False, (10, [4])), (7, True, (7, [4]))]
)
def test_what_came_after_the_checkpoint_is_cut_off(
    tmp_path: Path, steps: int, validated: bool, left: tuple[int, list[int]]
) -> None:
    write_events(tmp_path, 15, (4, 9, 14))
    drop_lost(tmp_path, steps, validated)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == list(range(left[0]))
    assert [step for step, _ in scalars(tmp_path, "val/miou")] == left[1]
    assert len(board_of(tmp_path).Images("image")) == len(left[1])


@pytest.mark.parametrize("damage", [b"", bytes(500), b"\x07\0\0\0\0\0\0\0" + b"damaged" * 9])
def test_a_file_that_a_kill_cut_short_ends_where_it_is_whole(tmp_path: Path, damage: bytes) -> None:
    path = write_events(tmp_path, 15, (4, 9))
    path.write_bytes(path.read_bytes()[:-12] + damage)  # within the last step's record
    drop_lost(tmp_path, 15, validated=True)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == list(range(14))


def test_links_are_left_alone(tmp_path: Path) -> None:
    path = write_events(tmp_path / "other", 15, ())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / path.name).symlink_to(path)
    size = path.stat().st_size
    drop_lost(tmp_path / "run", 3, validated=True)
    assert path.stat().st_size == size
