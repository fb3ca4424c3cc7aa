"""Sweeps (-m): each run has its own folder, a failed run does not end the others, and all are compared."""

import gc
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from segunet.base.errors import UserError
from segunet.base.terminal import close_log_files, setup_logging
from segunet.base.trust import target_of
from segunet.cli.arguments import full_errors
from segunet.cli.comparison import Job, failures, read_runs, show_comparison, write_comparison, write_job
from segunet.cli.run_dir import check_writable, is_main_process
from segunet.cli.search import Search, check_search

logger = logging.getLogger(__name__)

_NOT_SHARED = {
    "run_dir": "each run has its own folder. To choose their parent folder, give hydra.sweep.dir=PATH.",
    "output": "all runs would write there. To choose the parent of their folders, give hydra.sweep.dir=PATH.",
    "resume": "runs are resumed one by one. Leave -m out.",
    "tune": "nothing is trained. Leave -m out.",
}


class Sweep(Callback):
    """Hydra's callback for every command; does nothing in a single run."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the sweep before it starts."""
        setup_logging()
        with exiting():
            check_sweep(config)
        self.given = list(config.hydra.overrides.task)
        logging.getLogger("optuna").setLevel(logging.WARNING)
        logger.info("sweep folder %s, with the comparison of the runs so far", _folder(config))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Free the previous run; list this one as unfinished."""
        if config.hydra.mode == RunMode.MULTIRUN:
            with exiting():
                self._begin(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """List the run as done or failed; Hydra's sweeper sees a failed one as a run without a result."""
        if config.hydra.mode == RunMode.MULTIRUN:
            with exiting():
                self._end(config, job_return)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show the comparison; the exit status is 1 if a run failed."""
        with exiting():
            runs = read_runs(_folder(config))
            show_comparison(runs)
            write_comparison(runs, _folder(config))
        logger.info("comparison.csv, comparison.json, runs.csv written to %s", _folder(config))
        if message := failures(runs):
            sys.exit(message)

    def _begin(self, config: DictConfig) -> None:
        setup_logging()
        forget_earlier_runs()
        self.start = time.monotonic()
        self.job = Job(config.hydra.job.num, list(config.hydra.overrides.task))
        self._record(config)
        own = [override for override in self.job.overrides if override not in self.given]
        logger.info("run %d of the sweep: %s", self.job.number, " ".join(own or self.job.overrides))

    def _end(self, config: DictConfig, job_return: JobReturn) -> None:
        seconds = time.monotonic() - self.start
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value  # the property raises it
            job_return.return_value, job_return.status = None, JobStatus.COMPLETED
            self.job = replace(self.job, state="failed", error=_text(error))
            logger.error("run %d failed: %s", self.job.number, self.job.error, exc_info=_traceback_of(error))
        else:
            self.job = replace(self.job, state="done", seconds=seconds)
        close_log_files()
        self._record(config)

    def _record(self, config: DictConfig) -> None:
        write_job(self.job, Path(config.hydra.runtime.output_dir))
        write_comparison(read_runs(_folder(config)), _folder(config))


@contextmanager
def exiting() -> Iterator[None]:
    """Exit on an error, where Hydra would only warn and continue."""
    try:
        yield
    except Exception as error:
        sys.exit(f"error: {_text(error)}")


def check_sweep(config: DictConfig) -> None:
    """Raise a UserError for an invalid sweep."""
    if not is_main_process():
        raise UserError(
            "-m cannot be combined with torchrun or srun: a sweep is one process that runs one run after the other."
        )
    sweeper, overrides = config.hydra.sweeper, OverridesParser.create().parse_overrides(config.hydra.overrides.task)
    for override in overrides:
        if override.key_or_group in _NOT_SHARED:
            raise UserError(f"{override.input_line} cannot be combined with -m: {_NOT_SHARED[override.key_or_group]}")
        if override.is_interval_sweep() and sweeper._target_.endswith(".BasicSweeper"):
            raise UserError(f"{override.input_line}: only a search accepts an interval. Add hydra/sweeper=search.")
    folder = _folder(config)
    # Hydra's multirun.yaml may be left from a sweep that never started.
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= {"multirun.yaml"}):
        raise UserError(f"hydra.sweep.dir={folder} exists and is not an empty folder. Give another one.")
    check_writable(folder)
    if sweeper._target_ == target_of(Search):
        check_search(sweeper.n_trials, sweeper.seed, overrides)


def forget_earlier_runs() -> None:
    """Free what an earlier run left in this process: memory and the caches of torch.compile."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def _folder(config: DictConfig) -> Path:
    return Path(config.hydra.sweep.dir).absolute()


def _text(error: Exception) -> str:
    return error.paragraph if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _traceback_of(error: Exception) -> Exception | None:
    """Return the error for ``exc_info``; None for a UserError, unless full errors are requested."""
    return error if full_errors() or not isinstance(error, UserError) else None
