"""Read and write videos, frame by frame, with PyAV (the extra ``video``)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segunet.errors import UserError
from segunet.extras import import_extra

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_CODECS = ("libx264", "mpeg4")  # the first one that PyAV was built with
_TIME_BASE = Fraction(1, 10_000)


class VideoInfo(NamedTuple):
    """What a video's head says.

    Attributes:
        frames: how many, by its own word or by its length; 0 if unknown.
        rate: frames a second, on average.
    """

    frames: int
    rate: Fraction


class Frame(NamedTuple):
    """One picture of a video.

    Attributes:
        image: uint8 (H, W, 3) RGB, upright.
        time: in seconds.
    """

    image: NDArray[np.uint8]
    time: float


def read_info(path: Path) -> VideoInfo:
    """Read the head of a video.

    Raises:
        UserError: no readable video.
    """
    with _opened(path) as (container, stream):
        rate = Fraction(stream.average_rate or 25)
        seconds = Fraction(container.duration or 0, 1_000_000)
        return VideoInfo(stream.frames or round(seconds * rate), rate)


def read_frames(path: Path) -> Iterator[Frame]:
    """Yield a video's frames in order.

    Raises:
        UserError: no video, or a damaged one; raised where the damage is met.
    """
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        frame = None
        for frame in container.decode(stream):
            image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            yield Frame(np.ascontiguousarray(image), float(frame.time or 0))
        if frame is None:
            raise UserError(f"{path} is a video without a frame. Copy it again from its source.")


def write_video(file: IO[bytes], frames: Iterable[Frame], rate: Fraction) -> None:
    """Encode frames, all of one size, into ``file`` as MP4: H.264 where PyAV has it, else MPEG-4; no sound.

    The last row and column are repeated where a height or width is odd, which these encoders do not take.

    Raises:
        UserError: they do not take the size, or the disk is full.
    """
    av = import_extra("av", "video")
    try:
        _encode(av, file, frames, rate)
    except av.FFmpegError as error:
        raise UserError(f"The video cannot be encoded: {error.strerror or error}. A smaller one may be.") from error


def _encode(av: Any, file: IO[bytes], frames: Iterable[Frame], rate: Fraction) -> None:
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(next(name for name in _CODECS if name in av.codecs_available), rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        last = -1
        for image, time in frames:
            even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
            if last < 0:
                stream.height, stream.width = even.shape[:2]
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            last = max(round(time / _TIME_BASE), last + 1)  # times must rise
            frame.pts, frame.time_base = last, _TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Give a video's container and its stream of pictures; whatever is wrong with them names the file."""
    av = import_extra("av", "video")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no pictures in it. Give a video.")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise UserError(
            f"{path} cannot be read as a video: {error.strerror or error}. It may be truncated or of another "
            "format: copy it again from its source."
        ) from error
