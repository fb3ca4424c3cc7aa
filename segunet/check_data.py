"""Find problems in a data set: ``python -m segunet.check_data [data=NAME] [key=value] ...``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("check_data")

import logging
import shlex
import time
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from segunet.base.ahead import map_ahead
from segunet.base.environment import cores
from segunet.base.errors import UserError
from segunet.base.files import is_file, save_png, write_text
from segunet.base.terminal import progress_bar, setting
from segunet.base.trust import target_of
from segunet.base.validation import Count, Settings
from segunet.cli.command import command
from segunet.cli.run_dir import as_path, command_on_same_data, open_run_dir, planned_run_dir
from segunet.data.channels import check_rasters
from segunet.data.check.contact_sheet import contact_sheet
from segunet.data.check.findings import KINDS, Finding
from segunet.data.check.proposal import propose
from segunet.data.check.survey import Survey, examine, read_split
from segunet.data.check.tables import show_balance, show_findings, show_images, write_findings
from segunet.data.data_file import DATA_FILE, as_text
from segunet.data.datamodule import VOCDataModule
from segunet.data.voc import find_voc_folder
from segunet.training import build

logger = logging.getLogger("segunet.check_data")  # __name__ is "__main__" when run as a program
RESULTS = ("check.json", "overlays.png")  # written to a run's folder
_WAITING = 64  # examples to read ahead


class CheckSettings(Settings):
    """Plain settings of the command."""

    images: Count


def check_data(cfg: DictConfig) -> Survey:
    """Examine both lists of ``cfg.data``, and print and write the findings.

    Raises:
        UserError: a folder or list that cannot be read; at the end, if there are errors.
    """
    CheckSettings.of(cfg)
    datamodule = build.datamodule_from_config(cfg)
    if datamodule.latent_scale is not None:
        raise UserError("data=latents has no masks: segunet.train reads every latent and prompt before its first step.")
    datamodule.prepare_data()
    survey = new_survey(datamodule)
    check_rasters([pair.image for pair in survey.splits[0].pairs], datamodule.form)
    run_dir = planned_run_dir(cfg, "check_data", RESULTS)
    open_run_dir(cfg, run_dir)
    read_examples(survey, datamodule.num_workers)
    check_batch_size(survey, datamodule)
    survey.conclude()
    write_findings(survey, run_dir)
    if cfg.images:
        save_png(contact_sheet(survey, cfg.images, cfg.seed), run_dir / "overlays.png")
    show_findings(survey)
    show_images(survey)
    show_balance(survey)
    conclude(survey, run_dir)
    return survey


def new_survey(datamodule: VOCDataModule) -> Survey:
    """Read the lists, but no examples yet."""
    folder = find_voc_folder(datamodule.root)
    splits = [
        read_split(folder, role, getattr(datamodule, f"{role}_split"), datamodule.needs_objects("fit"))
        for role in (("train", "val") if datamodule.fold is None else ("train",))
    ]
    return Survey(folder, splits, datamodule.form, datamodule.colours)


def read_examples(survey: Survey, num_workers: int) -> None:
    """Examine every example of both lists, in ``num_workers`` threads."""
    examples = [(split, pair) for split in survey.splits for pair in split.pairs]
    began = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("reading", total=len(examples))
        pairs = (pair for _, pair in examples)
        results = map_ahead(partial(examine, form=survey.form), pairs, max(num_workers, 1), _WAITING)
        for (split, _), seen in zip(examples, results, strict=True):
            survey.add(split, seen)
            bar.advance(task)
    seconds = time.monotonic() - began
    number = " + ".join(str(len(split.pairs)) for split in survey.splits)
    logger.info("%s: %s examples read in %.1f s", survey.folder, number, seconds)


def check_batch_size(survey: Survey, datamodule: VOCDataModule) -> None:
    """Report a training list that is shorter than a batch."""
    train = survey.splits[0]
    if len(train.pairs) < datamodule.batch_size:
        detail = f"has {len(train.pairs)} names, but data.batch_size is {datamodule.batch_size}"
        survey.findings.append(Finding("faulty_list", train.path, detail, train.role))


def conclude(survey: Survey, run_dir: Path) -> None:
    """Log the next steps.

    Raises:
        UserError: there are errors.
    """
    logger.info("written to %s", run_dir)
    if (sheet := run_dir / "overlays.png").exists():
        logger.info("overlays:  %s", shlex.quote(str(sheet)))
    if survey.of_severity("error"):
        kinds = [(KINDS[kind], len(found)) for kind, found in survey.by_kind().items()]
        found = ", ".join(f"{kind.title} ({count})" for kind, count in kinds if kind.severity == "error")
        raise UserError(
            f"{survey.folder} has errors: {found}. The first of each are listed above, all of them in "
            f"{run_dir / 'check.json'}. Fix them, then check again: " + command_on_same_data("check_data")
        )
    logger.info("train:     %s", command_on_same_data("train"))


def propose_settings(cfg: DictConfig) -> Path:
    """Write a file with settings for ``cfg.data.root``, whose classes are not given, and return its path.

    Raises:
        UserError: a folder, list or masks that cannot be read; further settings of the data.
    """
    root = as_path(cfg.data.root)
    typed = [each for each in HydraConfig.get().overrides.task if not each.startswith("data.root=")]
    if given := [each for each in typed if each.startswith(("data.", "data/", "++data."))]:
        raise UserError(
            f"No classes are given, so the settings of {root} are proposed. Leave out {', '.join(given)}, or give "
            "data.class_names, too."
        )
    if is_file(described := root / DATA_FILE):
        raise UserError(f"{root} has a {DATA_FILE}: python -m segunet.check_data {setting('data', described)}")
    run_dir = planned_run_dir(cfg, "check_data", [DATA_FILE])
    text = as_text(propose(root, cores()), "Proposed by segunet.check_data: correct the class names.")
    open_run_dir(cfg, run_dir)
    write_text(path := run_dir / DATA_FILE, text)
    logger.info("No classes are given. This is what %s seems to be:\n\n%s", root, text)
    logger.info("Correct the names in that file and move it where you like, then check the data:")
    logger.info("  python -m segunet.check_data %s", setting("data", path))
    return path


@command("check_data")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    own = cfg.data.get("_target_") == target_of(VOCDataModule)
    if own and OmegaConf.is_missing(cfg.data, "class_names") and not OmegaConf.is_missing(cfg.data, "root"):
        propose_settings(cfg)
    else:
        check_data(cfg)


if __name__ == "__main__":
    main()
