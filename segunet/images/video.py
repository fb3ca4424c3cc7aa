"""Read and write videos, frame by frame, with PyAV (the extra ``video``)."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segunet.base.errors import UserError
from segunet.base.extras import import_extra

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_CODECS = ("libx264", "mpeg4")  # the first one available in PyAV is used
_TIME_BASE = Fraction(1, 10_000)
_USUAL_RATE = 25  # frames per second, if a video does not say


class VideoInfo(NamedTuple):
    """Metadata of a video.

    Attributes:
        frames: number of frames, as stated or from its duration; 0 if unknown.
        rate: frames per second, on average.
    """

    frames: int
    rate: Fraction


class Frame(NamedTuple):
    """One image of a video.

    Attributes:
        image: uint8 (H, W, 3) RGB, upright.
        time: seconds since the first frame.
    """

    image: NDArray[np.uint8]
    time: float


def read_info(path: Path) -> VideoInfo:
    """Read the metadata of a video.

    Raises:
        UserError: not a readable video.
    """
    with _opened(path) as (container, stream):
        rate = Fraction(stream.average_rate or _USUAL_RATE)
        seconds = Fraction(container.duration or 0, 1_000_000)
        return VideoInfo(stream.frames or round(seconds * rate), rate)


def read_frames(path: Path) -> Generator[Frame, None, None]:
    """Yield a video's frames in order, the first one at time 0.

    Raises:
        UserError: not a video, or damaged; raised when the damage is reached.
    """
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        rate, first = Fraction(stream.average_rate or _USUAL_RATE), None
        for number, frame in enumerate(container.decode(stream)):
            time = float(number / rate) if frame.time is None else frame.time  # a raw stream has no timestamps
            first = time if first is None else first
            image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            yield Frame(np.ascontiguousarray(image), time - first)
        if first is None:
            raise UserError(f"{path} is a video without frames. Copy it again from its source.")


class VideoWriter:
    """Encode frames of one size as MP4: H.264 if PyAV has it, else MPEG-4; no sound.

    Created by :func:`video_writer`.

    Args:
        av: the PyAV module.
        container: opened for writing.
        rate: frames per second, on average.
    """

    def __init__(self, av: Any, container: Any, rate: Fraction) -> None:
        self.av, self.container = av, container
        codec = next(name for name in _CODECS if name in av.codecs_available)
        self.stream = container.add_stream(codec, rate=rate, pix_fmt="yuv420p")
        self.stream.codec_context.time_base = _TIME_BASE
        self.last = -1

    def write(self, frame: Frame) -> None:
        """Encode the next frame.

        The last row or column is repeated if the height or width is odd, which these encoders do not support.
        """
        height, width = frame.image.shape[:2]
        even = np.pad(frame.image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self.last < 0:
            self.stream.height, self.stream.width = even.shape[:2]
        encoded = self.av.VideoFrame.from_ndarray(even, format="rgb24")
        self.last = max(round(frame.time / _TIME_BASE), self.last + 1)  # timestamps must increase
        encoded.pts, encoded.time_base = self.last, _TIME_BASE
        self.container.mux(self.stream.encode(encoded))

    def finish(self) -> None:
        """Flush the encoder."""
        self.container.mux(self.stream.encode())


@contextmanager
def video_writer(file: IO[bytes], rate: Fraction) -> Iterator[VideoWriter]:
    """Yield a :class:`VideoWriter` into ``file``.

    Raises:
        UserError: the encoder does not support the size, or the disk is full.
    """
    av = import_extra("av", "video")
    try:
        with av.open(file, "w", format="mp4") as container:
            writer = VideoWriter(av, container, rate)
            yield writer
            writer.finish()
    except av.FFmpegError as error:
        raise UserError(f"The video cannot be encoded: {error.strerror or error}. Try a smaller one.") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield a video's container and its video stream; errors name the file."""
    av = import_extra("av", "video")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video stream. Give a video.")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise UserError(
            f"{path} cannot be read as a video: {error.strerror or error}. It may be truncated or of another "
            "format: copy it again from its source."
        ) from error
