"""Options that many commands have, and the completion of names in the cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from m3_trainer.errors import M3Error

COMPLETION_SECONDS = 1.0
"""A shell that waits for a completion seems to hang."""


class Output(StrEnum):
    text = "text"
    json = "json"


def complete_jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the TrainingJobs in the namespace that stands on the line; none, and no word, without a cluster."""
    from m3_trainer import kube

    try:
        found = kube.connect(ctx.params.get("context"), ctx.params.get("namespace"), COMPLETION_SECONDS)
        names = [job["metadata"]["name"] for job in found.jobs(found.namespace)]
    except M3Error:
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    from m3_trainer import kube

    try:
        names = kube.connect(ctx.params.get("context"), timeout=COMPLETION_SECONDS).namespaces()
    except M3Error:
        return []
    return [name for name in names if name.startswith(incomplete)]


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for scripts.")]
LogConfigOption = Annotated[
    str | None,
    typer.Option(help="YAML file that says where messages go, in the form of Python's logging.config.dictConfig."),
]
ModelOutputOption = Annotated[
    Path | None,
    typer.Option(envvar="MODEL_OUTPUT_PATH", help="Folder to write the model to as well, as NAME/VERSION."),
]
HomeOption = Annotated[
    Path,
    typer.Option(
        "--home", envvar="M3_HOME", help="Folder for the runs of this machine, where no MLflow server is given."
    ),
]
DEFAULT_HOME = Path("m3")
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow to log to; by default one in --home."),
]
JobArgument = Annotated[str, typer.Argument(help="Name of a TrainingJob.", autocompletion=complete_jobs)]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace; by default the context's.", autocompletion=complete_namespaces),
]
ContextOption = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig; by default the current one.")
]
SystemNamespaceOption = Annotated[
    str,
    typer.Option(
        "--system-namespace",
        envvar="M3_SYSTEM_NAMESPACE",
        help="Namespace that M3 is installed in.",
        autocompletion=complete_namespaces,
    ),
]
MlflowServiceOption = Annotated[
    str, typer.Option("--mlflow-service", help="Service of MLflow there, as NAME or NAME:PORT.")
]
ClusterTrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="Address of the cluster's MLflow; by default its Service, through the API server.",
    ),
]
SYSTEM_NAMESPACE, MLFLOW_SERVICE = "m3-system", "mlflow"
