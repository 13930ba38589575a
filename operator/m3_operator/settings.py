"""The operator's settings, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from m3_operator.errors import SettingsError

RAY_VERSION = "2.60.0"
"""Ray in the trainer's image; KubeRay picks its probes by it."""

LONGEST_RESYNC = 30.0
"""Seconds; each resync is also the sign of life that `/healthz` looks for."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, slots=True)
class Settings:
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces whose jobs are run; empty for all of the cluster's."""
    namespace: str = "default"
    """The operator's own namespace."""
    operator_id: str = "m3"
    """Tag `m3.operator` of every run this operator's jobs make: it finds them all with one search."""
    trainer_image: str = "m3-trainer:dev"
    image_pull_policy: str = "IfNotPresent"
    tracking_uri: str = "http://mlflow.m3-system.svc.cluster.local:5000"
    """MLflow, as jobs and the operator reach it."""
    ui_url: str = "http://mlflow.m3-system.svc.cluster.local:5000"
    """MLflow, as people reach it: the base of the links in status."""
    resync_seconds: float = 10.0
    probe_port: int = 8080
    log_level: str = "INFO"

    @property
    def clusterwide(self) -> bool:
        return not self.watch_namespaces

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises SettingsError for a value that cannot be used."""
        default = cls()

        def text(name: str, otherwise: str) -> str:
            return environment.get(name, "").strip() or otherwise

        namespace = text("M3_NAMESPACE", default.namespace)
        tracking_uri = _url("M3_MLFLOW_TRACKING_URI", text("M3_MLFLOW_TRACKING_URI", default.tracking_uri))
        return cls(
            watch_namespaces=_namespaces(text("M3_WATCH_NAMESPACES", namespace)),
            namespace=namespace,
            operator_id=text("M3_OPERATOR_ID", default.operator_id),
            trainer_image=text("M3_TRAINER_IMAGE", default.trainer_image),
            image_pull_policy=_one_of(
                "M3_IMAGE_PULL_POLICY",
                text("M3_IMAGE_PULL_POLICY", default.image_pull_policy),
                ("Always", "IfNotPresent", "Never"),
            ),
            tracking_uri=tracking_uri,
            ui_url=_url("M3_MLFLOW_UI_URL", text("M3_MLFLOW_UI_URL", tracking_uri)),
            resync_seconds=_number("M3_RESYNC_SECONDS", text("M3_RESYNC_SECONDS", "10"), 0.1, LONGEST_RESYNC),
            probe_port=int(_number("M3_PROBE_PORT", text("M3_PROBE_PORT", "8080"), 0, 65535)),
            log_level=_one_of("M3_LOG_LEVEL", text("M3_LOG_LEVEL", default.log_level).upper(), LOG_LEVELS),
        )


def _namespaces(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if "*" in names else names


def _url(name: str, value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise SettingsError(f"{name} must be a URL of scheme http or https, is {value!r}")
    return value.rstrip("/")


def _number(name: str, value: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise SettingsError(f"{name} must be a number from {low:g} to {high:g}, is {value!r}")
    return number


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise SettingsError(f"{name} must be one of {', '.join(known)}, is {value!r}")
    return value
