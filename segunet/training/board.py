"""What a run logs to TensorBoard, Weights & Biases and MLflow, and TensorBoard's files."""

import logging
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from pytorch_lightning.loggers import WandbLogger
from tensorboard.compat.proto.event_pb2 import Event

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.validation import one_line
from segunet.images.drawing import ImageArray
from segunet.training.mlflow_logger import MLFlowLogger

logger = logging.getLogger(__name__)


class TensorBoardLogger(pl.loggers.TensorBoardLogger):
    """Lightning's, without the curve of the epoch and the copy of the config, which is in the run's folder."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but the epoch, which Lightning adds to everything."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def save(self) -> None:
        """Write what was logged."""
        super(pl.loggers.TensorBoardLogger, self).save()


def board_of(trainer: pl.Trainer) -> pl.loggers.TensorBoardLogger | None:
    """Return the trainer's TensorBoard logger, if it has one."""
    return next((each for each in trainer.loggers if isinstance(each, pl.loggers.TensorBoardLogger)), None)


def shows_images(trainer: pl.Trainer) -> bool:
    """Return whether the trainer has a logger that shows images."""
    return any(isinstance(each, pl.loggers.TensorBoardLogger | WandbLogger | MLFlowLogger) for each in trainer.loggers)


def log_images(trainer: pl.Trainer, images: Mapping[str, ImageArray]) -> None:
    """Send images uint8 (H, W, 3), by name, to all loggers that show them."""
    step = trainer.global_step - 1  # Lightning's count, which a resume keeps
    for board in trainer.loggers:
        for name, image in images.items():
            if isinstance(board, pl.loggers.TensorBoardLogger):
                board.experiment.add_image(name, image, step, dataformats="HWC")
            elif isinstance(board, WandbLogger):
                board.log_image(name, [image], step)
            elif isinstance(board, MLFlowLogger):
                board.log_image(name, image, step)


@contextmanager
def begun(trainer: pl.Trainer, resumed: bool) -> Iterator[None]:
    """Begin the runs of loggers that send what is logged, and end them with the block, as failed on an error.

    A training that is ``resumed`` goes on without an MLflow server that cannot be reached, as it cannot change its
    loggers.

    Raises:
        UserError: one cannot be begun.
    """
    boards = [each for each in trainer.loggers if isinstance(each, MLFlowLogger) and trainer.is_global_zero]
    status = "failed"
    with wandb_run(trainer):
        try:
            for board in boards:
                _begin(board, resumed)
            yield
            status = "success"
        finally:
            for board in boards:
                board.finalize(status)


def _begin(board: MLFlowLogger, resumed: bool) -> None:
    try:
        board.begin()
    except UserError as error:
        if not resumed:
            raise
        logger.warning("the run goes on without MLflow. %s", error)


@contextmanager
def wandb_run(trainer: pl.Trainer) -> Iterator[None]:
    """Begin the run of a Weights & Biases logger, if the trainer has one, and end it with the block.

    On an error it ends as failed. The next training of a sweep begins another one.

    Raises:
        UserError: it cannot be begun, for example without a login.
    """
    boards = [each for each in trainer.loggers if isinstance(each, WandbLogger)]
    if not boards or not trainer.is_global_zero:
        yield
        return
    status = 1
    errors = import_extra("wandb.errors", "wandb").Error
    try:
        for board in boards:
            board.experiment  # noqa: B018 - begins it
    except errors as error:
        raise UserError(
            f"Weights & Biases: {one_line(str(error), 300).rstrip('.')}. Or write to the run's folder alone: "
            "logger.wandb.offline=true."
        ) from error
    try:
        yield
        status = 0
    finally:
        for board in boards:
            try:
                board.experiment.finish(exit_code=status)
            except errors as error:
                logger.warning("Weights & Biases: %s", error)


def drop_lost(folder: Path, steps: int, validated: bool) -> None:
    """Cut off what a run logged in ``folder`` after the checkpoint that it is resumed from: it does that again.

    Args:
        folder: of its TensorBoard files; links are left alone.
        steps: optimizer steps done at the checkpoint.
        validated: whether the last of them was followed by a validation, if one was due.
    """
    for path in folder.glob("events.out.tfevents.*"):
        if path.is_symlink() or not path.is_file():
            continue
        end, size = 0, path.stat().st_size
        for event, end_of_event in _located_events(path):
            tags = [value.tag for value in event.summary.value]
            again = not validated and event.step == steps - 1 and any(tag.startswith("val/") for tag in tags)
            if tags and (event.step >= steps or again):
                break
            end = end_of_event
        if end < size:
            with path.open("r+b") as file:
                file.truncate(end)


def _located_events(path: Path) -> Iterator[tuple[Event, int]]:
    """Yield the events of a file, each with its end in the file.

    The file is a TFRecord: length, its checksum, the event, its checksum; the checksums are not compared. It ends at a
    record that a killed process left incomplete.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            end = file.tell() + length + 4
            if end > size:
                return
            try:
                yield Event.FromString(file.read(length)), end
            except DecodeError:
                return
            file.seek(end)
