"""Training rows that do not fit into memory: xgboost reads them from disk in batches, and keeps their bins there (its external
memory).

In memory are what divides the rows (target, times, keys: a few bytes a row), the test rows, and one batch. Only the trees of
xgboost can be grown so: every other model, and what looks at all rows at once, needs them in memory, and says so beforehand.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from m3_trainer import features, memory
from m3_trainer import split as splitting
from m3_trainer.config import Workload
from m3_trainer.data import digests, sources, stores, tables
from m3_trainer.data import frame as frames
from m3_trainer.errors import DataError

log = logging.getLogger(__name__)

VALUE_BYTES = 8
BASE_BYTES = 512 * 2**20
"""What the process takes before it has read a row: Python with scikit-learn, xgboost and MLflow."""
PEAK = 3
"""In memory a training takes at most this many times the columns that it uses."""
BATCH_BYTES = 64 * 2**20


def limit() -> int:
    """Bytes of memory that there are: the limit of the container, or the machine's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(memory.Memory.of_this_process().limit() or machine, machine)


@dataclass(frozen=True)
class Files:
    """Parquet files on this machine, fetched where they were not; `kept` holds them as long as this object is there."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    kept: ExitStack

    @property
    def schema(self) -> pa.Schema:
        from pyarrow import parquet

        return parquet.read_schema(self.paths[0])

    @property
    def rows(self) -> int:
        from pyarrow import parquet

        return sum(parquet.read_metadata(path).num_rows for path in self.paths)

    def batches(self, columns: list[str], rows: int) -> Iterator[pd.DataFrame]:
        """The columns of all rows, at most so many rows at a time, in the order of the data."""
        from pyarrow import parquet

        for path in self.paths:
            # read as it is needed: else all pages of a group of rows are in memory together, which may be all of a file
            with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
                for batch in file.iter_batches(rows, columns=columns):
                    yield tables.frame_of([tables.plain(pa.Table.from_batches([batch]).replace_schema_metadata(None))])

    def digest(self) -> str:
        return digests.of_files(
            (name, digests.of_content(path)) for name, path in zip(self.names, self.paths, strict=True)
        )


class Batches:
    """Training rows on disk. It stands where a frame of features would: its length, its columns, and batches instead of rows."""

    def __init__(self, read: Callable[[], Iterator[pd.DataFrame]], columns: list[str], rows: int) -> None:
        """`read` gives the features of the training rows, in the order of their target."""
        self._read, self._rows = read, rows
        self.columns = columns

    def __len__(self) -> int:
        return self._rows

    @property
    def shape(self) -> tuple[int, int]:
        return self._rows, len(self.columns)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return self._read()


def parts(rows: pd.DataFrame | Batches, *others: Any) -> Iterator[tuple[Any, ...]]:
    """The features in the parts that they are in memory in, each with its share of what else there is for each row, or None."""
    start = 0
    for part in rows if isinstance(rows, Batches) else [rows]:
        end = start + len(part)
        yield part, *(other if other is None else other[start:end] for other in others)
        start = end


# --- what is needed ---------------------------------------------------------------------------------------------------
def needed(workload: Workload) -> Files | None:
    """The files, where their columns do not fit into memory; None where they do, or nobody can say before they are read.

    Raises `DataError` where they do not and the file asks for what needs them there, and otherwise as `sources.read` does.
    """
    if workload.data.scheme in ("sample", "http", "https") or workload.data.is_sql:
        return None
    store, files = sources.files(workload.data)
    if any(form.name != "parquet" for _, form in files):
        return None
    columns, have = _size(workload, store, files), limit()
    if BASE_BYTES + PEAK * columns <= have:
        return None
    if obstacle := _obstacle(workload):
        if BASE_BYTES + columns <= have:  # it may fit yet: what is certain is told, what is likely is tried
            return None
        raise DataError(
            f"data.uri: the columns in use ({memory.shown(columns)}) must fit into the memory that there is "
            f"({memory.shown(have)}), {obstacle}: raise spec.ray.head.resources.limits.memory, name fewer columns in "
            "features.include, or leave that out and take model.type xgboost, which reads its rows from disk"
        )
    log.info("the columns in use are %s: the training rows are read from disk in batches", memory.shown(columns))
    kept = ExitStack()
    paths = [kept.enter_context(store.local(file)) for file, _ in files]
    return Files(tuple(file.name for file, _ in files), tuple(paths), kept)


def _size(workload: Workload, store: stores.Store, files: list[tuple[stores.File, tables.Format]]) -> int:
    """Bytes of the columns in use, by the footers of the files: a few kilobytes of each are read."""
    from pyarrow import parquet

    wanted, values = frames.needed(workload), 0
    for file, _ in files:
        with (
            stores.explained(store.shown(file)),
            store.filesystem.open(file.path) as opened,
            suppress(pa.ArrowException),
        ):
            footer = parquet.read_metadata(opened)  # of what is no Parquet whoever reads it tells
            values += footer.num_rows * sum(wanted(name) for name in footer.schema.to_arrow_schema().names)
    return VALUE_BYTES * values


def _obstacle(workload: Workload) -> str | None:
    """What in the file needs all rows in memory."""
    model, training, declared = workload.model, workload.training, workload.features
    asked = model.hyperparameters
    is_binned = asked.get("tree_method", "hist") in ("auto", "hist") and asked.get("booster", "gbtree") == "gbtree"
    needs = {
        f"because model.type is {model.type}": model.type != "xgboost",
        "because tree_method and booster are not `hist` and `gbtree`": not is_binned,
        "because of features.windows": declared.windows,
        "because of features.categorical": declared.categorical,
        "because of training.cvFolds": training.cv_folds,
        "because of training.folds": training.folds,
        "because of validation rows": splitting.validates(workload),
        "because of data.sampleSize": workload.data.sample_size,
    }
    return next((name for name, is_asked in needs.items() if is_asked), None)


# --- the rows ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Divided:
    """What is known of all rows, and where the training and the test rows are, in the order of the data."""

    files: Files
    names: list[str]
    dtypes: dict[str, str]
    frame: pd.DataFrame
    """The columns that divide and name rows, of all rows."""
    target: pd.Series
    times: pd.Series | None
    train: np.ndarray
    test: np.ndarray


def divide(workload: Workload, files: Files) -> Divided:
    """Check and divide the rows as if they were all in memory. Raises `DataError`."""
    frames.check_columns(workload, files.schema.names)
    wanted = frames.needed(workload)
    chosen = [name for name in files.schema.names if wanted(name)]
    head = tables.frame_of([tables.plain(pa.schema([files.schema.field(name) for name in chosen]).empty_table())])
    names = features.choose(workload, head)
    split, data = workload.training.split, workload.data
    keys = [data.target, data.time_column, data.customer_column, split and split.exclude_known]
    narrow = list(dict.fromkeys(name for name in [*keys, *(workload.evaluation.segments or ())] if name))
    frame = pd.concat(files.batches(narrow, 1_000_000), ignore_index=True)
    target, times = frames.target_of(data, frame), frames.time_of(data, frame)
    found = splitting.split(workload, frame, target, times)
    _fits(len(found.test), len(frame), len(names))
    dtypes = {str(name): str(dtype) for name, dtype in head.dtypes.items()}
    return Divided(files, names, dtypes, frame, target, times, np.sort(found.train), np.sort(found.test))


def _fits(test: int, rows: int, columns: int) -> None:
    size, room = PEAK * VALUE_BYTES * test * columns, limit() - BASE_BYTES
    if size > room > 0:
        raise DataError(
            f"training: the test rows must fit into memory, and {test:,} rows of {columns} features do not: a share of "
            f"{np.floor(1000 * room / size * test / rows) / 1000:g} of all rows does (training.testSize, or the days of "
            "training.split)"
        )


def matrices(workload: Workload, divided: Divided, positions: np.ndarray) -> Iterator[pd.DataFrame]:
    """The features of the rows at these positions, which ascend, in batches. Raises `DataError`."""
    chosen = np.zeros(len(divided.frame), dtype=bool)
    chosen[positions] = True
    time = workload.data.time_column
    columns = list(dict.fromkeys([name for name in divided.names if name in divided.dtypes] + ([time] if time else [])))
    start = 0
    for frame in divided.files.batches(columns, max(1, BATCH_BYTES // (VALUE_BYTES * len(columns)))):
        own = np.flatnonzero(chosen[start : start + len(frame)])
        frame.index = pd.RangeIndex(start, start + len(frame))
        start += len(frame)
        if len(own):
            times = frames.time_of(workload.data, frame)
            yield features.Table(workload, frame, times, divided.names).matrix(own)


def batches(workload: Workload, divided: Divided) -> Batches:
    """The training rows."""
    return Batches(lambda: matrices(workload, divided, divided.train), divided.names, len(divided.train))


# --- the model --------------------------------------------------------------------------------------------------------
def fit(model: Any, rows: Batches, target: pd.Series, weight: np.ndarray | None) -> Any:
    """Fit an XGBClassifier; its bins are in a folder of the temporary files while it learns."""
    import xgboost

    class Reader(xgboost.DataIter):
        def reset(self) -> None:
            self._parts = parts(rows, target.to_numpy(), weight)

        def next(self, input_data: Callable[..., None]) -> bool:
            if (part := next(self._parts, None)) is None:
                return False
            input_data(data=part[0], label=part[1], weight=part[2])
            return True

    with tempfile.TemporaryDirectory(prefix="m3-bins-") as folder:
        reader = Reader(cache_prefix=str(Path(folder) / "bins"))
        bins = xgboost.ExtMemQuantileDMatrix(reader, max_bin=model.max_bin or 256, nthread=model.n_jobs)
        booster = xgboost.train(model.get_xgb_params(), bins, model.get_num_boosting_rounds(), verbose_eval=False)
        del bins, reader  # before their folder
    model.load_model(booster.save_raw("ubj"))
    return model
