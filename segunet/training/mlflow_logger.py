"""Logging to MLflow."""

import logging
import os
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
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
# No telemetry; and a server that does not answer is given up within half a minute, not after several.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_FILE = "sqlite:///"
_AT_ONCE, _LONGEST = 100, 500  # parameters, and characters of one, that MLflow takes
_MOST_WAITING = 900  # scores, of 1,000 that MLflow takes at once
_EVERY = 5.0  # seconds after which scores are sent, so that steps do not wait for a server
_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}  # by Lightning's names


@checked("logger.mlflow")
class MLFlowLogger(Logger):
    """Log to the server, or the database, that ``MLFLOW_TRACKING_URI`` names; a resumed run goes on in its run there.

    Unlike Lightning's, it connects only when the run begins, outlives the server, and takes its address from the
    environment alone, so that no config of somebody else's run can name one.

    Args:
        experiment_name: name of the experiment.
        run_name: name of the run; None for a random one.
        identity: tag by which the run is found again.

    Raises:
        UserError: MLflow is not installed, or an invalid value.
    """

    def __init__(
        self, experiment_name: Text, run_name: Text | None, identity: Annotated[str, Field(pattern=r"^\w+$")]
    ) -> None:
        super().__init__()
        if find_spec("mlflow") is None:
            import_extra("mlflow", "mlflow")  # says how to install it
        self._address = os.environ.get(_SERVER, "")
        self._experiment_name, self._run_name, self._identity = experiment_name, run_name, identity
        self._client: Any = None  # while there is none, nothing is sent
        self._run_id = ""
        self._waiting: list[Any] = []  # scores to be sent
        self._sent = time.monotonic()

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
            UserError: no server is named, or it cannot be reached, or refuses.
        """
        if not self._address:
            raise UserError(
                f"logger=mlflow: where to? Set the environment variable {_SERVER} to a server's address, or to a "
                "database of your own, such as sqlite:///mlflow.db."
            )
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        logger.info("MLflow: connecting to %s", _shown(self._address))
        make_client = import_extra("mlflow", "mlflow").MlflowClient
        try:
            client = make_client(self._address)
            self._run_id = self._found_run(client) or self._new_run(client)
        except Exception as error:  # of MLflow, of its database, of the network
            raise UserError(
                f"MLflow at {_shown(self._address)}: {self._reason(error).rstrip('.')}. Check "
                f"{_SERVER}, and that the server runs (for a database, that sqlalchemy and alembic are installed)."
            ) from error
        self._client = client

    def _found_run(self, client: Any) -> str | None:
        experiment = client.get_experiment_by_name(self._experiment_name)
        wanted = f"tags.`{_TAG}` = '{self._identity}'"
        runs = client.search_runs([experiment.experiment_id], wanted, max_results=1) if experiment else []
        for run in runs:
            client.update_run(run.info.run_id, status="RUNNING")
        return runs[0].info.run_id if runs else None

    def _new_run(self, client: Any) -> str:
        try:
            experiment = client.create_experiment(self._experiment_name, _artifacts_of(self._address))
        except Exception:  # it is there, perhaps since another run has begun in this moment
            if (found := client.get_experiment_by_name(self._experiment_name)) is None:
                raise
            experiment = found.experiment_id
        run = client.create_run(experiment, tags={_TAG: self._identity}, run_name=self._run_name)
        return str(run.info.run_id)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Log the values of a config, in plain containers."""
        if self._client is None:
            return
        entity = import_extra("mlflow.entities", "mlflow").Param
        values = [entity(_plain(name), str(value)[:_LONGEST]) for name, value in leaves(params).items()]
        for first in range(0, len(values), _AT_ONCE):
            some = values[first : first + _AT_ONCE]
            self._send(lambda client: client.log_batch(self._run_id, params=some))  # noqa: B023, it is called at once

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but the epoch, which Lightning adds to everything; sent after some seconds."""
        if self._client is None:
            return
        entity, now = import_extra("mlflow.entities", "mlflow").Metric, int(1000 * time.time())
        own = {_plain(name): float(value) for name, value in metrics.items() if name != "epoch"}
        self._waiting += [entity(name, value, now, step or 0) for name, value in own.items()]
        self.save()

    def log_image(self, name: str, image: ImageArray, step: int) -> None:
        """Log an image uint8 (H, W, 3)."""
        self._send(lambda client: client.log_image(self._run_id, image, f"{_plain(name)}/{step:06d}.png"))

    def save(self) -> None:
        """Send the scores that wait, if that was last done some seconds ago; Lightning calls it after each step."""
        if time.monotonic() - self._sent > _EVERY or len(self._waiting) > _MOST_WAITING:
            self._send_waiting()

    def _send_waiting(self) -> None:
        self._sent = time.monotonic()
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._send(lambda client: client.log_batch(self._run_id, metrics=waiting))

    def finalize(self, status: str) -> None:
        """End the run."""
        self._send_waiting()
        self._send(lambda client: client.set_terminated(self._run_id, _STATUS.get(status, "FAILED")))

    def _send(self, send: Callable[[Any], None]) -> None:
        """Send something; once that has failed, whatever the reason, the training goes on and nothing more is sent."""
        if self._client is None:
            return
        try:
            send(self._client)
        except Exception as error:  # of MLflow, of its storage, of the network
            self._client = None
            logger.warning("MLflow: %s; nothing more is sent to it", self._reason(error))

    def _reason(self, error: Exception) -> str:
        """Return what an error says, without the user and the password of the address."""
        _, _, place = self._address.partition("://")
        user, at, _ = place.rpartition("@")
        _, _, query = place.partition("?")
        text = str(error).replace(self._address, _shown(self._address))
        for secret in (f"{user}{at}", user.partition(":")[2], query):
            text = text.replace(secret, "") if secret else text
        return one_line(text, 300)


def _plain(name: str) -> str:
    """Return a name that MLflow takes: in its characters, and nothing that would change as a path."""
    plain = re.sub(r"[^\w./: -]", "_", name)
    return plain if posixpath.normpath(plain) == plain and plain[0] not in "./" else re.sub("[./]", "_", plain)


def _artifacts_of(address: str) -> str | None:
    """Return the folder for images: beside a database in a file, else the server's own, None."""
    if not address.startswith(_FILE):
        return None
    return str(Path(address.removeprefix(_FILE).partition("?")[0]).absolute().parent / "mlflow_artifacts")


def _shown(address: str) -> str:
    """Return an address without user, password and query."""
    scheme, separator, place = address.partition("://")
    return f"{scheme}{separator}{place.rpartition('@')[2].partition('?')[0]}"
