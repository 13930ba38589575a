"""The classic command line: its flags, its files and its variables, as its users have them."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from support import M3, Ended

from m3_trainer.cli import environment, topics

ROOT = Path(__file__).parents[3]
CONTROL_SEQUENCE = "\x1b["


@pytest.fixture
def config(clean: Path) -> Path:
    """The classic files where their users have them, and data."""
    shutil.copytree(ROOT / "config", clean / "config")
    return clean / "config"


@pytest.fixture
def sample(m3: Callable[..., Ended]) -> str:
    told = json.loads(m3("data", "sample", "--rows", "6000", "-o", "json").out)
    assert (told["rows"], told["target"]) == (6_000, "TX_FRAUD")
    return told["path"]


def run_of(ended: Ended) -> mlflow.entities.Run:
    """What MLflow has of the run that a command has told of."""
    told = json.loads(ended.out)["run"]
    return mlflow.MlflowClient(told["trackingUri"]).get_run(told["runId"])


# --- flags ------------------------------------------------------------------------------------------------------------
def test_every_flag_has_both_spellings_and_means_the_same(m3, sample: str) -> None:
    flags = {
        "n-estimators": "8", "max-depth": "9", "min-samples-split": "4", "min-samples-leaf": "2", "test-size": "0.25",
        "cv-folds": "2", "sample-size": "4000", "experiment-name": "x", "random-state": "3", "model-name": "cards",
        "model-type": "random_forest", "target": "TX_FRAUD",
    }  # fmt: skip
    told = []
    for spelt in (str, lambda name: name.replace("-", "_")):
        given = [part for name, value in flags.items() for part in (f"--{spelt(name)}", value)]
        ended = m3("train", "--data", sample, *given, "--output", "json")
        assert ended.code == 0, ended.err
        told.append(json.loads(ended.out))
    assert told[0]["metrics"] == told[1]["metrics"]
    assert told[0]["rows"]["train_rows"] == 3_000
    assert "cv_average_precision_mean" in told[0]["metrics"]
    assert not {"TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID"} & set(told[0]["features"])
    assert [each["model"]["uri"] for each in told] == ["models:/cards/1", "models:/cards/2"]
    params = run_of(ended).data.params
    asked = {"n_estimators": "8", "max_depth": "9", "min_samples_split": "4", "min_samples_leaf": "2"}
    assert params.items() >= (asked | {"random_state": "3"}).items()


# --- files ------------------------------------------------------------------------------------------------------------
def test_the_classic_files_are_read_as_they_stand(m3_process, sample: str, config: Path) -> None:
    assert yaml.safe_load((config / "model_config.yaml").read_text()) == {
        "model": {"type": "random_forest", "random_state": 42},
        "hyperparameters": {"n_estimators": 100, "max_depth": 10, "min_samples_split": 2, "min_samples_leaf": 1},
        "training": {"test_size": 0.2, "cv_folds": 5},
        "tuning": {"n_trials": 20, "timeout": 3600},
    }
    files = ["--config", "config/model_config.yaml", "--log-config", "config/logging_config.yaml"]
    ended = m3_process("train", *files, "--data", sample, "--n-estimators", "10", "-o", "json")
    assert ended.code == 0, ended.err
    assert "config/model_config.yaml: `tuning` is for m3 tune; m3 train leaves it out\n" in ended.err
    result = json.loads(ended.out)
    assert result["rows"]["train_rows"] == 4_800
    params = run_of(ended).data.params
    wanted = {"n_estimators": "10", "max_depth": "10", "min_samples_split": "2", "random_state": "42"}
    assert params.items() >= (wanted | {"folds": "cv_folds=5"}).items()
    logged = (config.parent / "logs/m3.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d .* INFO m3_trainer.train: fit +\d", logged, re.MULTILINE)
    assert re.search(r"^fit +\d", ended.err, re.MULTILINE)


CONFIG_MISTAKES = {
    "a model that is a word": (
        {"model": "random_forest", "hyperparameters": {"max_depth": 3}},
        "model_config.yaml: `model` and `hyperparameters` must be mappings, as {n_estimators: 100}",
    ),
    "a model that is a word, and a flag": ({"model": "random_forest"}, "model: must be a mapping in --config, as {"),
    "hyperparameters that are a list": (
        {"hyperparameters": ["max_depth"]}, "`model` and `hyperparameters` must be mappings",
    ),
    "a field in both spellings": (
        {"training": {"test_size": 0.2, "testSize": 0.3}},
        "model_config.yaml: `test_size` and `testSize` are one field: it must stand once",
    ),
    "an unknown field": ({"training": {"test_siez": 0.2}}, "training.testSiez: must be a known field; did you mean `testSize`?"),
    "a TrainingJob": (
        {"apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob"},
        "model_config.yaml: must be a workload alone, is a whole TrainingJob: m3 run -f model_config.yaml",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("document", "message"), CONFIG_MISTAKES.values(), ids=CONFIG_MISTAKES.keys())
def test_a_mistake_in_the_classic_file_is_one_message(m3, clean: Path, document: dict[str, Any], message: str) -> None:
    (clean / "model_config.yaml").write_text(yaml.safe_dump(document))
    data = ["--data", "sample://transactions?rows=2000"]
    ended = m3("train", "--config", "model_config.yaml", "--n-estimators", "3", *data)
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert "Traceback" not in ended.err


LOG_MISTAKES = {
    "no file": (None, "logs.yaml: the file must exist; looked from"),
    "a list": ("[1]", "logs.yaml: must be a YAML mapping, is list"),
    "no version": ("handlers: {}", "dictionary doesn't specify a version"),
    "a class that is none": (
        "{version: 1, handlers: {file: {class: logging.Fiel}}}", "Unable to configure handler 'file': ",
    ),
    "a handler that is none": (
        "{version: 1, root: {handlers: [file]}}", "Unable to configure root logger: Unable to add handler 'file'",
    ),
    "a level that is none": ("{version: 1, root: {level: LOUD}}", "Unknown level: 'LOUD'"),
    "a log in no folder": (
        "{version: 1, handlers: {file: {class: logging.FileHandler, filename: logs.yaml/m3.log}}}", "logs.yaml",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), LOG_MISTAKES.values(), ids=LOG_MISTAKES.keys())
def test_a_mistake_in_the_logging_file_is_one_message(m3_process, clean: Path, text: str | None, message: str) -> None:
    if text:
        (clean / "logs.yaml").write_text(text)
    ended = m3_process("run", "-f", "none.yaml", "--log-config", "logs.yaml")
    assert (ended.code, ended.err.startswith("error: logs.yaml: "), message in ended.err) == (2, True, True), ended.err
    assert "Traceback" not in ended.err
    if text and text.startswith("{"):
        assert (
            "must be a configuration of Python's logging (version: 1, formatters, handlers, loggers, root): "
            in ended.err
        )


# --- variables --------------------------------------------------------------------------------------------------------
def test_flags_win_over_the_environment_and_that_over_the_file(
    m3_process, sample: str, clean: Path, server: str
) -> None:
    (clean / ".env").write_text(
        f"# as a user has it\nMLFLOW_TRACKING_URI={server}\nexport MLFLOW_EXPERIMENT_NAME='the file'\nSAMPLE_SIZE=3000\n"
        f'TRAIN_DATA_PATH="{sample}"\nMODEL_OUTPUT_PATH=models\nRAY_DASHBOARD_HOST=0.0.0.0\nRAY_DASHBOARD_PORT=\n'
    )
    flags = ["--sample-size", "2000", "--n-estimators", "5", "--model-name", "by-variables", "-o", "json"]
    ended = m3_process("train", *flags, MLFLOW_EXPERIMENT_NAME="the environment")
    assert ended.code == 0, ended.err
    taken = (
        "MLFLOW_TRACKING_URI, MODEL_OUTPUT_PATH, RAY_DASHBOARD_HOST, RAY_DASHBOARD_PORT, SAMPLE_SIZE, TRAIN_DATA_PATH"
    )
    assert f"from .env: {taken}\n" in ended.err
    result = json.loads(ended.out)
    assert result["rows"]["train_rows"] + result["rows"]["test_rows"] == 2_000
    assert result["run"]["trackingUri"] == server
    experiment = mlflow.MlflowClient(server).get_experiment(result["run"]["experimentId"])
    assert experiment.name == "the environment"
    assert result["model"]["path"] == "models/by-variables/1"
    written = mlflow.models.Model.load(str(clean / "models/by-variables/1"))
    assert written.signature.inputs.input_names() == result["features"]
    assert sorted(path.name for path in (clean / "models").glob("**/*.skops")) == ["model.skops"]


ENV_MISTAKES = {
    "no value": (b"A=1\nwhat is this\n", ".env: line 2 must be NAME=value, or a comment behind #"),
    "an open quote": (b"A='x\n", ".env: line 1 must be NAME=value, or a comment behind #; quotes must be closed"),
    "no text": (b"A=Z\xfcrich\n", ".env: must be a readable text file: "),
}


@pytest.mark.parametrize(("content", "message"), ENV_MISTAKES.values(), ids=ENV_MISTAKES.keys())
def test_a_file_of_variables_that_cannot_be_read_is_named(m3, clean: Path, content: bytes, message: str) -> None:
    (clean / ".env").write_bytes(content)
    ended = m3("train", "--data", "rows.csv")
    assert (ended.code, message in ended.err) == (2, True), ended.err


def test_a_job_in_the_cluster_reads_no_file_of_variables(job, clean: Path) -> None:
    (clean / ".env").write_text("what is this\n")
    assert job.attempt().code == 0


def test_the_example_of_the_file_has_every_variable_and_is_one(clean: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    assert sorted(re.findall(r"^(?:# )?([A-Z0-9_]+)=", text, re.MULTILINE)) == sorted(environment.VARIABLES)
    (clean / ".env").write_text(text)
    code = (
        "import os, pathlib; from m3_trainer.cli.environment import load; load(pathlib.Path()); print(os.environ[{!r}])"
    )
    command = [sys.executable, "-c", code.format("MLFLOW_TRACKING_URI")]
    assert subprocess.check_output(command, text=True) == "http://mlflow:5000\n"


@pytest.mark.parametrize("spelt", ["file", "file/models"])
def test_a_folder_for_the_model_that_cannot_be_is_told_before_anything_is_trained(m3, clean: Path, spelt: str) -> None:
    (clean / "file").write_text("in the way")
    ended = m3("train", "--data", "sample://transactions?rows=2000", "--model-output-path", spelt)
    assert (ended.code, f"--model-output-path: {spelt} must be a folder that can be written to" in ended.err) == (
        2,
        True,
    )
    assert not (clean / "m3").exists()


def test_the_folder_of_a_version_is_replaced_whole_and_nothing_else_is(m3_process, clean: Path) -> None:
    place = clean / "models/fraud_detector/1"
    train = [
        "train",
        "--data",
        "sample://transactions?rows=2000",
        "--n-estimators",
        "3",
        "--model-output-path",
        "models",
    ]
    place.mkdir(parents=True)
    (place / "notes").write_text("mine")
    refused = m3_process(*train)
    assert refused.code == 2
    assert "models/fraud_detector/1 must be free, or a model of an earlier run; it is something else" in refused.err
    assert (place / "notes").read_text() == "mine"
    (place / "MLmodel").write_text("of a registry that is no more")
    ended = m3_process(*train, "--home", "anew")
    assert ended.code == 0, ended.err
    assert "  its files are in models/fraud_detector/1\n" in ended.out
    assert not (place / "notes").exists()
    assert [path.name for path in place.parent.iterdir()] == ["1"]


# --- while it runs ----------------------------------------------------------------------------------------------------
SLOW = ["train", "--data", "sample://transactions?rows=60000", "--n-estimators", "4000", "--max-depth", "20"]


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(m3_process) -> None:
    train = ["train", "--data", "sample://transactions?rows=20000", "--n-estimators", "300"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*M3, *train], stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    out, _ = process.communicate(timeout=60)
    text = shown.decode()
    assert process.returncode == 0, text
    assert CONTROL_SEQUENCE in text
    assert re.search(r"fit .*━.* \d+%", text)
    assert re.search(r"^.*fit +\d+\.\d\d s", text, re.MULTILINE)
    assert CONTROL_SEQUENCE not in out.decode()
    logged = m3_process(*train)
    assert CONTROL_SEQUENCE not in logged.err
    assert re.search(r"^fit +\d+\.\d\d s$", logged.err, re.MULTILINE)
    assert m3_process("--quiet", *train).err == ""


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # what Linux says where the other end is closed
        return b""


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_ctrl_c_ends_the_run_as_killed(clean: Path, times: int) -> None:
    process = subprocess.Popen(
        [*M3, *SLOW],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # as a terminal starts it: in the background Ctrl-C is ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    told = ""
    while "log what is asked" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), told + err
    client = mlflow.MlflowClient(f"sqlite:///{clean / 'm3' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("fraud_detection").experiment_id])
    assert run.info.status == "KILLED"
    assert err.splitlines()[-2:] == [f"the run {run.info.run_id} is marked KILLED", "stopped"]
    assert "m3.error" not in run.data.tags


def test_what_runs_in_the_background_of_a_shell_goes_on_ignoring_ctrl_c() -> None:
    train = ["train", "--data", "sample://transactions?rows=20000", "--n-estimators", "100"]
    process = subprocess.Popen(
        [*M3, *train], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


# --- help and completion ----------------------------------------------------------------------------------------------
def test_help_knows_exit_codes_variables_and_commands(m3) -> None:
    codes = m3("help", "exit-codes")
    assert codes.code == 0
    assert [int(line.split()[0]) for line in codes.out.splitlines()] == list(topics.EXIT_CODES)
    variables = m3("help", "environment").out
    assert all(f"  {name} " in variables for name in environment.VARIABLES)
    assert "Example: m3 train --data" in m3("help", "train").out
    assert "Example: m3 data sample" in " ".join(m3("help", "data", "sample").out.split())
    assert m3("help").out == m3("--help").out
    unknown = m3("help", "nonsense")
    assert (unknown.code, "No such command 'nonsense'" in unknown.err) == (2, True)


COMPLETIONS = {
    "m3 tra": ["train"],
    "m3 train --model-type hist": ["hist_gradient_boosting"],
    "m3 train --n-est": ["--n-estimators"],
    "m3 help exit": ["exit-codes"],
    "m3 data ": ["sample", "download"],
}


@pytest.mark.parametrize(("line", "offered"), COMPLETIONS.items(), ids=COMPLETIONS.keys())
def test_a_tab_completes_commands_flags_and_types(line: str, offered: list[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_M3_COMPLETE": "complete_bash"}
    script = "from m3_trainer.cli.main import main; import sys; sys.argv[0] = 'm3'; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | words, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == offered, done.stderr
