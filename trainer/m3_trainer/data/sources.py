"""Where rows come from. Every source ends in one frame and one digest of what was read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Collection
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pandas as pd

from m3_trainer import config, errors
from m3_trainer.data import sample

if TYPE_CHECKING:
    from collections.abc import Iterator

Wanted = Callable[[str], bool]
"""Says of a column's name whether it is needed; what is not needed is not read."""

SAMPLE_OPTIONS = {"rows": 200_000, "seed": 7, "days": 60}
CSV_ENDINGS = (".csv", ".csv.gz", ".tsv")
PARQUET_ENDINGS = (".parquet", ".pq")


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
    source = readers.get(data.scheme, _read_file)(data, wanted)
    if data.expected_digest not in (None, source.digest):
        raise errors.DataError(
            f"data.uri: the data must have the digest {data.expected_digest} (data.expectedDigest), has {source.digest}: "
            "it is not the data that was meant, or it was changed"
        )
    if source.frame.empty:
        raise errors.DataError(f"data.uri: {data.uri} must hold at least one row, holds none")
    return source


def columns(data: config.Data) -> list[str]:
    """Names of the columns, of a file from its head alone. Raises as `read` does."""
    if data.scheme == "sample" or data.is_sql:
        return [str(name) for name in read(data, lambda _: True).frame]
    with _local(data) as path, _readable(data.uri):
        return _head(data, path)


def sample_options(uri: str) -> dict[str, int]:
    """Options of `sample://transactions?rows=…&seed=…&days=…`. Raises `InvalidSpec`."""
    parts = urlsplit(uri)
    if parts.netloc != "transactions":
        raise errors.InvalidSpec(f"data.uri: a sample must be `sample://transactions`, is {uri}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - SAMPLE_OPTIONS.keys()):
        raise errors.InvalidSpec(
            f"data.uri: option `{unknown[0]}` of a sample must be one of {', '.join(SAMPLE_OPTIONS)}"
        )
    if wrong := sorted(name for name, value in options.items() if not value.isdecimal()):
        raise errors.InvalidSpec(
            f"data.uri: option `{wrong[0]}` of a sample must be a whole number, is {options[wrong[0]]!r}"
        )
    return SAMPLE_OPTIONS | {name: int(value) for name, value in options.items()}


def _read_sample(data: config.Data, wanted: Wanted) -> Source:
    frame = sample.transactions(**sample_options(data.uri))
    return Source(frame[[name for name in frame if wanted(str(name))]], frame_digest(frame))


def _read_sql(data: config.Data, wanted: Wanted) -> Source:
    import sqlalchemy

    if not data.query:
        raise errors.InvalidSpec("data.query: must be set for a SQL URL")
    try:
        engine = sqlalchemy.create_engine(data.uri)
        with engine.connect() as connection:
            frame = pd.read_sql_query(sqlalchemy.text(data.query), connection)
    except sqlalchemy.exc.NoSuchModuleError as error:
        raise errors.InvalidSpec(f"data.uri: a driver for {data.scheme} must be installed in the image") from error
    except ModuleNotFoundError as error:
        raise errors.InvalidSpec(f"data.uri: the driver `{error.name}` must be installed in the image") from error
    except sqlalchemy.exc.OperationalError as error:
        raise errors.SourceUnavailable(f"data.uri: the database must answer; it said: {_last_line(error)}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise errors.DataError(f"data.query: must run; the database said: {_last_line(error)}") from error
    # SQL promises no order of rows: a total one makes the digest, and the split, those of the rows.
    frame = frame.sort_values(list(frame.columns), kind="stable", ignore_index=True) if len(frame.columns) else frame
    return Source(frame[[name for name in frame if wanted(str(name))]], frame_digest(frame))


def _read_file(data: config.Data, wanted: Wanted) -> Source:
    with _local(data) as path, _readable(data.uri):
        read_columns = [name for name in _head(data, path) if wanted(name)]
        if _format(data) == "parquet":
            frame = pd.read_parquet(path, columns=read_columns)
        else:
            frame = pd.read_csv(path, usecols=read_columns, compression=_compression(data), sep=_separator(data))
        return Source(frame, f"sha256:{_files_digest([path])}")


@contextmanager
def _local(data: config.Data) -> Iterator[Path]:
    """The file as a path on this machine: where it is, or fetched into a folder that is removed again."""
    if data.scheme == "file":
        yield _existing(data.uri)
        return
    with tempfile.TemporaryDirectory(prefix="m3-data-") as folder:
        target = Path(folder) / (Path(urlsplit(data.uri).path).name or "data")
        _fetch(data.uri, target)
        yield target


def _existing(uri: str) -> Path:
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.exists():
        raise errors.DataError(
            f"data.uri: the file {path} must exist where the job runs; looked from {Path.cwd()}. In a cluster use a URL "
            "(s3://…, https://…) or a mounted volume"
        )
    if not path.is_file():
        raise errors.DataError(f"data.uri: {path} must be one file of CSV or Parquet, is a folder")
    if path.stat().st_size == 0:
        raise errors.DataError(f"data.uri: the file {path} must hold rows, is empty")
    return path


def _fetch(uri: str, target: Path) -> None:
    import fsspec

    try:
        filesystem, remote = fsspec.core.url_to_fs(uri, **store_options(uri))
        filesystem.get_file(remote, str(target))
    except FileNotFoundError as error:
        raise errors.DataError(f"data.uri: {uri} must exist; its store has no such object") from error
    except PermissionError as error:
        raise errors.DataError(f"data.uri: {uri} must be readable with the credentials given: {error}") from error
    except ImportError as error:
        raise errors.InvalidSpec(f"data.uri: reading {urlsplit(uri).scheme}:// needs a package: {error}") from error
    except ValueError as error:  # fsspec's word for a URL or credentials that it cannot use
        raise errors.DataError(f"data.uri: {uri} must be readable: {error}") from error
    except OSError as error:
        if errors.is_disk_full(error):
            raise
        raise errors.SourceUnavailable(f"data.uri: the store of {uri} must answer: {error}") from error
    except Exception as error:
        if not is_from_a_store(error):
            raise
        raise errors.SourceUnavailable(f"data.uri: {uri} must be readable: {_last_line(error)}") from error
    if target.stat().st_size == 0:
        raise errors.DataError(f"data.uri: {uri} must hold rows, is empty")


def is_from_a_store(error: Exception) -> bool:
    """botocore's and aiohttp's errors have no common base, and importing both only to name them would cost a second."""
    return type(error).__module__.split(".")[0] in ("aiohttp", "botocore", "aiobotocore", "s3fs", "gcsfs", "fsspec")


def store_options(uri: str) -> dict[str, Any]:
    """A store of one's own (MinIO) is named by `AWS_ENDPOINT_URL`, as in every AWS client."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return {"endpoint_url": endpoint} if uri.startswith("s3://") and endpoint else {}


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except pd.errors.EmptyDataError as error:
        raise errors.DataError(f"data.uri: {uri} must hold rows, is empty") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise errors.DataError(f"data.uri: {uri} must be CSV: {_last_line(error)}") from error
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise errors.DataError(f"data.uri: {uri} must be Parquet: {_last_line(error)}") from error
    except OSError as error:
        raise errors.DataError(f"data.uri: {uri} must be readable as its format says: {_last_line(error)}") from error


def _head(data: config.Data, path: Path) -> list[str]:
    if _format(data) == "parquet":
        import pyarrow.parquet

        return [str(name) for name in pyarrow.parquet.read_schema(path).names]
    return [
        str(name) for name in pd.read_csv(path, nrows=0, compression=_compression(data), sep=_separator(data)).columns
    ]


def _format(data: config.Data) -> str:
    path = urlsplit(data.uri).path.lower() if "://" in data.uri else data.uri.lower()
    if data.format:
        return data.format
    if path.endswith(PARQUET_ENDINGS):
        return "parquet"
    if path.endswith(CSV_ENDINGS):
        return "csv"
    raise errors.InvalidSpec(
        f"data.format: must be set to csv or parquet, because {data.uri} ends in none of "
        f"{', '.join(CSV_ENDINGS + PARQUET_ENDINGS)}"
    )


def _compression(data: config.Data) -> Any:
    return "gzip" if data.uri.lower().split("?")[0].endswith(".gz") else None


def _separator(data: config.Data) -> str:
    return "\t" if data.uri.lower().endswith(".tsv") else ","


def _files_digest(paths: Collection[Path]) -> str:
    """sha256 over sorted (name, sha256 of content) lines: the digest of a folder does not depend on where it lies."""
    lines = []
    for path in paths:
        with path.open("rb") as file:
            lines.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def frame_digest(frame: pd.DataFrame) -> str:
    """sha256 over the frame as an Arrow stream without pandas' metadata, which names versions."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None).combine_chunks()
    hasher = hashlib.sha256()
    with pa.ipc.new_stream(pa.PythonFile(_HashSink(hasher), mode="w"), table.schema) as writer:
        writer.write_table(table)
    return f"sha256:{hasher.hexdigest()}"


class _HashSink:
    """A file that only hashes: the stream of a large frame is never held as a whole."""

    def __init__(self, hasher: Any) -> None:
        self._hasher, self.closed = hasher, False

    def write(self, chunk: bytes) -> int:
        self._hasher.update(chunk)
        return len(chunk)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(("[SQL", "(Background"))]
    return lines[-1].strip() if lines else type(error).__name__
