"""A run that is resumed: how far it got, and that it goes on with the network and the data that it began with.

Its folder may come from anywhere, and may be damaged: everything in it is parsed before it is used.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, TypeAdapter, ValidationError

from segunet.base.errors import UserError
from segunet.base.nested import leaves, tensors_in
from segunet.base.validation import STRICT, Count, explained, shown
from segunet.cli.run_dir import CONFIG, as_path
from segunet.data.datamodule import VOCDataModule
from segunet.inference.card import CheckpointCard, ListCard
from segunet.inference.checkpoint import card_of, read_checkpoint
from segunet.report.page import PAGE
from segunet.report.training import BEST
from segunet.training.callbacks import max_steps_of
from segunet.training.checkpoints import STATE_ADVICE
from segunet.training.saved_config import ADVICE

logger = logging.getLogger(__name__)
LAST = "checkpoints/last.ckpt"
_TRAINED = ("state_dict", "current_model_state", "optimizer_states")  # what the training goes on with
_COUNTS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Count | bool], config=STRICT)  # of Lightning's loops


class Progress(BaseModel, strict=True, frozen=True):
    """How far a checkpoint's training got.

    Attributes:
        epochs: epochs begun, of which all but perhaps the last are whole.
        steps: optimizer steps done.
        batches: batches of the last epoch done.
        whole: those were all of it.
        validated: the last epoch was validated.
        waited: validations since the best one, as early stopping counts them.
    """

    epochs: Count
    steps: Count
    batches: Count
    whole: bool
    validated: bool
    waited: Count


@dataclass(frozen=True)
class Resumed:
    """What a run goes on from.

    Attributes:
        checkpoint: the file.
        card: what it says of itself.
        progress: how far it got.
        finished: nothing is left to train or to validate, the report alone is missing.
    """

    checkpoint: Path
    card: CheckpointCard
    progress: Progress
    finished: bool


def found_run(resume: Any) -> Path:
    """Return the folder of the run that the setting ``resume`` names.

    Raises:
        UserError: no run that can be resumed is there.
    """
    run_dir = as_path(resume).absolute()
    if missing := [name for name in (CONFIG, LAST) if not (run_dir / name).is_file()]:
        raise UserError(
            f"resume={run_dir}: wanted a run's folder with config.yaml and checkpoints/last.ckpt, got one without "
            f"{', '.join(missing)}. A run can be resumed once its first epoch is complete."
        )
    return run_dir


def read_resumed(cfg: DictConfig, run_dir: Path) -> Resumed:
    """Read what the run in ``run_dir`` goes on from, and see that there is something left to do.

    Raises:
        UserError: a damaged checkpoint, one of another network, or a run that is finished.
    """
    path = run_dir / LAST
    content = read_checkpoint(path, STATE_ADVICE)
    card = card_of(content, path, STATE_ADVICE)
    progress = progress_in(content, path)
    check_finite(content, path)
    check_same_network(cfg.model, card.model, run_dir / CONFIG)
    return Resumed(path, card, progress, is_finished(cfg, run_dir, progress))


def progress_in(content: Mapping[str, Any], path: Path) -> Progress:
    """Return how far the training got that saved ``content``.

    Raises:
        UserError: it does not say so, as nothing but ``last.ckpt`` and ``best.ckpt`` of a training does.
    """
    try:
        beside = {name: content[name] for name in ("epoch", "global_step")}
        counts = _COUNTS.validate_python(leaves(content["loops"]["fit_loop"]) | beside)
        waits = [
            state["wait_count"] for name, state in content["callbacks"].items() if name.startswith("EarlyStopping")
        ]
        progress = Progress(
            epochs=counts["epoch_progress.current.ready"],
            steps=counts["epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed"],
            batches=counts["epoch_loop.batch_progress.current.completed"],
            whole=counts["epoch_loop.batch_progress.is_last_batch"],
            validated=counts["epoch_progress.current.processed"] == counts["epoch_progress.current.ready"],
            waited=max(waits, default=0),
        )
        said = counts["epoch"] + 1, counts["global_step"]
    except ValidationError as error:
        raise UserError(f"{path} does not say how far its training got: {explained(error)} {STATE_ADVICE}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} does not say how far its training got. {STATE_ADVICE}") from error
    if said != (progress.epochs, progress.steps):
        raise UserError(
            f"{path} contradicts itself: {said[0]} epochs and {said[1]} steps, but its loops have done "
            f"{progress.epochs} and {progress.steps}. {STATE_ADVICE}"
        )
    return progress


def check_finite(content: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError where weights, or what the optimizer knows of them, hold NaN or infinity."""
    for name in _TRAINED:
        try:
            finite = all(bool(each.isfinite().all()) for each in tensors_in(content.get(name)))
        except (RuntimeError, TypeError) as error:  # also of tensors without values, and of endless nesting
            raise UserError(f"{path}: its {name} is not what a training saves. {STATE_ADVICE}") from error
        if not finite:
            raise UserError(
                f"{path}: its {name} holds NaN or infinity: the training diverged (a lower optimizer.lr, "
                f"trainer.gradient_clip_val=1 or trainer.precision=32-true may help), or the file is damaged. "
                + STATE_ADVICE
            )


def check_same_network(model: DictConfig, saved: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError where the ``model`` config of ``path`` differs from the one ``saved`` in its checkpoint."""
    ours, theirs = leaves(OmegaConf.to_container(model)), leaves(saved)
    for name in theirs.keys() & ours.keys() - {"encoder.weights"}:
        if ours[name] != theirs[name]:
            raise UserError(
                f"{path}: model.{name} is {shown(ours[name])}, but the run's checkpoint holds a network with "
                f"{shown(theirs[name])}. {ADVICE}"
            )


def is_finished(cfg: DictConfig, run_dir: Path, progress: Progress) -> bool:
    """Return whether a run has ended and its report alone is missing.

    Raises:
        UserError: not even its report is missing.
    """
    ended, longer = how_it_ended(cfg, progress)
    if ended and progress.validated:
        if has_results(run_dir):
            raise UserError(f"resume={run_dir}: that run {ended}. To train it for longer, add {longer}.")
        logger.info("the run %s; what is missing is the report", ended)
        return True
    if not progress.whole:
        logger.warning(
            "trainer.max_steps cut epoch %d of %s short after %d batches. The run goes on with the next epoch; what is "
            "missing of that one is not trained.",
            progress.epochs,
            run_dir,
            progress.batches,
        )
    return False


def how_it_ended(cfg: DictConfig, progress: Progress) -> tuple[str, str]:
    """Return what ended a run, and the setting with which it goes on; two empty texts if it has not ended."""
    patience, trainer = cfg.callbacks.early_stopping_patience, cfg.trainer
    if patience is not None and progress.waited >= patience:
        how = f"was stopped early after {progress.epochs} epochs"
        return how, f"callbacks.early_stopping_patience=null, or above {progress.waited}"
    if progress.epochs >= trainer.max_epochs:
        return f"has done all of its {progress.epochs} epochs", "trainer.max_epochs=N with N above it"
    if (max_steps := max_steps_of(trainer)) is not None and progress.steps >= max_steps:
        return f"has done all of its {progress.steps} steps", "trainer.max_steps=N with N above it, or -1"
    return "", ""


def has_results(run_dir: Path) -> bool:
    """Return whether the report, which is written last, is of the newest checkpoint, or there is nothing to report."""
    page, last = run_dir / PAGE, run_dir / LAST
    if not (run_dir / BEST).is_file():
        return True
    return page.is_file() and page.stat().st_mtime >= last.stat().st_mtime


def check_same_data(card: CheckpointCard, datamodule: VOCDataModule) -> None:
    """Compare the data with those that a run began with; another list is said.

    Raises:
        UserError: the classes have other names, or another order: the network's outputs would mean something else.
    """
    if card.class_names != datamodule.class_names:
        raise UserError(
            f"data.class_names is {_differing(datamodule.class_names, card.class_names)} in the run's checkpoint. A "
            "resumed run keeps its classes and their order: restore them, or start a new run."
        )
    if card.lists is None:  # of a run that an earlier segunet began
        return
    for name, saved, pairs in (
        (datamodule.train_split, card.lists.train, datamodule.train_pairs),
        (datamodule.val_split, card.lists.val, datamodule.val_pairs),
    ):
        if change := saved.change_to(ListCard.of([pair.name for pair in pairs])):
            logger.warning("list %s of %s has changed since the run began: %s", name, datamodule.root, change)


def _differing(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"a list of {len(ours)} names, but of {len(theirs)}"
    index = next(index for index, name in enumerate(ours) if name != theirs[index])
    return f"{ours[index]!r} for class {index}, but {theirs[index]!r}"
