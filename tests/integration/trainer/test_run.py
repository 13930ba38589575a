"""`m3` against a real MLflow: what a run leaves behind, and what it says where something is wrong."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from harness import unused_port
from support import M3


def client(home: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def test_a_run_leaves_params_metrics_picture_dataset_model_and_version(m3, job_file, clean: Path) -> None:
    ended = m3("run", "-f", job_file(), "--output", "json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    tracked = client(clean / "m3")
    run = tracked.get_run(result["run"]["runId"])
    assert run.info.status == "FINISHED"
    assert run.data.params.items() >= {"n_estimators": "10", "max_depth": "8", "model_type": "random_forest"}.items()
    assert run.data.metrics.items() >= result["metrics"].items()
    assert run.data.metrics["train_rows"] == 16_000
    assert run.data.tags["m3.data.digest"] == result["lineage"]["dataDigest"]
    assert run.inputs.dataset_inputs[0].dataset.digest == result["lineage"]["dataDigest"].split(":")[1][:36]
    assert "feature_importance.png" in [file.path for file in tracked.list_artifacts(run.info.run_id)]
    version = tracked.get_model_version("fraud_detector", "1")
    assert version.run_id == run.info.run_id
    model = mlflow.models.get_model_info("models:/fraud_detector/1")
    assert model.signature is not None
    assert model.signature.inputs.input_names() == result["features"]
    made = tracked.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert (made.status, made.model_uri) == ("READY", version.source)
    assert made.params == run.data.params
    assert {metric.key: metric.value for metric in made.metrics or ()} == run.data.metrics
    assert made.tags["mlflow.source.name"] == "m3"


def test_the_same_file_gives_the_same_metrics_and_another_seed_others(m3, job_file) -> None:
    same = [json.loads(m3("run", "-f", job_file(), "-o", "json").out)["metrics"] for _ in range(2)]
    other = json.loads(m3("run", "-f", job_file(model={"randomState": 1}), "-o", "json").out)["metrics"]
    assert same[0] == same[1] != other


def test_the_three_next_commands_can_be_pasted(m3, job_file) -> None:
    ended = m3("run", "-f", job_file())
    assert "registered fraud_detector version 1 (models:/fraud_detector/1)" in ended.out
    lines = {line.strip().split("  ")[0]: line for line in ended.out.split("next:")[1].splitlines() if line.strip()}
    assert list(lines) == ["look at it in MLflow", "score a transaction", "run it on a cluster"]
    command = lines["score a transaction"].split("m3 ", 1)[1]
    score = subprocess.run(
        f"{' '.join(M3)} {command}", shell=True, capture_output=True, text=True, timeout=60, check=False
    )
    assert score.returncode == 0, score.stderr
    assert score.stdout.startswith("models:/fraud_detector/1  probability 0.")


SPEC_MISTAKES = {
    "an unknown model type": ({"model": {"type": "forest"}}, "spec.model: `type` must be one of random_forest"),
    "an unknown hyperparameter": (
        {"model": {"hyperparameters": {"n_estimatrs": 10}}},
        "hyperparameter `n_estimatrs` must be one that random_forest has; did you mean `n_estimators`?",
    ),
    "a typo in a field name": (
        {"data": {"tagret": "y"}},
        "spec.data.tagret: must be a known field; did you mean `target`?",
    ),
    "a wrong type": ({"training": {"testSize": "a fifth"}}, "spec.training.testSize: must be a number"),
    "a field that is none": ({"moddel": {}}, "spec.moddel: must be a known field; did you mean `model`?"),
}


@pytest.mark.parametrize(("replaced", "message"), SPEC_MISTAKES.values(), ids=SPEC_MISTAKES.keys())
def test_a_mistake_in_the_file_is_one_message(m3, job_file, replaced: dict, message: str) -> None:
    ended = m3("run", "-f", job_file(**replaced))
    assert (ended.code, message in ended.err) == (2, True), ended.err


def test_a_value_that_the_model_refuses_ends_the_run_as_failed(m3, job_file, clean: Path) -> None:
    model = {"type": "logistic_regression", "hyperparameters": {"solver": "lbfgs", "l1_ratio": 1}}
    ended = m3("run", "-f", job_file(model=model))
    assert ended.code == 6
    assert "Pipeline must be able to learn from the data: Solver lbfgs supports only" in ended.err
    tracked = client(clean / "m3")
    (run,) = tracked.search_runs([tracked.get_experiment_by_name("fraud_detection").experiment_id])
    assert run.info.status == "FAILED"
    assert "lbfgs" in run.data.tags["m3.error"]
    assert registered(clean / "m3") == []


def registered(home: Path) -> list[str]:
    if not (home / "mlflow.db").exists():
        return []
    return [model.name for model in client(home).search_registered_models()]


def test_an_mlflow_that_is_down_is_named_before_anything_is_trained(m3, job_file, monkeypatch) -> None:
    monkeypatch.setattr("m3_trainer.tracking.PROBE_PAUSE_SECONDS", 0.01)
    uri = f"http://127.0.0.1:{unused_port()}"
    ended = m3("run", "-f", job_file(), "--tracking-uri", uri)
    assert ended.code == 4
    assert f"error: MLflow at {uri} must answer: " in ended.err
    assert "Is it running, and MLFLOW_TRACKING_URI right?" in ended.err
    assert "fit " not in ended.err


def test_with_mlflow_down_a_mistake_of_the_user_is_what_is_reported(m3, job_file, monkeypatch) -> None:
    monkeypatch.setattr("m3_trainer.tracking.PROBE_PAUSE_SECONDS", 0.01)
    ended = m3("run", "-f", job_file(data={"target": "FRAUD"}), "--tracking-uri", f"http://127.0.0.1:{unused_port()}")
    assert ended.code == 3
    assert "column `FRAUD` must be in the data; did you mean `TX_FRAUD`?" in ended.err


def test_a_server_that_refuses_the_host_name_is_told_apart_from_one_that_is_down(m3, job_file, server: str) -> None:
    uri = server.replace("127.0.0.1", "localhost")
    ended = m3("run", "-f", job_file(), "--tracking-uri", uri)
    assert ended.code == 4
    host = uri.removeprefix("http://")
    assert f"MLflow at {uri} must accept the host name {host}: start it with --allowed-hosts {host}" in ended.err


@contextmanager
def small_disk(megabytes: int, command: list[str], folder: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """Run a command with `folder` on a disk of that size, in a mount namespace of its own: no rights on this machine needed."""
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs {folder} && exec "$@"'
    namespace = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    yield subprocess.run(
        [*namespace, "sh", "-c", mount, "sh", *command], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("megabytes", [1, 2])
def test_a_full_disk_is_named(clean: Path, job_file, megabytes: int) -> None:
    home = clean / "full"
    home.mkdir()
    path = job_file(model={"hyperparameters": {"n_estimators": 100}})
    with small_disk(megabytes, [*M3, "run", "-f", path, "--home", str(home)], home) as ended:
        assert ended.returncode == 5, ended.stderr
        assert f"error: the disk of {home} must have free space; it has none left" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_model_that_is_not_there_is_named(m3, job_file) -> None:
    m3("run", "-f", job_file())
    ended = m3("predict", "models:/none/1", "--features", "[1]")
    assert ended.code == 2
    assert "models:/none/1 must be registered" in ended.err


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("[1, 2]", "features: must be 7 numbers (TX_AMOUNT, "),
        ('{"TX_AMOUNT": 1}', "features: `TX_DURING_WEEKEND` must be given; the model needs TX_AMOUNT"),
        ("many", "--features: must be JSON"),
        ('["a", 1, 1, 1, 1, 1, 1]', "features: every value must be a number"),
    ],
)
def test_a_row_that_is_no_row_of_the_model_is_refused(m3, job_file, features: str, message: str) -> None:
    m3("run", "-f", job_file())
    ended = m3("predict", "models:/fraud_detector/1", "--features", features)
    assert message in ended.err
    assert ended.code in (2, 3)


def test_a_folder_that_may_not_be_written_to_is_named(m3, job_file, clean: Path) -> None:
    (clean / "file").write_text("in the way")
    ended = m3("run", "-f", job_file(), "--home", "file/m3")
    assert (ended.code, "file/m3 must be a folder that can be written to" in ended.err) == (2, True), ended.err
