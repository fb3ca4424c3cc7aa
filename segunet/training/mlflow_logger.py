"""Logging to MLflow."""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pytorch_lightning.loggers import Logger

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.base.nested import leaves
from segunet.base.validation import Text, checked, one_line
from segunet.images.drawing import ImageArray

logger = logging.getLogger(__name__)
_SERVER = "MLFLOW_TRACKING_URI"
_TAG = "segunet.id"
_AT_ONCE, _LONGEST = 100, 500  # parameters, and characters of one, that MLflow takes
_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}  # by Lightning's names


@checked("logger.mlflow")
class MLFlowLogger(Logger):
    """Log to a server, or to a database in the run's folder; a resumed run goes on in its run there.

    Unlike Lightning's, it connects and writes only when the run begins. The server is named by the environment alone,
    so that no config of somebody else's run can name one.

    Args:
        save_dir: the run's folder.
        experiment_name: name of the experiment.
        run_name: name of the run; None for a random one.
        identity: tag by which the run is found again.

    Raises:
        UserError: MLflow is not installed, or an invalid value.
    """

    def __init__(
        self,
        save_dir: Text,
        experiment_name: Text,
        run_name: Text | None,
        identity: Annotated[str, Field(pattern=r"^\w+$")],
    ) -> None:
        super().__init__()
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import_extra("mlflow", "mlflow")
        folder, server = Path(save_dir).absolute(), os.environ.get(_SERVER)
        self._address = server or f"sqlite:///{folder / 'mlflow.db'}"
        self._artifacts = None if server else str(folder / "mlflow")
        self._experiment_name, self._run_name, self._identity = experiment_name, run_name, identity
        self._client: Any = None  # while there is none, nothing is sent
        self._run_id = ""

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._experiment_name

    @property
    def version(self) -> str:
        """The run's identity."""
        return self._identity

    def begin(self) -> None:
        """Begin the run, or find that of a resumed training; in one process only.

        Raises:
            UserError: the server cannot be reached, or refuses.
        """
        try:
            client = import_extra("mlflow", "mlflow").MlflowClient(self._address)
            found = client.get_experiment_by_name(self._experiment_name)
            experiment = found.experiment_id if found else client.create_experiment(self.name, self._artifacts)
            runs = client.search_runs([experiment], f"tags.`{_TAG}` = '{self._identity}'", max_results=1)
            new = {"tags": {_TAG: self._identity}, "run_name": self._run_name}
            run = runs[0] if runs else client.create_run(experiment, **new)
            client.set_terminated(run.info.run_id, "RUNNING")
        except _refused() as error:
            raise UserError(
                f"MLflow at {self._address}: {one_line(str(error), 300).rstrip('.')}. Set {_SERVER} to a server's "
                "address, or to nothing: then mlflow.db in the run's folder is written."
            ) from error
        self._client, self._run_id = client, run.info.run_id

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Log the values of a config, in plain containers."""
        entity = import_extra("mlflow.entities", "mlflow").Param
        values = [entity(_plain(name), str(value)[:_LONGEST]) for name, value in leaves(params).items()]
        for first in range(0, len(values), _AT_ONCE):
            some = values[first : first + _AT_ONCE]
            self._send(lambda client: client.log_batch(self._run_id, params=some))  # noqa: B023, it is called at once

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but the epoch, which Lightning adds to everything."""
        entity, now = import_extra("mlflow.entities", "mlflow").Metric, int(1000 * time.time())
        own = {_plain(name): float(value) for name, value in metrics.items() if name != "epoch"}
        values = [entity(name, value, now, step or 0) for name, value in own.items()]
        self._send(lambda client: client.log_batch(self._run_id, metrics=values))

    def log_image(self, name: str, image: ImageArray, step: int) -> None:
        """Log an image uint8 (H, W, 3)."""
        self._send(lambda client: client.log_image(self._run_id, image, f"{_plain(name)}/{step:06d}.png"))

    def finalize(self, status: str) -> None:
        """End the run."""
        self._send(lambda client: client.set_terminated(self._run_id, _STATUS.get(status, "FAILED")))

    def _send(self, send: Callable[[Any], None]) -> None:
        """Send something; once that has failed, the training goes on and nothing more is sent."""
        if self._client is None:
            return
        try:
            send(self._client)
        except _refused() as error:
            self._client = None
            logger.warning("MLflow: %s; nothing more is sent to it", one_line(str(error), 300))


def _plain(name: str) -> str:
    """Return a name in the characters that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)


def _refused() -> type[Exception]:
    """Return the error that MLflow raises."""
    error: type[Exception] = import_extra("mlflow.exceptions", "mlflow").MlflowException
    return error
