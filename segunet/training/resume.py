"""A run that is resumed: how far it got, and that it goes on with the network and the data that it began with.

Its folder may come from anywhere, and may be damaged: everything in it is parsed before it is used.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segunet.base.errors import UserError
from segunet.cli.run_dir import CONFIG, as_path
from segunet.data.datamodule import VOCDataModule
from segunet.inference.card import CheckpointCard, ListCard
from segunet.inference.checkpoint import card_of, read_checkpoint
from segunet.report.page import PAGE
from segunet.training.checkpoints import STATE_ADVICE
from segunet.training.saved_config import ADVICE, leaves, shown

logger = logging.getLogger(__name__)

LAST = "checkpoints/last.ckpt"

_TRAINED = ("state_dict", "current_model_state", "optimizer_states")  # what the training goes on with


class Progress(NamedTuple):
    """How far a checkpoint's training got.

    Attributes:
        epochs: epochs begun, of which all but perhaps the last are whole.
        steps: optimizer steps done.
        batches: batches of the last epoch done.
        whole: those were all of it.
        validated: the last epoch was validated.
        waited: validations since the best one, as early stopping counts them.
    """

    epochs: int
    steps: int
    batches: int
    whole: bool
    validated: bool
    waited: int


@dataclass(frozen=True)
class Resumed:
    """What a run goes on from.

    Attributes:
        checkpoint: the file.
        card: what it says of itself.
        progress: how far it got.
    """

    checkpoint: Path
    card: CheckpointCard
    progress: Progress


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

    Where all epochs are done and only the results are missing, no epoch is added: ``cfg.trainer.max_epochs`` is set so.

    Raises:
        UserError: a damaged checkpoint, one of another network, or a run that is finished.
    """
    path = run_dir / LAST
    content = read_checkpoint(path, STATE_ADVICE)
    card = card_of(content, path, STATE_ADVICE)
    progress = progress_in(content, path)
    check_finite(content, path)
    check_same_network(cfg.model, card.model, run_dir / CONFIG)
    check_unfinished(cfg, run_dir, progress)
    return Resumed(path, card, progress)


def progress_in(content: Mapping[str, Any], path: Path) -> Progress:
    """Return how far the training got that saved ``content``.

    Raises:
        UserError: it does not say so, as nothing but ``last.ckpt`` and ``best.ckpt`` of a training does.
    """
    try:
        loops, epochs = content["loops"]["fit_loop"], content["epoch"] + 1
        batches = loops["epoch_loop.batch_progress"]
        waits = [
            state["wait_count"] for name, state in content["callbacks"].items() if name.startswith("EarlyStopping")
        ]
        progress = Progress(
            epochs=epochs,
            steps=content["global_step"],
            batches=batches["current"]["completed"],
            whole=batches["is_last_batch"],
            validated=loops["epoch_progress"]["current"]["processed"] == epochs,
            waited=max(waits, default=0),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not say how far its training got. {STATE_ADVICE}") from error
    if not all(isinstance(value, int) and value >= 0 for value in progress):
        raise UserError(f"{path} does not say in whole numbers how far its training got: {progress}. {STATE_ADVICE}")
    return progress


def check_finite(content: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError where weights, or what the optimizer knows of them, hold NaN or infinity."""
    for name in _TRAINED:
        try:
            finite = all(bool(each.isfinite().all()) for each in _tensors(content.get(name)))
        except (RuntimeError, TypeError) as error:  # also of tensors without values, and of endless nesting
            raise UserError(f"{path}: its {name} is not what a training saves. {STATE_ADVICE}") from error
        if not finite:
            raise UserError(
                f"{path}: its {name} holds NaN or infinity: the training diverged (a lower optimizer.lr, "
                f"trainer.gradient_clip_val=1 or trainer.precision=32-true may help), or the file is damaged. "
                + STATE_ADVICE
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def check_same_network(model: DictConfig, saved: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError where the ``model`` config of ``path`` differs from the one ``saved`` in its checkpoint."""
    ours, theirs = leaves(OmegaConf.to_container(model)), leaves(saved)
    for name in theirs.keys() & ours.keys() - {"encoder.weights"}:
        if ours[name] != theirs[name]:
            raise UserError(
                f"{path}: model.{name} is {shown(ours[name])}, but the run's checkpoint holds a network with "
                f"{shown(theirs[name])}. {ADVICE}"
            )


def check_unfinished(cfg: DictConfig, run_dir: Path, progress: Progress) -> None:
    """Raise a UserError for a run that is finished; say so where its last epoch is not whole, or only results lack."""
    patience, done = cfg.callbacks.early_stopping_patience, progress.epochs
    if not progress.whole:
        logger.warning(
            "trainer.max_steps cut epoch %d of %s short after %d batches. The run goes on with the next epoch; what is "
            "missing of that one is not trained.",
            done,
            run_dir,
            progress.batches,
        )
    stopped_early = patience is not None and progress.waited >= patience
    if not progress.validated or (cfg.trainer.max_epochs > done and not stopped_early):
        return
    if has_results(run_dir):
        how = f"was stopped early after {done}" if stopped_early else f"has done all of its {done}"
        longer = "callbacks.early_stopping_patience=null" if stopped_early else "trainer.max_epochs=N with N above it"
        raise UserError(f"resume={run_dir}: that run {how} epochs. To train it for longer, add {longer}.")
    logger.info("all of its %d epochs are done; what is missing is the report", done)
    cfg.trainer.max_epochs = done


def has_results(run_dir: Path) -> bool:
    """Return whether the report, which is written last, is there and is of the newest checkpoint."""
    page, last = run_dir / PAGE, run_dir / LAST
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
