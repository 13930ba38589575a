"""A forest half grown, kept in `spec.storage`, from which the next attempt of the same job goes on.

One object holds the trees and what they were grown from, so that no reader can find the one without the other: it is replaced
as a whole, in a folder by a rename, in a bucket by the store itself. Stored with skops and loaded by our allow-list, like
every model: whoever can write to the storage must not be able to run code in the job. A checkpoint that was made of other data,
by another file or by another version of scikit-learn is not gone on from: the result must be the undisturbed one to the last bit.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from m3_trainer import __version__, models
from m3_trainer.data import stores
from m3_trainer.errors import InvalidSpec
from m3_trainer.origin import Origin

log = logging.getLogger(__name__)

FILE = "checkpoint.skops"
EVERY_SECONDS = 30.0
EVERY_VARIABLE = "M3_CHECKPOINT_SECONDS"
MAX_COST = 0.05
"""Share of the time that checkpoints may take: the next one waits 20 times as long as the last one took."""
UNREADABLE = (
    zipfile.BadZipFile,
    InvalidSpec,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    NotImplementedError,
)
"""What skops raises for a file that is cut off, or that is none of its own."""


class Store(Protocol):
    """One object that is replaced as a whole."""

    def read(self) -> bytes | None: ...
    def write(self, data: bytes) -> None: ...
    def delete(self) -> None: ...


@dataclass(frozen=True)
class Folder:
    """A file on a mounted volume."""

    path: Path

    def read(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def write(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self.path)
            except OSError:
                Path(file.name).unlink()
                raise

    def delete(self) -> None:
        """The file and what a killed process has left beside it."""
        if self.path.parent.exists():
            for file in self.path.parent.iterdir():
                file.unlink()
            self.path.parent.rmdir()


@dataclass(frozen=True)
class Bucket:
    """An object in a store that fsspec knows; such a store shows an object when all of it is there."""

    filesystem: Any
    path: str

    def read(self) -> bytes | None:
        try:
            return self.filesystem.cat_file(self.path)
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        self.filesystem.pipe_file(self.path, data)

    def delete(self) -> None:
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path)


def store(storage: str, uid: str) -> Store:
    """Where the checkpoint of a job is: `<storage>/m3/<uid>/checkpoint.skops`. Raises `InvalidSpec`."""
    if "://" not in storage:
        return Folder(Path(storage) / "m3" / uid / FILE)
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(storage, **stores.store_options(storage))
    except (ImportError, ValueError) as error:
        raise InvalidSpec(
            f"spec.storage.uri: {storage} must be of a store that the image can write to: {error}"
        ) from error
    return Bucket(filesystem, f"{root.rstrip('/')}/m3/{uid}/{FILE}")


class Pace:
    """When the next checkpoint is due: every 30 s, and rarer where it would cost more than a twentieth of the time."""

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self.every = clock, every
        self._due = clock() + every

    def is_due(self) -> bool:
        return self._clock() >= self._due

    @contextmanager
    def taken(self) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            end = self._clock()
            self._due = end + max(self.every, (end - start) / MAX_COST)


class Checkpoint:
    """The checkpoint of one job, for the data and the file of this attempt."""

    def __init__(self, kept: Store, asked: dict[str, str], pace: Pace) -> None:
        self._store, self._asked, self._pace = kept, asked, pace
        self.every = pace.every

    def load(self) -> Any | None:
        """The forest that an earlier attempt has left, or None: where there is none, or none that may be gone on from."""
        with _said("could not be fetched, so the training begins anew"):
            if data := self._store.read():
                return self._opened(data)
        return None

    def _opened(self, data: bytes) -> Any | None:
        try:
            found = models.loads(data)
            differs = [name for name, value in self._asked.items() if found["of"].get(name) != value]
            trees = len(found["forest"].estimators_)
        except UNREADABLE as error:
            log.warning("the checkpoint cannot be read, so the training begins anew: %s", error)
            return None
        if differs:
            log.warning("the checkpoint is of another %s, so the training begins anew", ", ".join(differs))
            return None
        log.info("goes on from a checkpoint of %d trees", trees)
        return found["forest"]

    def save(self, forest: Any) -> None:
        """Keep the forest, if it is time. That it cannot be kept is no reason to stop growing."""
        if not self._pace.is_due():
            return
        with self._pace.taken(), _said("was not kept"):
            self._store.write(models.dumps_trusted({"of": self._asked, "forest": forest}))
            log.info("kept a checkpoint of %d trees", len(forest.estimators_))

    def delete(self) -> None:
        """The job has its model: nobody goes on from here."""
        with _said("was not deleted"):
            self._store.delete()


def of(origin: Origin, spec: str, data: str) -> Checkpoint | None:
    """The checkpoint of a job that has a storage; None on a laptop. `spec` and `data` are digests."""
    if not (origin.uid and origin.storage):
        return None
    import sklearn

    asked = {"file": spec, "data": data, "version of scikit-learn": sklearn.__version__, "version of M3": __version__}
    every = float(os.environ.get(EVERY_VARIABLE) or EVERY_SECONDS)
    return Checkpoint(store(origin.storage, origin.uid), asked, Pace(every))


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not stores.is_from_a_store(error):
            raise
        log.warning("the checkpoint %s: %s", what, error)
