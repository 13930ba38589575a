"""What the README tells a newcomer to type on a laptop, typed. What it tells to type on a cluster is typed by tests/e2e."""

import os
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import unused_port
from support import wait_until

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
MAKE = {command.split()[1] for command in COMMANDS if command.startswith("make ")}


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        shlex.split(command),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=clean | environment,
    )


@pytest.fixture
def checkout(clean: Path) -> Path:
    """A folder that is no checkout, but has what the README's commands name."""
    for name in (".venv", "manifests"):
        (clean / name).symlink_to(ROOT / name)
    return clean


def test_help_lists_every_target_with_a_line() -> None:
    listed = {line.split()[0]: line for line in run("make help", ROOT).stdout.splitlines() if line.startswith("  ")}
    declared = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert listed.keys() == declared
    assert declared >= MAKE
    assert all(len(line.split()) > 2 for line in listed.values())


def test_the_quickstart_ends_with_metrics_version_and_next_commands(clean: Path) -> None:
    assert "make quickstart" in COMMANDS
    done = run("make quickstart", ROOT, M3_HOME=str(clean / "home"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"average_precision +0\.\d{4}  \(0\.\d{4} to 0\.\d{4}\)\n", done.stdout)
    assert "registered fraud_detector version 1 (models:/fraud_detector/1)" in done.stdout
    assert "run it on a cluster          make cluster-up && kubectl apply -f manifests/samples/" in done.stdout


def test_the_classic_command_lines_work_as_they_stand(checkout: Path) -> None:
    typed = [command for command in COMMANDS if command.startswith((".venv/bin/m3 data", ".venv/bin/m3 train"))]
    assert len(typed) == 2
    for command in typed:
        done = run(command, checkout)
        assert done.returncode == 0, done.stderr
    assert (checkout / "data/sample.csv").is_file()
    assert "registered fraud_detector version 1" in done.stdout


@pytest.fixture
def page(m3, job_file, clean: Path) -> Iterator[str]:
    """Address of the MLflow that `m3 ui` shows."""
    m3("run", "-f", job_file())
    port = unused_port()
    process = subprocess.Popen(
        [ROOT / ".venv/bin/m3", "ui", "--port", str(port)],
        cwd=clean,
        stderr=(clean / "log").open("w"),
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(address), 90, lambda: (clean / "log").read_text())
        yield address
    finally:
        process.terminate()
        process.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_ui_shows_the_runs_and_pictures_of_this_machine(page: str) -> None:
    import mlflow

    tracked = mlflow.MlflowClient(page)
    experiment = tracked.get_experiment_by_name("fraud_detection")
    assert experiment is not None
    (run_,) = tracked.search_runs([experiment.experiment_id])
    assert run_.info.status == "FINISHED"
    with urllib.request.urlopen(
        f"{page}/get-artifact?path=feature_importance.png&run_uuid={run_.info.run_id}"
    ) as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"


def test_ui_without_runs_says_what_to_do(m3) -> None:
    ended = m3("ui")
    assert ended.code == 2
    assert "--home: m3 must hold runs; none yet. Run one first: m3 run -f" in ended.err
