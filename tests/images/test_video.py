"""Videos are read frame by frame, upright, and written whole."""

import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from segunet.base.errors import UserError
from segunet.images.video import Frame, read_frames, read_info, video_writer

av = pytest.importorskip("av", reason="needs the extra segunet[video]")


def frames(count: int, height: int = 48, width: int = 64) -> Iterator[Frame]:
    """Plain frames that get brighter."""
    for number in range(count):
        yield Frame(np.full((height, width, 3), 10 * number, dtype=np.uint8), number / 10)


def write_video(path: Path, written: Iterable[Frame], rate: int = 10) -> Path:
    with path.open("wb") as file, video_writer(file, Fraction(rate)) as writer:
        for frame in written:
            writer.write(frame)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", frames(20))


def test_what_is_written_is_read_again(video: Path) -> None:
    read = list(read_frames(video))
    assert read_info(video).frames == len(read) == 20
    assert read_info(video).rate == 10
    for number, (image, time) in enumerate(read):
        assert image.shape == (48, 64, 3)
        assert abs(image.mean() - 10 * number) < 4  # lossy
        assert time == pytest.approx(number / 10, abs=1e-3)


def test_odd_sizes_gain_a_row_and_a_column(tmp_path: Path) -> None:
    odd = write_video(tmp_path / "odd.mp4", frames(3, 33, 45))
    assert next(read_frames(odd)).image.shape == (34, 46, 3)


def test_frames_at_uneven_times_keep_them(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.5, 2.0]  # one of them twice, as cameras do
    timed = (Frame(frame.image, time) for frame, time in zip(frames(5), times, strict=True))
    uneven = write_video(tmp_path / "uneven.mp4", timed, rate=5)
    assert [frame.time for frame in read_frames(uneven)] == pytest.approx(times, abs=2e-3)


def write_as(path: Path, form: str, codec: str, rate: int) -> Path:
    """Write 25 frames by PyAV alone."""
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in frames(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_stream_without_times_has_those_of_its_rate(tmp_path: Path) -> None:
    bare = write_as(tmp_path / "bare.mp4", "h264", "libx264", rate=25)
    read = list(read_frames(bare))
    assert read_info(bare).rate == 25
    assert [frame.time for frame in read] == pytest.approx([number / 25 for number in range(25)])
    assert list(read_frames(write_video(tmp_path / "again.mp4", read, rate=25)))[-1].time == pytest.approx(24 / 25)


def test_a_stream_that_begins_late_is_read_from_its_first_frame_on(tmp_path: Path) -> None:
    late = write_as(tmp_path / "late.mpg", "mpeg", "mpeg2video", rate=25)
    with av.open(late) as container:
        assert next(container.decode(video=0)).time > 0.1
    times = [frame.time for frame in read_frames(late)]
    assert times[0] == 0
    assert times[-1] == pytest.approx(24 / 25, abs=0.05)


def test_a_video_that_was_filmed_upright_is_turned(video: Path, tmp_path: Path) -> None:
    # The nine numbers of MP4's transformation matrix; the last ones in the file are the track's.
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # a quarter turn clockwise
    bright = np.zeros((48, 64, 3), dtype=np.uint8)
    bright[:24] = 255  # the upper half is bright
    write_video(video, [Frame(bright, 0.0)])
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
    with pytest.raises(UserError, match="cannot be encoded"):
        write_video(tmp_path / "tall.mp4", frames(1, 17_000, 64))
