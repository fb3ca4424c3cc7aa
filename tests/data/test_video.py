"""Videos are read frame by frame, upright, and written whole."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from segunet.data.video import Frame, read_frames, read_info, write_video
from segunet.errors import UserError

av = pytest.importorskip("av", reason="needs the extra segunet[video]")


def frames(count: int, height: int = 48, width: int = 64) -> Iterator[Frame]:
    """Plain frames that get brighter."""
    for number in range(count):
        yield Frame(np.full((height, width, 3), 10 * number, dtype=np.uint8), number / 10)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    with path.open("wb") as file:
        write_video(file, frames(20), Fraction(10))
    return path


def test_what_is_written_is_read_again(video: Path) -> None:
    read = list(read_frames(video))
    assert read_info(video).frames == len(read) == 20
    assert read_info(video).rate == 10
    for number, (image, time) in enumerate(read):
        assert image.shape == (48, 64, 3)
        assert abs(image.mean() - 10 * number) < 4  # lossy
        assert time == pytest.approx(number / 10, abs=1e-3)


def test_odd_sizes_gain_a_row_and_a_column(tmp_path: Path) -> None:
    with (tmp_path / "odd.mp4").open("wb") as file:
        write_video(file, frames(3, 33, 45), Fraction(10))
    assert next(read_frames(tmp_path / "odd.mp4")).image.shape == (34, 46, 3)


def test_frames_at_uneven_times_keep_them(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.5, 2.0]  # one of them twice, as cameras do
    with (tmp_path / "uneven.mp4").open("wb") as file:
        write_video(file, (Frame(frame.image, time) for frame, time in zip(frames(5), times, strict=True)), Fraction(5))
    assert [frame.time for frame in read_frames(tmp_path / "uneven.mp4")] == pytest.approx(times, abs=2e-3)


def test_a_video_that_was_filmed_upright_is_turned(video: Path, tmp_path: Path) -> None:
    # The nine numbers of MP4's transformation matrix; the last ones in the file are the track's.
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # a quarter turn clockwise
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:24] = 255  # the upper half is bright
    with video.open("wb") as file:
        write_video(file, [Frame(picture, 0.0)], Fraction(10))
    head, tail = video.read_bytes().rsplit(upright, 1)
    (tmp_path / "turned.mp4").write_bytes(head + turned + tail)
    image = next(read_frames(tmp_path / "turned.mp4")).image
    assert image.shape == (64, 48, 3)
    assert image[:, 28:].mean() > 250  # now the right half is
    assert image[:, :20].mean() < 5


def test_files_that_are_no_videos_are_named(video: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:300])
    for path in (text, cut, tmp_path / "missing.mp4"):
        with pytest.raises(UserError, match=path.name):
            list(read_frames(path))


def test_a_size_that_the_encoder_does_not_take_is_said(tmp_path: Path) -> None:
    with (tmp_path / "tall.mp4").open("wb") as file, pytest.raises(UserError, match="cannot be encoded"):
        write_video(file, frames(1, 17_000, 64), Fraction(10))
