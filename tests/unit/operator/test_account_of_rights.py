"""The account of the operator's rights (tests/integration/operator/test_rights.py) is given by a whole run, and by no other."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = "tests/integration/operator"
ACCOUNT = [
    f"{FOLDER}/test_rights.py::test_every_right_was_of_use",
    f"{FOLDER}/test_rights.py::test_nothing_was_asked_for_that_is_forbidden",
]

PART = {
    "a module and the account": (f"{FOLDER}/test_queue.py", f"{FOLDER}/test_rights.py"),
    "all but some tests": (FOLDER, "-k", "not queue"),
}


def collected(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert found, done.stdout
    return found


def test_it_is_the_last_of_a_whole_run():
    assert collected(FOLDER, "tests/charts")[-2:] == ACCOUNT


@pytest.mark.parametrize("run", PART)
def test_it_is_not_in_a_part(run):
    assert not set(ACCOUNT) & set(collected(*PART[run]))
