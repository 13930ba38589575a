"""When a checkpoint is due, and which one is not gone on from."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier

from m3_trainer import checkpoint
from m3_trainer.checkpoint import Checkpoint, Folder, Pace
from m3_trainer.errors import InvalidSpec
from m3_trainer.origin import Origin

ASKED = {"file": "sha256:1", "data": "sha256:2", "version of scikit-learn": "1.7"}


@pytest.mark.parametrize(
    ("cost", "pause"), [(0.1, 30.0), (1.5, 30.0), (3.0, 60.0)], ids=["cheap", "at the limit", "dear"]
)
def test_checkpoints_take_a_twentieth_of_the_time_at_most(cost: float, pause: float) -> None:
    now = [100.0]
    pace = Pace(30.0, lambda: now[0])
    for seconds, due in ((29.9, False), (30.0, True)):
        now[0] = 100.0 + seconds
        assert pace.is_due() is due
    with pace.taken():
        now[0] += cost
    ended = now[0]
    for seconds, due in ((pause - 0.1, False), (pause + 0.001, True)):
        now[0] = ended + seconds
        assert pace.is_due() is due


def forest(trees: int = 3) -> RandomForestClassifier:
    return RandomForestClassifier(trees, random_state=0, warm_start=True).fit(
        [[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]
    )


def kept_in(folder: Path, **differs: str) -> Checkpoint:
    return Checkpoint(Folder(folder / "m3" / "uid" / "checkpoint.skops"), ASKED | differs, Pace(0.0))


def test_what_was_kept_is_found_and_deleted(tmp_path: Path) -> None:
    assert kept_in(tmp_path).load() is None
    for trees in (2, 3):
        kept_in(tmp_path).save(forest(trees))
    found = kept_in(tmp_path).load()
    assert len(found.estimators_) == 3
    kept_in(tmp_path).delete()
    assert list(tmp_path.rglob("*")) == [tmp_path / "m3"]
    kept_in(tmp_path).delete()


@pytest.mark.parametrize("name", ASKED)
def test_another_file_data_or_version_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    kept_in(tmp_path).save(forest())
    with caplog.at_level(logging.WARNING, "m3_trainer"):
        assert kept_in(tmp_path, **{name: "another"}).load() is None
    assert caplog.messages == [f"the checkpoint is of another {name}, so the training begins anew"]


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[: len(data) // 2],
    "of zeros": lambda data: bytes(len(data)),
    "another thing": lambda _: skops.io.dumps([1, 2]),
    "no forest": lambda _: skops.io.dumps({"of": ASKED, "forest": "a wood"}),
    "a type that nobody allowed": lambda _: skops.io.dumps({"of": ASKED, "forest": Path("/")}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_read_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: Any) -> None:
    kept_in(tmp_path).save(forest())
    (path,) = tmp_path.rglob("*.skops")
    path.write_bytes(wrong(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "m3_trainer"):
        assert kept_in(tmp_path).load() is None
    assert caplog.messages[0].startswith("the checkpoint cannot be read, so the training begins anew: ")


def test_only_a_job_with_a_storage_keeps_checkpoints(tmp_path: Path) -> None:
    assert checkpoint.of(Origin(uid="uid"), "1", "2") is None
    assert checkpoint.of(Origin(storage=str(tmp_path)), "1", "2") is None
    assert checkpoint.of(Origin(uid="uid", storage=str(tmp_path)), "1", "2") is not None
    with pytest.raises(
        InvalidSpec, match=r"spec\.storage\.uri: abfs://kept must be of a store that the image can write to"
    ):
        checkpoint.of(Origin(uid="uid", storage="abfs://kept"), "1", "2")
