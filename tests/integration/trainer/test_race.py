"""Two runs that finish together and want the same alias, on a real MLflow: no update is lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

WEAK, STRONG = {"n_estimators": 2, "max_depth": 1}, {"n_estimators": 30, "max_depth": 8}
# `m3`, which goes on from its look at the alias only when the other has looked, too: then both have seen the same holder.
TOGETHER = """
import sys, threading
from pathlib import Path
from m3_trainer import challenge
from m3_trainer.cli.main import main

look, here = challenge.look, Path(sys.argv.pop(1))

def look_together(*arguments):
    found = look(*arguments)
    (here / arguments[0].id).touch()
    while len(list(here.iterdir())) < 2:
        threading.Event().wait(0.02)
    return found

challenge.look = look_together
main()
"""


def together(place: Path, files: list[str], *options: str) -> list[dict[str, Any]]:
    """What became of the alias, of each of two runs that have looked before either of them decides."""
    place.mkdir()
    command = [sys.executable, "-c", TOGETHER, str(place), "run", "--output", "json", *options]
    pair = [
        subprocess.Popen([*command, "-f", file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for file in files
    ]
    told = [process.communicate(timeout=180) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    return [json.loads(out) for out, _ in told]


@pytest.mark.parametrize("where", ["a server", "a home"])
def test_of_two_that_finish_together_the_better_one_has_the_alias(
    m3, job_file, clean: Path, server: str, where: str
) -> None:
    name = f"raced-for-in-{where.replace(' ', '-')}"
    uri, options = (
        (server, ("--tracking-uri", server)) if where == "a server" else (f"sqlite:///{clean}/m3/mlflow.db", ())
    )
    files = []
    for number, hyperparameters in enumerate((WEAK, STRONG)):
        written = job_file(model={"hyperparameters": hyperparameters}, registry={"modelName": name, "promotion": {}})
        files.append(str(Path(written).rename(clean / f"{number}.json")))
    first = m3("run", "-f", job_file(registry={"modelName": name}), *options)  # also makes the database
    assert first.code == 0, first.err
    weak, strong = together(clean / "looked", files, *options)
    client = mlflow.MlflowClient(uri)
    assert strong["metrics"]["average_precision"] > weak["metrics"]["average_precision"]
    champion = client.get_model_version_by_alias(name, "champion")
    assert str(champion.version) == strong["model"]["version"]
    versions = {str(found.version): found.tags for found in client.search_model_versions(f"name = '{name}'")}
    assert sorted(versions) == ["1", "2", "3"]
    for each in (weak, strong):
        assert versions[each["model"]["version"]]["m3.promotion.reason"] == each["promotion"]["reason"]
    reasons = weak["promotion"]["reason"], strong["promotion"]["reason"]
    assert reasons in [("FirstVersion", "Improved"), ("NotImproved", "FirstVersion")]


def test_a_run_waits_for_another_that_moves_an_alias_and_not_for_ever(m3, job_file, clean: Path, monkeypatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr("m3_trainer.registry.ALONE_SECONDS", 0.1)
    (clean / "m3").mkdir()
    with FileLock(clean / "m3" / "promotion.lock"):
        ended = m3("run", "-f", job_file(registry={"promotion": {}}))
    assert ended.code == 4
    assert "another run must have moved its alias within 0.1 s, and still holds" in ended.err


def test_an_alias_that_another_machine_moved_at_the_same_moment_is_told(m3, job_file, monkeypatch) -> None:
    """Another machine, to which no lock reaches, is played by a move right after this one's."""
    from m3_trainer import registry

    m3("run", "-f", job_file())
    give = registry.give_alias

    def overtaken(run: Any, version: registry.Version, alias: str) -> None:
        give(run, version, alias)
        give(run, registry.Version(version.name, "1"), alias)

    monkeypatch.setattr(registry, "give_alias", overtaken)
    ended = m3("run", "-f", job_file(registry={"promotion": {}}), "--output", "json")
    told = json.loads(ended.out)["promotion"]
    assert (told["decision"], told["reason"]) == ("Refused", "HolderChanged")
    assert told["message"] == "champion was moved to version 1 at the same moment, by another machine: train again"
