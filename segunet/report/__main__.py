"""Write the report of a training as it is now: ``python -m segunet.report RUN``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("report")

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import Trainer

from segunet.base.errors import UserError
from segunet.base.files import locked
from segunet.cli.command import command
from segunet.cli.run_dir import CONFIG, check_places
from segunet.data.datamodule import VOCDataModule
from segunet.inference.card import CheckpointCard
from segunet.inference.checkpoint import card_of
from segunet.inference.tiling import Inference
from segunet.report.denoising import conclude_denoiser
from segunet.report.ending import BEST
from segunet.report.model_card import CARD
from segunet.report.page import PAGE
from segunet.report.scores import FILES
from segunet.report.training import conclude
from segunet.training import build
from segunet.training.build_trainer import scorer_from_config
from segunet.training.callbacks import MaxTime
from segunet.training.checkpoints import STATE_ADVICE, restoring
from segunet.training.history import History
from segunet.training.resume import check_same_data, found_run, newest_state, progress_in
from segunet.training.saved_config import ConfigParser, naming


def report(cfg: DictConfig) -> Path:
    """Write the report of the run ``cfg.run``, which may have been stopped, and return its folder.

    Raises:
        UserError: no run, one without a validation, or one whose files are damaged or in use.
    """
    if cfg.run in (None, ""):
        raise UserError("Which run? Give its folder: python -m segunet.report outputs/train/DATE_TIME")
    run_dir = found_run(cfg.run, "run")
    if not (run_dir / BEST).is_file():
        raise UserError(f"run={run_dir}: it has no {BEST}, as no validation has ended yet. There is nothing to report.")
    check_places(run_dir, (*FILES, PAGE, CARD))
    with locked(run_dir):
        report_on(run_dir, cfg.accelerator)
    return run_dir


def report_on(run_dir: Path, accelerator: str) -> None:
    """Write the report from the run's config and checkpoints."""
    checkpoint, content = newest_state(run_dir / "checkpoints")
    card, progress = card_of(content, checkpoint, STATE_ADVICE), progress_in(content, checkpoint)
    cfg = config_of(run_dir, accelerator)
    with naming(run_dir / CONFIG):
        datamodule = data_of(cfg, card)
        trainer = scorer_from_config(cfg, [History(), MaxTime()], run_dir)
    datamodule.first_epoch = progress.epochs
    with restoring(checkpoint):
        restore(trainer, content["callbacks"])
    if card.denoiser is None:
        conclude(trainer, run_dir, datamodule, Inference(tile=cfg.tile))
    else:
        conclude_denoiser(trainer, run_dir, datamodule, cfg.callbacks.images)


def config_of(run_dir: Path, accelerator: str) -> DictConfig:
    """Return the run's config, for one device of this machine."""
    cfg = ConfigParser(run_dir / CONFIG).parse()
    with naming(run_dir / CONFIG):
        build.check_settings(cfg)
    cfg.trainer.accelerator, cfg.trainer.precision = accelerator, "auto"
    cfg.trainer.devices, cfg.trainer.num_nodes = 1, 1
    cfg.trainer.strategy, cfg.trainer.sync_batchnorm = "auto", False
    return cfg


def data_of(cfg: DictConfig, card: CheckpointCard) -> VOCDataModule:
    """Return the run's data, which are read, not written."""
    datamodule = build.datamodule_from_config(cfg)
    datamodule.check_root()
    datamodule.setup("fit")
    check_same_data(card, datamodule)
    return datamodule


def restore(trainer: Trainer, states: Mapping[str, Any]) -> None:
    """Restore the callbacks' states from a checkpoint, as far as it has them."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])


@command("report")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    report(cfg)


if __name__ == "__main__":
    main()
