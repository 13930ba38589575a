"""Models in MLflow's registry: stored without pickle, registered once, loaded with our own allow-list."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from m3_trainer import encoding, features, models, own_class
from m3_trainer.errors import DataError, InvalidSpec, TrackingUnavailable
from m3_trainer.tracking import Run, Tracker, explained

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

# Given, they spare MLflow a subprocess that infers them: 0.2 s instead of 3.
REQUIREMENTS = ("mlflow", "scikit-learn", "skops", "numpy", "pandas", "xgboost-cpu", "lightgbm")
MODEL_FILE = "model.skops"
WORKLOAD_FILE = "lineage/workload.json"
"""Among the run's artifacts: what was asked, and so how to compute the features of the rows that are to be scored."""
EXAMPLE_ROWS = 5
SOURCE_TAGS = ("mlflow.source.", "mlflow.user")
"""Of the run's, those that its model has, too: where both come from."""
ALONE_SECONDS = 120
"""To wait for another process that scores its rows with a holder's model and moves an alias."""
THRESHOLD = "m3.threshold"
"""Key in the metadata of MLflow's `MLmodel` file."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    def document(self) -> dict[str, str]:
        return {"name": self.name, "version": self.version, "uri": self.uri}


@dataclass(frozen=True)
class Stored:
    """A model out of the registry."""

    estimator: Any
    threshold: float | None
    """Probability from which its makers count a row as positive; None where a version of another tool does not say."""

    @property
    def features(self) -> list[str]:
        """Names of its features, in its order."""
        return [str(name) for name in self.estimator.feature_names_in_]

    @property
    def categorical(self) -> list[str]:
        """Those of them that are names."""
        return encoding.categorical_of(models.uncalibrated(self.estimator))


def store(run: Run, estimator: Any, example: pd.DataFrame, threshold: float) -> str:
    """Log the model under the run, with signature, input example, threshold, and the run's params and metrics; gives its URI.

    By the steps of MLflow's own `log_model`, but for two: that loads what it has stored once more, to score the example, and
    asks for the history of each of the run's metrics in turn.

    Raises `InvalidSpec` where it could not be loaded again without pickle, `UserCodeFailed`.
    """
    from mlflow.models import Model, infer_signature

    is_own = not own_class.is_of_a_library(type(models.model_of(estimator)))
    head, estimator = example.head(EXAMPLE_ROWS), models.serial(estimator)
    with _logged_model(run) as made, tempfile.TemporaryDirectory(prefix="m3-model-") as temporary:
        folder = str(Path(temporary) / "model")
        (_save_own_class if is_own else _save_with_skops)(
            estimator,
            path=folder,
            mlflow_model=Model(
                artifact_path=made.artifact_location, run_id=run.id, model_uuid=made.model_id, model_id=made.model_id
            ),
            signature=infer_signature(head, estimator.predict_proba(head)),
            input_example=head,
            pip_requirements=_requirements(),
            metadata={THRESHOLD: threshold},
        )
        run.client.log_model_artifacts(made.model_id, folder)
    return made.model_uri


@contextmanager
def _logged_model(run: Run) -> Iterator[LoggedModel]:
    """MLflow's record of a model, told of the run that has made it. It is READY, or, after an error, FAILED."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    client, known = run.client, run.client.get_run(run.id).data
    source = {name: value for name, value in known.tags.items() if name.startswith(SOURCE_TAGS)}
    made = client.create_logged_model(run.experiment_id, "model", run.id, tags=source, params=known.params)
    status = LoggedModelStatus.FAILED
    try:
        yield made
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0, model_id=made.model_id) for name, value in known.metrics.items()]
        run.log_measured(metrics)
        client.log_outputs(run.id, [LoggedModelOutput(made.model_id, 0)])
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(made.model_id, status)


@contextmanager
def _refused_in_our_words(estimator: Any) -> Iterator[None]:
    """MLflow refuses the types that are not on our list, too: asked before it, our own check would store a model twice."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException:
        models.dumps(estimator)
        raise


def _save_with_skops(estimator: Any, **what: Any) -> None:
    import mlflow.sklearn as mlflow_sklearn

    with _refused_in_our_words(estimator):
        mlflow_sklearn.save_model(
            estimator,
            serialization_format="skops",
            skops_trusted_types=list(models.TRUSTED_TYPES),
            pyfunc_predict_fn="predict_proba",
            **what,
        )


def _save_own_class(estimator: Any, input_example: pd.DataFrame, **what: Any) -> None:
    import mlflow.pyfunc

    model = models.model_of(estimator)
    with tempfile.TemporaryDirectory(prefix="m3-model-") as temporary:
        folder = Path(temporary) / own_class.FOLDER
        columns = encoding.names_in(models.uncalibrated(estimator)) or input_example.columns
        own_class.save(model, [str(name) for name in columns], folder)
        if model is not estimator:
            (folder / own_class.AROUND).write_bytes(models.dumps_around(estimator))
        mlflow.pyfunc.save_model(
            data_path=str(folder), loader_module="m3_trainer.registry", input_example=input_example, **what
        )


def _load_pyfunc(path: str) -> Any:
    """What MLflow calls to load a model of a user's own class: with the same list of allowed modules."""
    estimator = _own(Path(path), ())
    estimator.predict = estimator.predict_proba
    return estimator


def _own(folder: Path, allowed: Collection[str]) -> Any:
    model = own_class.load(folder, {*allowed, *own_class.allowed_modules()})
    around = folder / own_class.AROUND
    return models.loads_around(around.read_bytes(), model) if around.is_file() else model


def _requirements() -> list[str]:
    installed = {name: _version(name) for name in REQUIREMENTS}
    return [f"{name}=={version}" for name, version in installed.items() if version]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def register(run: Run, model_uri: str, name: str, card: str = "", tags: Mapping[str, str] | None = None) -> Version:
    """The version of `name` for this attempt of the job: the one that is there, or a new one.

    An earlier attempt may have ended between its registration and the moment when its run names the version: nobody was told
    of that version, and this one takes its place. So does a version that a repeated request has made twice. `card` becomes the
    version's description, `tags` are its own beside those that lead to the job.
    """
    attempt = str(run.origin.attempt)
    own = [str(found.version) for found in _versions(run, name) if found.tags["m3.job.attempt"] == attempt]
    version = own[0] if own else _create(run, model_uri, name, card, tags or {})
    for found in _versions(run, name):
        if str(found.version) != version and not _is_announced(run, found):
            run.client.delete_model_version(name, str(found.version))
    return Version(name, version)


def _versions(run: Run, name: str) -> list[ModelVersion]:
    """Versions of the model by attempts of this run's job; a run on a laptop has no attempts."""
    if not run.origin.uid:
        return []
    found = run.client.search_model_versions(f"tags.`m3.job.uid` = '{run.origin.uid}'")
    return [version for version in found if version.name == name]


def _create(run: Run, model_uri: str, name: str, card: str, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    origin = run.origin
    try:
        run.client.create_registered_model(name, tags=origin.owner_tags())
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model_id = model_uri.removeprefix("models:/")
    made = run.client.create_model_version(
        name,
        source=model_uri,
        run_id=run.id,
        model_id=model_id,
        tags={**tags, **origin.version_tags()},
        description=card or None,
    )
    return str(made.version)


def _is_announced(run: Run, version: ModelVersion) -> bool:
    """Whether its run names it, or somebody has given it an alias."""
    tags = run.client.get_run(version.run_id).data.tags
    aliases = run.client.get_model_version(version.name, version.version).aliases
    return tags.get("m3.model.version") == str(version.version) or bool(aliases)


def holder(run: Run, name: str, alias: str) -> Version | None:
    """The version that has an alias, if one has."""
    from mlflow.exceptions import MlflowException

    try:
        found = run.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return Version(name, str(found.version))


@contextmanager
def alone(tracker: Tracker) -> Iterator[None]:
    """While this is open no other process of this machine and user moves an alias in the same MLflow.

    By a lock on a file: the system takes it back from a process that was killed. It does not reach to other machines that write
    to the same server. Raises `TrackingUnavailable`.
    """
    from filelock import FileLock, Timeout

    named = f"m3-{os.getuid()}-{hashlib.sha256(tracker.uri.encode()).hexdigest()[:16]}.lock"
    file = tracker.artifacts.parent / "promotion.lock" if tracker.artifacts else Path(tempfile.gettempdir()) / named
    try:
        with FileLock(file, timeout=ALONE_SECONDS):
            yield
    except Timeout as error:
        raise TrackingUnavailable(
            f"another run must have moved its alias within {ALONE_SECONDS} s, and still holds {file}"
        ) from error


def give_alias(run: Run, version: Version, alias: str) -> None:
    run.client.set_registered_model_alias(version.name, alias, version.version)


def tag_version(run: Run, version: Version, tags: dict[str, str]) -> None:
    for name, value in tags.items():
        run.client.set_model_version_tag(version.name, version.version, name, value)


def artifact_of(run: Run, version: Version, path: str) -> bytes | None:
    """A file of the run that has made a version; None where there is no such run or file."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="m3-artifact-") as folder:
        try:
            made_by = run.client.get_model_version(version.name, version.version).run_id
            if not made_by or path not in _files(run, made_by, path):
                return None
            local = mlflow.artifacts.download_artifacts(
                run_id=made_by, artifact_path=path, dst_path=folder, tracking_uri=run.tracker.uri
            )
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return Path(local).read_bytes()


def _files(run: Run, run_id: str, path: str) -> list[str]:
    """Asked for first: a file that is not there is told of by each kind of store in its own way."""
    return [found.path for found in run.client.list_artifacts(run_id, str(Path(path).parent))]


def load(uri: str, tracker: Tracker, allowed: Collection[str] = ()) -> Stored:
    """The model behind `models:/name/version` or `models:/name@alias`. A class of a user's own is loaded where its module is
    `allowed`, here or by `M3_MODEL_MODULES`. Raises `InvalidSpec`, `TrackingUnavailable`, `UserCodeFailed`.

    Not by MLflow's own loader: that trusts the types which the model itself names.
    """
    if not uri.startswith("models:/"):
        raise InvalidSpec(f"a model must be named as models:/NAME/VERSION or models:/NAME@ALIAS, is {uri}")
    with tempfile.TemporaryDirectory(prefix="m3-model-") as folder:
        local = download(uri, tracker, Path(folder))
        return Stored(_loaded(local, uri, allowed), _threshold(local))


def download(uri: str, tracker: Tracker, folder: Path) -> Path:
    """The files of a model in a folder under `folder`. Raises `InvalidSpec`, `TrackingUnavailable`."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    with explained(tracker):
        tracker.client()
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise InvalidSpec(f"{uri} must be registered in MLflow at {tracker.uri}; it is not") from error
            raise


def _loaded(local: Path, uri: str, allowed: Collection[str]) -> Any:
    own = local / "data" / own_class.FOLDER
    if own.is_dir():
        return _own(own, allowed)
    if not (local / MODEL_FILE).is_file():
        raise InvalidSpec(f"{uri} must be a model stored by M3 in skops' format; it holds no {MODEL_FILE}")
    return models.loads((local / MODEL_FILE).read_bytes())


def _threshold(local: Path) -> float | None:
    import yaml

    about = yaml.safe_load((local / "MLmodel").read_text()) if (local / "MLmodel").is_file() else {}
    value = (about.get("metadata") or {}).get(THRESHOLD)
    return value if isinstance(value, float | int) else None


def score(stored: Stored, rows: list[dict[str, Any]] | list[list[Any]]) -> list[float]:
    """Probability of class 1 for each row. Raises `DataError` where a feature is missing, unknown or of the wrong type."""
    names, categorical = stored.features, stored.categorical
    frame = pd.DataFrame([_ordered(row, names) for row in rows], columns=pd.Index(names), dtype=object)
    try:
        columns = {
            name: features.texts(frame[name]) if name in categorical else frame[name].astype("float64")
            for name in names
        }
    except (ValueError, TypeError) as error:
        raise DataError(f"features: every value must be a number: {error}") from error
    return models.probabilities(stored.estimator, pd.DataFrame(columns)).tolist()


def _ordered(row: dict[str, Any] | list[Any], names: list[str]) -> list[Any]:
    if isinstance(row, list):
        if len(row) != len(names):
            raise DataError(f"features: must be {len(names)} numbers ({', '.join(names)}), are {len(row)}")
        return row
    if missing := [name for name in names if name not in row]:
        raise DataError(f"features: `{missing[0]}` must be given; the model needs {', '.join(names)}")
    if unknown := [name for name in row if name not in names]:
        raise DataError(f"features: `{unknown[0]}` must be a feature of the model, which has {', '.join(names)}")
    return [row[name] for name in names]
