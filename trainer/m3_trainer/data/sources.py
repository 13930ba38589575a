"""Where rows come from. Every source ends in one frame and one digest of what was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from m3_trainer import config, errors
from m3_trainer.data import digests, sample, stores, tables
from m3_trainer.data.tables import Wanted

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SAMPLE_OPTIONS = {"rows": 200_000, "seed": 7, "days": 60}


@dataclass(frozen=True)
class Source:
    """What was read: the rows, and `sha256:…` over their content."""

    frame: pd.DataFrame
    digest: str


def read(data: config.Data, wanted: Wanted) -> Source:
    """Read the wanted columns of all rows.

    Raises `DataError` where there are no such rows, `SourceUnavailable` where their store does not answer.
    """
    readers = {"sample": _read_sample} | dict.fromkeys(config.SQL_SCHEMES, _read_sql)
    source = readers.get(data.scheme, _read_files)(data, wanted)
    check_digest(data, source.digest)
    if source.frame.empty and len(source.frame.columns):
        raise errors.DataError(f"data.uri: {stores.shown(data.uri)} must hold at least one row, holds none")
    return source


def check_digest(data: config.Data, digest: str) -> None:
    """Raises `DataError` where the file expects another."""
    if data.expected_digest not in (None, digest):
        raise errors.DataError(
            f"data.uri: the data must have the digest {data.expected_digest} (data.expectedDigest), has {digest}: "
            "it is not the data that was meant, or it was changed"
        )


def files(data: config.Data) -> tuple[stores.Store, list[tuple[stores.File, tables.Format]]]:
    """The files that hold rows, none of them read, with their store. Raises as `read` does."""
    store = stores.open_store(data.uri)
    return store, _in_one_format(data, store)


def columns(data: config.Data) -> list[str]:
    """Names of the columns, of files from the head of the first alone. Raises as `read` does."""
    if data.scheme == "sample":
        return [str(name) for name in _read_sample(data, lambda _: True).frame]
    if data.is_sql:
        from m3_trainer.data import sql

        return sql.names(data)
    store = stores.open_store(data.uri)
    file, form = _in_one_format(data, store)[0]
    with store.local(file) as path, tables.explained(store.shown(file), form):
        return tables.names(path, form)


def sample_options(uri: str) -> dict[str, int]:
    """Options of `sample://transactions?rows=…&seed=…&days=…`; what else could stand there, the schema refuses."""
    return SAMPLE_OPTIONS | {name: int(value) for name, value in parse_qsl(urlsplit(uri).query)}


def _read_sample(data: config.Data, wanted: Wanted) -> Source:
    frame = sample.transactions(**sample_options(data.uri))
    return Source(frame[[name for name in frame if wanted(str(name))]], digests.of_frame(frame))


def _read_sql(data: config.Data, wanted: Wanted) -> Source:
    from m3_trainer.data import sql

    parts, digest = sql.read(data, wanted)
    return Source(tables.frame_of(parts), digest)


def _read_files(data: config.Data, wanted: Wanted) -> Source:
    store = stores.open_store(data.uri)
    files = _in_one_format(data, store)
    parts: list[pa.Table] = []
    contents, schema = [], None
    for file, form in files:
        with store.local(file) as path, tables.explained(store.shown(file), form):
            contents.append((file.name, digests.of_content(path)))
            parts.append(tables.read(path, form, wanted, schema))
        schema = tables.alike(files[0][0].name, schema or parts[-1].schema, file.name, parts[-1].schema)
    return Source(tables.frame_of(parts), digests.of_files(contents))


def _in_one_format(data: config.Data, store: stores.Store) -> list[tuple[stores.File, tables.Format]]:
    """The files that hold rows, and how to read each. Raises `DataError` where their formats differ."""
    formats = [(file, tables.format_of(file.name, data.format)) for file in store.files]
    chosen = [(file, form) for file, form in formats if form is not None]
    if not chosen:
        endings = ", ".join(tables.CSV_ENDINGS + tables.PARQUET_ENDINGS)
        raise errors.DataError(
            f"data.uri: a file of {stores.shown(data.uri)} must end in one of {endings}, or data.format say what they are"
        )
    if len(kinds := {form.name: file.name for file, form in chosen}) > 1:
        raise errors.DataError(
            f"data.uri: all files of {data.uri} must be of one format; {kinds['csv']} is CSV, {kinds['parquet']} is Parquet: "
            "name some of them by a pattern, as *.parquet"
        )
    return chosen
