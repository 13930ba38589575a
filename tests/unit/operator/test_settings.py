"""The environment, read."""

import pytest

from m3_operator.errors import SettingsError
from m3_operator.settings import Settings


def test_nothing_said():
    assert Settings.from_environment({}) == Settings(watch_namespaces=("default",))


def test_everything_said():
    environment = {
        "M3_WATCH_NAMESPACES": "shop, lab", "M3_NAMESPACE": "m3-system", "M3_OPERATOR_ID": "m3-system/m3",
        "M3_TRAINER_IMAGE": "trainer:1", "M3_IMAGE_PULL_POLICY": "Always",
        "M3_MLFLOW_TRACKING_URI": "http://mlflow:5000/", "M3_MLFLOW_UI_URL": "https://mlflow.example/",
        "M3_RESYNC_SECONDS": "2.5", "M3_PROBE_PORT": "9090", "M3_LOG_LEVEL": "debug",
    }  # fmt: skip
    assert Settings.from_environment(environment) == Settings(
        watch_namespaces=("shop", "lab"), namespace="m3-system", operator_id="m3-system/m3", trainer_image="trainer:1",
        image_pull_policy="Always", tracking_uri="http://mlflow:5000", ui_url="https://mlflow.example",
        resync_seconds=2.5, probe_port=9090, log_level="DEBUG",
    )  # fmt: skip


def test_the_own_namespace_is_watched_by_default():
    assert Settings.from_environment({"M3_NAMESPACE": "m3-system"}).watch_namespaces == ("m3-system",)


def test_a_star_is_the_whole_cluster():
    assert Settings.from_environment({"M3_WATCH_NAMESPACES": "*"}).clusterwide


def test_people_reach_mlflow_as_jobs_do_unless_told():
    assert Settings.from_environment({"M3_MLFLOW_TRACKING_URI": "http://a:1"}).ui_url == "http://a:1"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("M3_RESYNC_SECONDS", "soon", "M3_RESYNC_SECONDS must be a number from 0.1 to 30, is 'soon'"),
        ("M3_RESYNC_SECONDS", "0", "M3_RESYNC_SECONDS must be a number from 0.1 to 30, is '0'"),
        ("M3_RESYNC_SECONDS", "60", "M3_RESYNC_SECONDS must be a number from 0.1 to 30, is '60'"),
        ("M3_PROBE_PORT", "70000", "M3_PROBE_PORT must be a number from 0 to 65535, is '70000'"),
        ("M3_LOG_LEVEL", "loud", "M3_LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, is 'LOUD'"),
        ("M3_IMAGE_PULL_POLICY", "x", "M3_IMAGE_PULL_POLICY must be one of Always, IfNotPresent, Never, is 'x'"),
        ("M3_MLFLOW_UI_URL", "mlflow", "M3_MLFLOW_UI_URL must be a URL of scheme http or https, is 'mlflow'"),
    ],
)
def test_a_bad_value_is_named(name, value, message):
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({name: value})
    assert str(error.value) == message
