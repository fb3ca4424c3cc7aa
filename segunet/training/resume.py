"""Resume a run: its progress, and checks that its network and data are unchanged.

Its folder is untrusted and may be damaged: everything in it is validated before use.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, TypeAdapter, ValidationError
from pytorch_lightning import Trainer

from segunet.base.errors import UserError, counted
from segunet.base.nested import leaves, tensors_in
from segunet.base.validation import STRICT, AtLeast0, Count, Positive, explained, shown
from segunet.cli.run_dir import CONFIG, as_path
from segunet.data.datamodule import VOCDataModule
from segunet.inference.card import CheckpointCard, ListCard
from segunet.inference.checkpoint import card_of, read_checkpoint
from segunet.report.ending import BEST
from segunet.report.page import PAGE
from segunet.training.callbacks import MaxTime, max_steps_of
from segunet.training.checkpoints import IMAGES, LAST, PREVIOUS, STATE_ADVICE
from segunet.training.saved_config import ADVICE

logger = logging.getLogger(__name__)
_STATE_KEYS = ("state_dict", "current_model_state", "optimizer_states")  # the training state
_COUNTS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Count | bool], config=STRICT)  # Lightning's counters


class Progress(BaseModel, strict=True, frozen=True):
    """Training progress of a checkpoint.

    Attributes:
        started: epochs started; all but perhaps the last are complete.
        steps: optimizer steps done.
        batches: batches done in the last epoch, in each process.
        images: images done in the last epoch, in all processes, if the run continues within it; else None.
        whole: whether the last epoch is complete.
        validated: whether the last epoch was validated.
        waited: validations since the best one, as counted by early stopping.
        seconds: time that it has trained and validated for.
    """

    started: Count
    steps: Count
    batches: Count
    images: Positive | None
    whole: bool
    validated: bool
    waited: Count
    seconds: AtLeast0 = 0.0

    @property
    def epochs(self) -> int:
        """Epochs done, or begun and not to be continued."""
        return self.started - (self.images is not None)


@dataclass(frozen=True)
class Resumed:
    """State that a run resumes from.

    Attributes:
        checkpoint: the checkpoint file.
        card: its card.
        progress: its progress.
        finished: whether only the report is missing, with nothing left to train or validate.
    """

    checkpoint: Path
    card: CheckpointCard
    progress: Progress
    finished: bool


def found_run(path: Any, name: str = "resume") -> Path:
    """Return the folder of the run that the setting ``name`` gives as ``path``.

    Raises:
        UserError: there is no run that can be resumed.
    """
    run_dir = as_path(path).absolute()
    if not run_dir.is_dir():
        what = "it is a file" if run_dir.exists() else "there is no such folder"
        raise UserError(f"{name}={run_dir}: {what}. Give the folder of a run, such as outputs/train/DATE_TIME.")
    missing = [] if (run_dir / CONFIG).is_file() else [CONFIG]
    if not any((run_dir / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS)):
        missing.append(f"checkpoints/{LAST}")
    if missing:
        raise UserError(
            f"{name}={run_dir}: wanted a run's folder with config.yaml and checkpoints/last.ckpt, got one without "
            f"{', '.join(missing)}. A run can be resumed from its first checkpoint on, which is written after "
            "checkpoint.every_minutes or its first epoch; before, start it again."
        )
    return run_dir


def read_resumed(cfg: DictConfig, run_dir: Path) -> Resumed:
    """Read the state that the run in ``run_dir`` resumes from.

    Raises:
        UserError: a damaged checkpoint, one of another network, or a finished run.
    """
    path, content = newest_state(run_dir / "checkpoints")
    card = card_of(content, path, STATE_ADVICE)
    progress = progress_in(content, path)
    check_finite(content, path)
    check_same_network(cfg.model, card.model, run_dir / CONFIG)
    return Resumed(path, card, progress, is_finished(cfg, run_dir, progress))


def newest_state(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the last checkpoint in a run's ``folder`` of checkpoints and its content; the one before if it is damaged.

    Raises:
        UserError: both are damaged, or there is no other.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    try:
        return last, read_checkpoint(last, STATE_ADVICE)
    except UserError as error:
        if not previous.is_file():
            raise
        try:
            content = read_checkpoint(previous, STATE_ADVICE)
        except UserError:
            raise error from None
        logger.warning(
            "%s Resumed from %s, the checkpoint before it.", str(error).removesuffix(STATE_ADVICE).strip(), previous
        )
        return previous, content


def progress_in(content: Mapping[str, Any], path: Path) -> Progress:
    """Return the progress of the training that saved ``content``.

    Raises:
        UserError: it has no progress; only ``last.ckpt`` and ``best.ckpt`` of a training have.
    """
    try:
        beside = {name: content[name] for name in ("epoch", "global_step")}
        counts = _COUNTS.validate_python(leaves(content["loops"]["fit_loop"]) | beside)
        waits = [
            state["wait_count"] for name, state in content["callbacks"].items() if name.startswith("EarlyStopping")
        ]
        times = content["callbacks"].get(MaxTime.__name__)
        progress = Progress(
            started=counts["epoch_progress.current.ready"],
            steps=counts["epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed"],
            batches=counts["epoch_loop.batch_progress.current.processed"],
            images=content.get(IMAGES),
            whole=counts["epoch_loop.batch_progress.is_last_batch"],
            validated=counts["epoch_progress.current.processed"] == counts["epoch_progress.current.ready"],
            waited=max(waits, default=0),
            seconds=times["time_elapsed"]["train"] if times is not None else 0.0,
        )
        stated = counts["epoch"] + 1, counts["global_step"]
    except ValidationError as error:
        raise UserError(f"{path} has no valid training progress: {explained(error)} {STATE_ADVICE}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} has no valid training progress. {STATE_ADVICE}") from error
    if stated != (progress.started, progress.steps):
        raise UserError(
            f"{path} is inconsistent: {stated[0]} epochs and {stated[1]} steps, but its loops have done "
            f"{progress.started} and {progress.steps}. {STATE_ADVICE}"
        )
    return progress


def check_finite(content: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError if weights or optimizer state contain NaN or infinity."""
    for name in _STATE_KEYS:
        try:
            finite = all(bool(each.isfinite().all()) for each in tensors_in(content.get(name)))
        except (RuntimeError, TypeError) as error:  # also for tensors without values and endless nesting
            raise UserError(f"{path}: its {name} is invalid. {STATE_ADVICE}") from error
        if not finite:
            raise UserError(
                f"{path}: its {name} contains NaN or infinity: the training diverged (a lower optimizer.lr, "
                f"trainer.gradient_clip_val=1 or trainer.precision=32-true may help), or the file is damaged. "
                + STATE_ADVICE
            )


def check_same_network(model: DictConfig, saved: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError if the ``model`` config of ``path`` differs from the one ``saved`` in its checkpoint."""
    ours, theirs = leaves(OmegaConf.to_container(model)), leaves(saved)
    for name in theirs.keys() & ours.keys() - {"encoder.weights", "decoder.weights"}:
        if ours[name] != theirs[name]:
            raise UserError(
                f"{path}: model.{name} is {shown(ours[name])}, but the run's checkpoint has a network with "
                f"{shown(theirs[name])}. {ADVICE}"
            )


def is_finished(cfg: DictConfig, run_dir: Path, progress: Progress) -> bool:
    """Return whether a run has ended and only its report is missing.

    Raises:
        UserError: it has ended and its report exists.
    """
    ended, longer = how_it_ended(cfg, progress)
    if ended and progress.images is not None:
        raise UserError(
            f"resume={run_dir}: that run has done {counted(progress.steps, 'step')} and is within epoch "
            f"{progress.started}, more than it is now to do. Add {longer}."
        )
    if not progress.validated and progress.images is None and cfg.trainer.get("limit_val_batches") == 0:
        raise UserError(
            f"resume={run_dir}: that run has trained epoch {progress.epochs}, but not validated it, which "
            "trainer.limit_val_batches=0 leaves out. Resume it without, for that epoch at least."
        )
    if ended and progress.validated:
        if has_results(run_dir):
            raise UserError(f"resume={run_dir}: that run {ended}. To train it longer, add {longer}.")
        logger.info("the run %s; only its report is missing", ended)
        return True
    if not ended and not progress.whole and progress.images is None:
        logger.warning(
            "Epoch %d of %s was cut short after %s. The run continues with the next epoch; the remaining "
            "batches of this one are skipped.",
            progress.epochs,
            run_dir,
            "1 batch" if progress.batches == 1 else f"{progress.batches} batches",
        )
    return False


def how_it_ended(cfg: DictConfig, progress: Progress) -> tuple[str, str]:
    """Return what ended a run and the setting to continue it; two empty strings if it has not ended."""
    patience, trainer = cfg.callbacks.early_stopping_patience, cfg.trainer
    if patience is not None and progress.waited >= patience and progress.epochs >= (trainer.get("min_epochs") or 0):
        how = f"was stopped early after {counted(progress.epochs, 'epoch')}"
        return how, f"callbacks.early_stopping_patience=null, or above {progress.waited}"
    if progress.epochs >= trainer.max_epochs:
        return (
            f"has done {counted(progress.epochs, 'epoch')}, all that it was to do",
            "trainer.max_epochs=N with N above it",
        )
    if (max_steps := max_steps_of(trainer)) is not None and progress.steps >= max_steps:
        return (
            f"has done {counted(progress.steps, 'step')}, all that it was to do",
            "trainer.max_steps=N with N above it, or -1",
        )
    max_time = trainer.get("max_time")
    if (seconds := MaxTime(max_time).time_remaining()) is not None and progress.seconds >= seconds:
        return f"has trained for its trainer.max_time={max_time}", "trainer.max_time with more, or null"
    return "", ""


def has_results(run_dir: Path) -> bool:
    """Return whether the report, which is written last, is up to date, or there is nothing to report."""
    page, last = run_dir / PAGE, run_dir / "checkpoints" / LAST
    if not (run_dir / BEST).is_file():
        return True
    if not last.is_file():
        return False
    return page.is_file() and page.stat().st_mtime >= last.stat().st_mtime


def check_same_data(card: CheckpointCard, datamodule: VOCDataModule) -> None:
    """Compare the data with those that the run started with; a changed list is logged.

    Raises:
        UserError: the class names or their order differ, which would change the meaning of the network's outputs.
    """
    if card.class_names != datamodule.class_names:
        raise UserError(
            f"data.class_names is {_difference(datamodule.class_names, card.class_names)} in the run's checkpoint. A "
            "resumed run keeps its classes and their order: restore them, or start a new run."
        )
    if card.lists is None:  # a run of an earlier version
        return
    for name, saved, pairs in (
        (datamodule.train_split, card.lists.train, datamodule.train_pairs),
        (datamodule.val_name, card.lists.val, datamodule.val_pairs),
    ):
        if change := saved.change_to(ListCard.of([pair.name for pair in pairs])):
            logger.warning("list %s of %s has changed since the run started: %s", name, datamodule.root, change)


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"a list of {len(ours)} names, but of {len(theirs)}"
    index = next(index for index, name in enumerate(ours) if name != theirs[index])
    return f"{ours[index]!r} for class {index}, but {theirs[index]!r}"


def first_batch(progress: Progress, datamodule: VOCDataModule, trainer: Trainer) -> int:
    """Return how many batches of its next epoch each process of a resumed run has done.

    Raises:
        UserError: the images that were done are no whole steps, or the whole epoch, with the settings of now.
    """
    if progress.images is None:
        return 0
    batch = datamodule.batch_size * trainer.world_size
    step, done = (
        batch * trainer.accumulate_grad_batches,
        f"{counted(progress.images, 'image')} of epoch {progress.started}",
    )
    if progress.images % step:
        raise UserError(
            f"The run stopped after {done}. Until that epoch ends, data.batch_size times "
            f"trainer.accumulate_grad_batches times the number of processes must divide {progress.images}; got {step}."
        )
    batches = math.ceil(len(datamodule.train_pairs) / trainer.world_size) // datamodule.batch_size
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if progress.images >= batches * batch:
        raise UserError(
            f"The run stopped after {done}, but list {datamodule.train_split!r} of {datamodule.root} gives only "
            f"{batches} batches of {batch} now. Restore the list, or trainer.limit_train_batches, or start a new run."
        )
    return progress.images // batch
