"""docs/cli.md says what the code does: commands, exit codes, keys and checks."""

import re
from datetime import UTC, datetime
from pathlib import Path

import typer

from m3_trainer import errors
from m3_trainer.cli import cluster, cluster_job, doctor, environment, main, topics

TEXT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_column(text: str) -> list[str]:
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_command_of_a_cluster_is_there_with_an_example():
    group = typer.main.get_command(main.app)
    commands = {name: each for name, each in group.commands.items() if each.rich_help_panel == cluster.PANEL}
    told = {name.split()[1] for name in first_column(section("On a cluster"))}
    assert told == commands.keys() == {"submit", "status", "logs", "wait", "cancel", "resume", "doctor"}
    for name, each in commands.items():
        assert f"Example: m3 {name}" in each.help, name
        assert {"--namespace", "--context", "--output"} <= {option for each in each.params for option in each.opts}, (
            name
        )


def test_every_command_of_this_machine_is_there_with_an_example():
    group = typer.main.get_command(main.app)
    commands = {name: each for name, each in group.commands.items() if not (each.rich_help_panel or each.hidden)}
    data = commands.pop("data").commands
    told = [name.removeprefix("m3 ") for name in first_column(section("On this machine")) if name.startswith("m3 ")]
    every = commands | {f"data {name}": each for name, each in data.items()}
    assert {name for name in every if any(name == each or each.startswith(f"{name} ") for each in told)} == every.keys()
    for name, each in every.items():
        assert f"Example: m3 {name}" in each.help, name


def test_every_exit_code_is_there():
    rows = [line.split("|")[1:3] for line in section("Exit codes").splitlines() if re.match(r"\| \d", line)]
    assert {int(code): meaning.strip() for code, meaning in rows} == topics.EXIT_CODES
    every = {each.exit_code for each in (errors.Stopped, errors.M3Error, *subclasses(errors.M3Error))}
    assert {0, *every} == topics.EXIT_CODES.keys()


def test_every_variable_is_there():
    assert first_column(section("Variables")) == list(environment.VARIABLES)


def test_no_exit_code_of_a_cluster_means_something_else_too():
    every = [each for each in subclasses(errors.M3Error) if "exit_code" in vars(each)]
    codes = [each.exit_code for each in every]
    assert len(set(codes)) == len(codes), {each.__name__: each.exit_code for each in every}


def subclasses(of: type) -> list[type]:
    return [found for each in of.__subclasses__() for found in (each, *subclasses(each))]


def test_every_key_of_a_job_is_there():
    meta = {"name": "job", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    keys = cluster_job.document(cluster_job.Job({"metadata": meta}, datetime.now(UTC)))
    assert first_column(section("JSON").split("\n| command")[0]) == list(keys)


def test_every_check_of_doctor_is_there():
    checks = [*(each.name for each in doctor.LOCAL), "kubeconfig", doctor.API_SERVER.name]
    assert first_column(section("doctor")) == checks + [each.name for each in doctor.ON_CLUSTER]
