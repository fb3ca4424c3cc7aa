"""A search with Optuna for the highest result of a command: Hydra's sweeper for ``-m hydra/sweeper=search``."""

import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.validation import Count, Positive, checked

_PLUGINS = "hydra_plugins"  # Hydra loads plugins only from this package


@checked("hydra.sweeper")
class Search(Sweeper):
    """Sequential runs, with values chosen from the results of earlier ones.

    Args:
        n_trials: number of runs.
        seed: seed of the choice of values; None for a random one.

    Raises:
        UserError: an invalid number, or Optuna is not installed.
    """

    __module__ = _PLUGINS + ".segunet"

    def __init__(self, n_trials: Positive, seed: Count | None) -> None:
        self.n_trials, self.seed = n_trials, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes before the sweep."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials; those without a result are reported to Optuna as failed."""
        assert self.launcher is not None and self.hydra_context is not None  # noqa: PT018 - set up by Hydra
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(arguments)
        fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
        optuna = import_extra("optuna", "optuna")
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed))
        space = search_space(overrides)
        for number in range(self.n_trials):
            trial = study.ask(space)
            chosen = [f"{name}={value}" for name, value in trial.params.items()]
            (job,) = self.launcher.launch([[*fixed, *chosen]], initial_job_idx=number)
            if job.return_value is not None and math.isfinite(job.return_value):
                study.tell(trial, job.return_value)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)


Plugins.instance().register(Search)

sys.modules.setdefault(_PLUGINS, ModuleType(_PLUGINS))  # exists if another plugin is installed

sys.modules[Search.__module__] = sys.modules[__name__]


def check_search(n_trials: int, seed: int | None, overrides: Sequence[Override]) -> None:
    """Raise a UserError for an invalid search."""
    Search(n_trials, seed)
    if not search_space(overrides):
        raise UserError("Nothing to search. Give a setting several values, as in loss=ce,ce_dice, or an interval.")


def search_space(overrides: Sequence[Override]) -> dict[str, Any]:
    """Return Optuna's distribution for each setting with several values, by name."""
    return {each.get_key_element(): _distribution(each) for each in overrides if each.is_sweep_override()}


def _distribution(override: Override) -> Any:
    distributions = import_extra("optuna.distributions", "optuna")
    if not override.is_interval_sweep():
        return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))
    sweep: Any = override.value()
    whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    try:
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error} Give interval(LEAST,MOST).") from error
