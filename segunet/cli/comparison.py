"""Compare the runs of a sweep: each combination of settings, with mean and spread over its seeds.

A run's folder holds ``job.json`` (the sweep's record) and, once it is done, ``metrics.json``. The comparison uses only
these files, so runs may take place in any process.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter
from rich.markup import escape
from rich.table import Table

from segunet.base.errors import UserError
from segunet.base.files import write_csv, write_json
from segunet.base.terminal import console
from segunet.metrics.scores import HEADLINE

Numbers = dict[str, float | None]
State = Literal["done", "failed", "unfinished"]
JOB_FILE, COMPARISON = "job.json", "comparison.json"
SPREAD = "sample standard deviation over the runs (n - 1)"
_REPEATED = ("seed", "data.fold")  # the settings that a combination's runs differ in
# In the terminal; the files have all.
_SHOWN = [
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "fwiou",
    "merged_objects",
    "split_objects",
    "rand_error",
    "val_loss",
    "seconds",
]


@dataclass(frozen=True)
class Job:
    """A sweep's record of one of its runs.

    Attributes:
        number: its position in the sweep.
        overrides: its command-line overrides, each as ``name=value``.
        state: "unfinished" until it ends.
        seconds: duration; None unless done.
        error: why it failed, if it did.
    """

    number: int
    overrides: list[str]
    state: State = "unfinished"
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """A run of a sweep: its folder relative to the sweep's, its job, and its scores (0..1) and seconds if done."""

    folder: str
    job: Job
    numbers: Numbers = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """Its command-line overrides by name."""
        parts = (override.lstrip("+").partition("=") for override in self.job.overrides)
        return {name: value for name, _, value in parts}


@dataclass(frozen=True)
class Combination:
    """The runs that differ only in their seed, or fold of a cross-validation.

    Attributes:
        settings: the settings that distinguish them from the sweep's other runs.
        runs: number of runs done.
        numbers: mean of each number over these runs; None if undefined.
        spread: sample standard deviation (n - 1) of each number; None for a single run.
    """

    settings: dict[str, str]
    runs: int
    numbers: Numbers
    spread: Numbers


_Row = TypeVar("_Row", Run, Combination)


def write_job(job: Job, folder: Path) -> None:
    """Write ``job`` into its run's folder."""
    write_json(folder / JOB_FILE, asdict(job))


def check_job(folder: Path) -> None:
    """Raise a UserError if the job file of a sweep's run is damaged, as the run could not be listed."""
    if (folder / JOB_FILE).is_file():
        read_job(folder)


def read_job(folder: Path) -> Job:
    """Read the job of the run in ``folder``.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / JOB_FILE
    try:
        return TypeAdapter(Job).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a valid job file: {error}. Remove it; the sweep's table will then omit this run."
        ) from error


def record_resumed(run_dir: Path, changes: Sequence[str]) -> None:
    """Mark a resumed run as done if it is part of a sweep; its duration is unknown.

    Args:
        run_dir: the run's folder.
        changes: overrides given on resume, each as ``name=value``.
    """
    sweep_dir = next((folder for folder in run_dir.parents if (folder / COMPARISON).is_file()), None)
    if sweep_dir and (run_dir / JOB_FILE).is_file():
        job = read_job(run_dir)
        overrides = [*job.overrides, *changes]
        write_job(replace(job, overrides=overrides, state="done", seconds=None, error=None), run_dir)
        write_comparison(read_runs(sweep_dir), sweep_dir)


def read_runs(sweep_dir: Path) -> list[Run]:
    """Read the runs below ``sweep_dir``, in sweep order."""
    runs = []
    for path in sweep_dir.rglob(JOB_FILE):
        job = read_job(path.parent)
        numbers = read_scores(path.parent) | {"seconds": job.seconds} if job.state == "done" else {}
        runs.append(Run(path.parent.relative_to(sweep_dir).as_posix(), job, numbers))
    return sorted(runs, key=lambda run: run.job.number)


def read_scores(run_dir: Path) -> Numbers:
    """Return the single scores (0..1) of a run's metrics.json by name; empty if there is no such file."""
    path = run_dir / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {name: value for name, value in metrics.items() if value is None or isinstance(value, float)}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not a valid file of scores: {error}. Remove it; the sweep's table will then lack its scores."
        ) from error


def varied(runs: Sequence[Run]) -> list[str]:
    """Return the names of the settings whose values differ between the runs."""
    names = {name: None for run in runs for name in run.settings}
    return [name for name in names if len({run.settings.get(name) for run in runs}) > 1]


def combine(runs: Sequence[Run]) -> list[Combination]:
    """Group the runs that differ only in seed or fold, best mean mIoU first."""
    names = [name for name in varied(runs) if name not in _REPEATED]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.settings.get(name, "") for name in names), []).append(run)
    return best_first([_combination(dict(zip(names, key, strict=True)), group) for key, group in groups.items()])


def best_first(rows: Iterable[_Row]) -> list[_Row]:
    """Sort by mIoU, highest first, or by a denoiser's loss, lowest first; rows without either last."""

    def score(row: _Row) -> float:
        miou, loss = row.numbers.get("miou"), row.numbers.get("val_loss")
        return miou if miou is not None else -math.inf if loss is None else -loss

    return sorted(rows, key=score, reverse=True)


def write_comparison(runs: Sequence[Run], sweep_dir: Path) -> None:
    """Write comparison.csv (one row per combination), runs.csv (one row per run) and comparison.json (both)."""
    names, combinations = varied(runs), combine(runs)
    best = best_first(runs)
    rows = [{**each.settings, "runs": each.runs, **_with_spread(each)} for each in combinations]
    write_csv(sweep_dir / "comparison.csv", rows)
    rows = [
        {"run": run.folder, **_only(names, run.settings), "state": run.job.state, **run.numbers, "error": run.job.error}
        for run in best
    ]
    write_csv(sweep_dir / "runs.csv", rows)
    content = {
        "spread": SPREAD,
        "combinations": [asdict(each) for each in combinations],
        "runs": [{**asdict(run.job), "folder": run.folder, "numbers": run.numbers} for run in best],
    }
    write_json(sweep_dir / COMPARISON, content)


def show_comparison(runs: Sequence[Run]) -> None:
    """Print the runs, and the combinations if any has several runs."""
    names, combinations = varied(runs), combine(runs)
    table = _table(["run", *names], runs)
    for run in best_first(runs):
        cells = [_cell(name, run.numbers.get(name)) for name in _shown(runs)]
        if run.job.state != "done":
            cells[0] = run.job.state
        table.add_row(escape(run.folder), *map(_setting, _only(names, run.settings).values()), *cells)
    console.print(table)
    if len(combinations) == len(runs):
        return
    table = _table([*(name for name in names if name not in _REPEATED), "runs"], runs)
    for each in combinations:
        pairs = [(_cell(name, each.numbers.get(name)), _cell(name, each.spread.get(name))) for name in _shown(runs)]
        cells = [f"{mean}\n± {spread}" for mean, spread in pairs]
        table.add_row(*map(_setting, each.settings.values()), str(each.runs), *cells)
    console.print(table)
    console.print(f"mean ± {SPREAD}", highlight=False)


def failures(runs: Sequence[Run]) -> str:
    """Return which runs failed and why; empty if none failed."""
    failed = [run for run in runs if run.job.state == "failed"]
    causes: dict[str | None, list[str]] = {}
    for run in failed:
        causes.setdefault(run.job.error, []).append(run.folder)
    lines = [f"run {', '.join(folders)}: {error}" for error, folders in causes.items()]
    return "\n".join([f"error: {len(failed)} of {len(runs)} runs failed.", *lines]) if failed else ""


def _combination(settings: dict[str, str], runs: Sequence[Run]) -> Combination:
    done = [run.numbers for run in runs if run.job.state == "done"]
    names = {name: None for numbers in done for name in numbers}
    values = {name: [value for numbers in done if (value := numbers.get(name)) is not None] for name in names}
    return Combination(
        settings=settings,
        runs=len(done),
        numbers={name: statistics.mean(each) if each else None for name, each in values.items()},
        spread={name: statistics.stdev(each) if len(each) > 1 else None for name, each in values.items()},
    )


def _with_spread(each: Combination) -> Numbers:
    pairs = ({name: each.numbers[name], f"{name}_spread": each.spread[name]} for name in each.numbers)
    return {name: value for pair in pairs for name, value in pair.items()}


def _only(names: Sequence[str], settings: Mapping[str, str]) -> dict[str, str]:
    return {name: settings.get(name, "") for name in names}


def _shown(runs: Sequence[Run]) -> list[str]:
    """Return the names of the columns in the terminal: those that some run has."""
    return [name for name in _SHOWN if any(name in run.numbers for run in runs)] or ["seconds"]


def _table(names: Sequence[str], runs: Sequence[Run]) -> Table:
    table = Table()
    for name in names:
        table.add_column(escape(name), overflow="fold")
    for name in _shown(runs):
        table.add_column(HEADLINE.get(name, name).replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _cell(name: str, value: float | None) -> str:
    """Format a number for the table."""
    return "-" if value is None else f"{value:.1f}" if name == "seconds" else f"{value:.4f}"


def _setting(value: str) -> str:
    """Format a setting for the table: long decimals with four digits."""
    try:  # float() would accept a date with underscores
        is_fraction = len(value) > 8 and not value.isdigit() and "_" not in value
        return f"{float(value):.4g}" if is_fraction else escape(value)
    except ValueError:
        return escape(value)
