"""The curves of a training run, read from its TensorBoard files."""

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event

Points = list[tuple[float, float]]
_IMAGE = 2**14  # bytes; an event with scalars is much smaller


def read_history(folder: Path) -> dict[str, Points]:
    """Return what a run logged in ``folder`` by tag, as points (epochs done, value); empty without a validation.

    A resumed run has one file per start, and lost steps were trained again: from its first logged step on, a newer
    file replaces the older ones. Values that are not finite are dropped.
    """
    series: dict[str, dict[int, float]] = {}
    for path in _files(folder):
        newer = _scalars(path)
        first = min(newer.get("epoch", {}), default=math.inf)
        for tag, values in series.items():
            series[tag] = {step: value for step, value in values.items() if step < first}
        for tag, values in newer.items():
            series[tag] = series.get(tag, {}) | values
    validated = series.get("val/miou", series.get("val/loss", {})).keys() & series.get("epoch", {}).keys()
    if not validated:
        return {}
    # Lightning counts steps and epochs from 0. An epoch's last validation is at its last step.
    end_of = {series["epoch"][step] + 1: step + 1 for step in sorted(validated)}
    epochs, ends = list(end_of), list(end_of.values())
    points = {
        tag: [
            (_epochs_done(step + 1, ends, epochs), value)
            for step, value in sorted(values.items())
            if math.isfinite(value)
        ]
        for tag, values in series.items()
    }
    return {tag: each for tag, each in points.items() if each}


def drop_lost(folder: Path, steps: int, validated: bool) -> None:
    """Cut off what a run logged in ``folder`` after the checkpoint that it is resumed from: it does that again.

    Args:
        folder: of its TensorBoard files; links are left alone.
        steps: optimizer steps done at the checkpoint.
        validated: whether the last of them was followed by a validation, if one was due.
    """
    for path in _files(folder):
        if path.is_symlink() or not path.is_file():
            continue
        end, size = 0, path.stat().st_size
        for event, end_of_event in _located_events(path, size):
            tags = [value.tag for value in event.summary.value]
            again = not validated and event.step == steps - 1 and any(tag.startswith("val/") for tag in tags)
            if tags and (event.step >= steps or again):
                break
            end = end_of_event
        if end < size:
            with path.open("r+b") as file:
                file.truncate(end)


def _files(folder: Path) -> list[Path]:
    """Return a run's TensorBoard files, oldest first: the name continues with the start time."""
    return sorted(folder.glob("events.out.tfevents.*"))


def _epochs_done(steps_done: int, ends: Sequence[int], epochs: Sequence[float]) -> float:
    """Interpolate the epochs done at a step between the ends of validated epochs; extrapolate after the last one."""
    ends, epochs = [0, *ends], [0.0, *epochs]
    pace = (epochs[-1] - epochs[-2]) / (ends[-1] - ends[-2])
    return float(np.interp(steps_done, ends, epochs)) + max(steps_done - ends[-1], 0) * pace


def _scalars(path: Path) -> dict[str, dict[int, float]]:
    """Read one event file: value by step, by tag."""
    found: dict[str, dict[int, float]] = {}
    for event, _ in _located_events(path, _IMAGE):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def _located_events(path: Path, largest: int) -> Iterator[tuple[Event, int]]:
    """Yield the events of a file below ``largest`` bytes, each with its end in the file.

    Larger ones are skipped unread. The file is a TFRecord: length, its checksum, the event, its checksum; the checksums
    are not compared. It ends at a record that a killed process left incomplete.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            end = file.tell() + length + 4
            if end > size:
                return
            if length < largest:
                try:
                    yield Event.FromString(file.read(length)), end
                except DecodeError:
                    return
            file.seek(end)
