"""What the environment, and a file `.env` in the working folder, say where no flag does."""

from __future__ import annotations

import os
from pathlib import Path

from m3_trainer.errors import InvalidSpec

FILE = ".env"

VARIABLES = {
    "MLFLOW_TRACKING_URI": "MLflow to log to (--tracking-uri), as http://mlflow:5000; by default one in M3_HOME",
    "MLFLOW_EXPERIMENT_NAME": "MLflow experiment of m3 train (--experiment-name)",
    "TRAIN_DATA_PATH": "data of m3 train (--data): a path or a URL of CSV or Parquet, or of a database",
    "SAMPLE_SIZE": "train on this many rows (--sample-size), when memory is short",
    "MODEL_OUTPUT_PATH": "folder that the model is written to as well (--model-output-path), as NAME/VERSION",
    "RAY_ADDRESS": "Ray cluster to train on, as ray://HOST:10001",
    "RAY_AUTH_TOKEN": "its token, where it asks for one, with RAY_AUTH_MODE=token",
    "RAY_DASHBOARD_HOST": "host of Ray's dashboard, which m3 doctor looks for",
    "RAY_DASHBOARD_PORT": "port of Ray's dashboard; by default 8265",
    "M3_HOME": "folder for the runs of this machine (--home), where no MLflow server is given; by default m3",
    "M3_MODEL_MODULES": "modules whose classes a registered model may be of: their code runs",
    "M3_SYSTEM_NAMESPACE": "namespace of the cluster that M3 is installed in",
    "DATABASE_USER": "user of the database in data.uri",
    "DATABASE_PASSWORD": "its password, which data.uri must not hold",
    "AWS_ACCESS_KEY_ID": "key of S3",
    "AWS_SECRET_ACCESS_KEY": "its secret",
    "AWS_ENDPOINT_URL": "address of a store that speaks S3 and is not Amazon's",
    "GOOGLE_CREDENTIALS": "key of a service account for gs://, as JSON",
}
"""Every variable that is documented: by `m3 help environment`, and by `.env.example`."""


def load(folder: Path) -> list[str]:
    """Take what `.env` says and the environment does not; gives the names that were taken. Raises `InvalidSpec`.

    Only from the working folder, not from its parents as python-dotenv's own search does: a file that lies elsewhere must not
    send a run to another server.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    found = _read(file)
    taken = {name: value for name, value in found.items() if value is not None and name not in os.environ}
    os.environ.update(taken)
    return sorted(taken)


def _read(file: Path) -> dict[str, str | None]:
    from dotenv import dotenv_values, parser

    try:
        with file.open(encoding="utf-8") as stream:
            bindings = list(parser.parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{FILE}: must be a readable text file: {error}") from error
    if wrong := next((binding for binding in bindings if binding.error), None):
        raise InvalidSpec(
            f"{FILE}: line {wrong.original.line} must be NAME=value, or a comment behind #; quotes must be closed"
        )
    return dotenv_values(file)
