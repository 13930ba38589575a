"""The run in MLflow: found or made, filled, ended. With `registry`, and `mlflow_rest` for what outlives the training, the only
module that talks to MLflow.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from m3_trainer import config, imports
from m3_trainer.data import stores
from m3_trainer.errors import (
    HeadRestarted,
    InvalidSpec,
    M3Error,
    Stopped,
    StorageFull,
    TrackingUnavailable,
    chain,
    is_disk_full,
)
from m3_trainer.mlflow_rest import OwnRun
from m3_trainer.origin import RUN_FILE, Origin

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.entities import Run as Entity

log = logging.getLogger(__name__)

# MLflow's own defaults retry for four minutes in silence and write lines of its own to standard output, which scripts read.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
MAX_PARAM_LENGTH = 500
MAX_BATCH = 800
"""Metrics in one request: MLflow takes 1,000 of all kinds together."""
MAX_DATASET_DIGEST = 36
SYSTEM_METRICS_AFTER_SECONDS = 5.0
"""A run that is over by then costs nothing: not even the monitor's import."""
PROBES, PROBE_PAUSE_SECONDS, PROBE_TIMEOUT_SECONDS = 3, 2.0, 5.0


@dataclass(frozen=True)
class Tracker:
    """Where runs go: an MLflow server, or a database file of one's own with artifacts beside it."""

    uri: str
    artifacts: Path | None = None

    @classmethod
    def choose(cls, uri: str | None, home: Path) -> Tracker:
        """`uri` (or `MLFLOW_TRACKING_URI`) where it is given, else SQLite under `home`, which is made."""
        if uri:
            return cls(uri)
        return cls(f"sqlite:///{home.resolve() / 'mlflow.db'}", home.resolve() / "artifacts")

    @property
    def is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    def probe(self) -> TrackingUnavailable | None:
        """Ask the server one small question before any work is done; None where it answers."""
        if not self.is_server:
            return None
        for attempt in range(PROBES):
            if (fault := _ask(self.uri)) is None or isinstance(fault, _Refused):
                break
            if attempt < PROBES - 1:
                time.sleep(PROBE_PAUSE_SECONDS)
        return fault

    def client(self) -> MlflowClient:
        """MLflow's client; importing it costs a second, so nothing imports it before it is needed."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with imports.uncollected("mlflow"):
            return self._client()

    def _client(self) -> MlflowClient:
        import mlflow

        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        for doubled in ("mlflow.store", "mlflow.tracking"):  # they log with a traceback what they also raise
            logging.getLogger(doubled).setLevel(logging.CRITICAL)
        if self.artifacts:
            _make(self.artifacts.parent)
        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient()


def _make(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InvalidSpec(f"--home: {home} must be a folder that can be written to: {error.strerror}") from error


class _Refused(TrackingUnavailable):
    """It answers, and says no: asking again is of no use."""


def _ask(uri: str) -> TrackingUnavailable | None:
    try:
        request = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        host = urlsplit(uri).netloc
        if error.code == 403:
            return _Refused(f"MLflow at {uri} must accept the host name {host}: start it with --allowed-hosts {host}")
        if error.code in (401, 407):
            return _Refused(f"MLflow at {uri} must accept the credentials: set MLFLOW_TRACKING_USERNAME and _PASSWORD")
        return None if error.code == 404 else TrackingUnavailable(f"MLflow at {uri} must answer; it said {error}")
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        return TrackingUnavailable(
            f"MLflow at {uri} must answer: {cause}. Is it running, and MLFLOW_TRACKING_URI right?"
        )


@contextmanager
def explained(tracker: Tracker) -> Iterator[None]:
    """What MLflow raises, as errors of ours."""
    import mlflow.exceptions
    import requests

    try:
        yield
    except (mlflow.exceptions.MlflowException, OSError) as error:  # requests' errors are OSErrors
        if is_disk_full(error):
            raise StorageFull(f"{_place(tracker, error)} must have free space; it has none left") from error
        if not isinstance(error, (mlflow.exceptions.MlflowException, requests.RequestException)):
            raise
        raise TrackingUnavailable(f"MLflow at {tracker.uri} must store the run: {_first_line(error)}") from error


def _place(tracker: Tracker, error: BaseException) -> str:
    """Which disk. Neither SQLite nor a failed write says it, so it is the fullest of those that a run writes to."""
    is_local = any(isinstance(link, OSError) and link.errno == errno.ENOSPC for link in chain(error))
    if tracker.artifacts is None and not is_local:
        return "the store of MLflow"
    places = [Path(tempfile.gettempdir()), *([tracker.artifacts.parent] if tracker.artifacts else [])]
    return f"the disk of {min(places, key=lambda place: shutil.disk_usage(place).free)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__


@dataclass(frozen=True)
class Run:
    """One run in MLflow."""

    client: MlflowClient
    id: str
    experiment_id: str
    tracker: Tracker
    origin: Origin

    @property
    def url(self) -> str | None:
        """Address of the run's page, where there is a server."""
        base = self.tracker.uri.rstrip("/")
        return f"{base}/#/experiments/{self.experiment_id}/runs/{self.id}" if self.tracker.is_server else None

    def document(self) -> dict[str, str | None]:
        return {"experimentId": self.experiment_id, "runId": self.id, "url": self.url, "trackingUri": self.tracker.uri}

    def told(self) -> dict[str, str]:
        """For readers: the run, and what asked for it."""
        found = {
            "MLflow run": self.url or self.id,
            "asked for by": self.origin.kubectl(),
            "RayJob": self.origin.ray_job,
        }
        return {name: value for name, value in found.items() if value}

    def log(
        self,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        measured = [Metric(name, value, now, 0) for name, value in (metrics or {}).items()]
        self.log_measured(measured[MAX_BATCH:])
        self.client.log_batch(
            self.id,
            metrics=measured[:MAX_BATCH],
            params=[Param(name, str(value)[:MAX_PARAM_LENGTH]) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def log_measured(self, metrics: Sequence[Metric]) -> None:
        """In as few requests as MLflow takes them in."""
        for start in range(0, len(metrics), MAX_BATCH):
            self.client.log_batch(self.id, metrics=metrics[start : start + MAX_BATCH])

    def log_files(self, files: Mapping[str, bytes]) -> None:
        """Files of the run by their paths, as `folder/name`."""
        with tempfile.TemporaryDirectory(prefix="m3-artifacts-") as folder:
            for path, data in files.items():
                local = Path(folder) / path
                local.parent.mkdir(parents=True, exist_ok=True)
                local.write_bytes(data)
            self.client.log_artifacts(self.id, folder)

    def log_child(self, name: str, start: int, end: int, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """A finished run under this one; times in milliseconds since 1970.

        It is made when all of it is known, so none is left RUNNING by a job that was killed. And it has none of the tags by which
        the operator, or the next attempt, finds the runs of jobs: they would take it for one.
        """
        tags = {"mlflow.parentRunId": self.id, "mlflow.source.name": "m3", **tags}
        made = self.client.create_run(self.experiment_id, start_time=start, tags=tags, run_name=name).info
        child = replace(self, id=made.run_id)
        child.log(metrics=metrics)
        self.client.set_terminated(child.id, "FINISHED", end_time=end)

    def log_dataset(self, data: config.Data, digest: str, columns: Mapping[str, str], rows: int) -> None:
        """The data as MLflow's dataset input; MLflow keeps 36 characters of a digest, the tag `m3.data.digest` all."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=dataset_name(data.uri),
            digest=digest.removeprefix("sha256:")[:MAX_DATASET_DIGEST],
            source_type=SOURCE_TYPES.get(data.scheme, data.scheme),
            source=json.dumps(dataset_source(data)),
            schema=json.dumps({"mlflow_colspec": [colspec(name, dtype) for name, dtype in columns.items()]}),
            profile=json.dumps({"num_rows": rows, "num_elements": rows * len(columns)}),
        )
        self.client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def report(self, share: float, seconds_left: int | None) -> None:
        """How far the job is, as tags. A server that is away for a moment must not end a training."""
        import mlflow.exceptions
        import requests

        left = {} if seconds_left is None else {"m3.progress.remaining_seconds": str(seconds_left)}
        try:
            self.log(tags={"m3.progress.percentage": str(round(share * 100))} | left)
        except (mlflow.exceptions.MlflowException, requests.RequestException) as error:
            log.warning("progress was not told to MLflow: %s", _first_line(error))

    def end(self, status: str) -> None:
        self.client.set_terminated(self.id, status)


@contextmanager
def system_metrics(run: Run) -> Iterator[None]:
    """CPU, memory, disk and network of the machine, as MLflow's own metrics `system/…`, of a run that is not over in seconds."""
    started: list[Any] = []

    def start() -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run.id, tracking_uri=run.tracker.uri)
        monitor.start()
        started.append(monitor)

    timer = threading.Timer(SYSTEM_METRICS_AFTER_SECONDS, start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    # not after an error: a job that is stopped has no time for it, and the monitor ends with its run
    timer.join()
    for monitor in started:
        monitor.finish()


SOURCE_TYPES = {"file": "local", "https": "http"}
"""MLflow's own words for where a dataset comes from: of those that it knows, `mlflow.data.get_source` finds the data again."""


def dataset_name(uri: str) -> str:
    """The last part of a path or an address that names something."""
    parts = urlsplit(uri)
    return Path(parts.path).name or parts.netloc.rpartition("@")[2] or "data"


def dataset_source(data: config.Data) -> dict[str, str]:
    """Where the data is, without what only its reader may know: this goes into what everybody reads."""
    uri = stores.shown(data.uri)
    if uri.startswith(stores.WEB):
        return {"url": uri}
    return {"uri": uri} | ({"query": data.query} if data.query else {})


def colspec(name: str, dtype: str) -> dict[str, str | bool]:
    """A column in MLflow's own schema, which its pages show; `dtype` as pandas names it."""
    names = {
        "bool": "boolean",
        "boolean": "boolean",
        "float32": "float",
        "float64": "double",
        "int64": "long",
        "uint32": "long",
        "uint64": "long",
    }
    kind = "datetime" if dtype.startswith("datetime") else "integer" if "int" in dtype else "string"
    return {"type": names.get(dtype, kind), "name": name, "required": True}


def registered_before(tracker: Tracker, experiment: str, origin: Origin) -> Run | None:
    """The run of this very attempt, if it has come to its end: KubeRay submits a job again whose head restarted.

    Raises `HeadRestarted` where the attempt was begun and has no model: what became of it nobody knows, and the attempt ends.
    A queue that took the cluster away and gave it back (Kueue) leaves the same behind.
    """
    if not origin.uid:
        return None
    with explained(tracker):
        client = tracker.client()
        found = _find(client, experiment, origin)
    if found is None:
        return None
    if found.info.status == "FINISHED" and "m3.model.version" in found.data.tags:
        return Run(client, found.info.run_id, found.info.experiment_id, tracker, origin)
    raise HeadRestarted(
        f"attempt {origin.attempt} must be begun once; its run {found.info.run_id} is there and {found.info.status}: the head, "
        "or the whole cluster, was restarted under it"
    )


@contextmanager
def open_run(tracker: Tracker, experiment: str, origin: Origin) -> Iterator[Run]:
    """A run that ends as FINISHED, FAILED or KILLED, whatever happens inside. Raises `TrackingUnavailable`, `StorageFull`."""
    with explained(tracker):
        client = tracker.client()
        experiment_id = _experiment(client, tracker, experiment)
        run = _create(client, experiment_id, tracker, origin)
    try:
        with explained(tracker):
            yield run
            run.end("FINISHED")
    except (Exception, Stopped, KeyboardInterrupt) as error:
        _end_after(run, error)
        raise


def _end_after(run: Run, error: BaseException) -> None:
    """The run's end must not hide why it ended: with MLflow down there is nothing to write to."""
    import mlflow.exceptions
    import requests

    try:
        if isinstance(error, M3Error):
            run.log(tags={"m3.error": str(error)[:MAX_PARAM_LENGTH]})
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        run.end(status)
        log.info("the run %s is marked %s", run.id, status)
    except (mlflow.exceptions.MlflowException, requests.RequestException, OSError) as fault:
        log.warning("the run %s could not be ended: %s", run.id, _first_line(fault))


def _experiment(client: MlflowClient, tracker: Tracker, name: str) -> str:
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    try:
        return client.create_experiment(
            name, artifact_location=tracker.artifacts.as_uri() if tracker.artifacts else None
        )
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and (found := client.get_experiment_by_name(name)):
            return found.experiment_id  # another job made it in between
        raise


def _find(client: MlflowClient, experiment: str, origin: Origin) -> Entity | None:
    if (made := client.get_experiment_by_name(experiment)) is None:
        return None
    wanted = f"tags.`m3.job.uid` = '{origin.uid}' AND tags.`m3.job.attempt` = '{origin.attempt}'"
    return next(iter(client.search_runs([made.experiment_id], wanted, max_results=1)), None)


def _create(client: MlflowClient, experiment_id: str, tracker: Tracker, origin: Origin) -> Run:
    tags = origin.tags() | {"mlflow.source.name": "m3", "mlflow.source.type": "JOB" if origin.uid else "LOCAL"}
    info = client.create_run(experiment_id, tags=tags, run_name=origin.name).info
    if file := os.environ.get(RUN_FILE):
        OwnRun(info.run_id, info.artifact_uri, tracker.uri).write(Path(file))
    return Run(client, info.run_id, experiment_id, tracker, origin)
