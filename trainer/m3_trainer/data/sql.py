"""Rows of a query, in the order of all its columns, read in parts through SQLAlchemy.

SQL promises no order of rows, and without a total one neither the digest nor a split at random would be that of the rows. The
database sorts, not we: a query larger than memory passes through here while only the wanted columns are kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy
from sqlalchemy import exc

from m3_trainer import config, errors
from m3_trainer.data import digests, tables

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Subquery

PART_ROWS = 10_000
"""Rows fetched at once; part of the digest (`digests.Rows`), so another number would make another digest of the same rows."""
USER, PASSWORD = "DATABASE_USER", "DATABASE_PASSWORD"
# What databases say to a user whom they do not let in: PostgreSQL's driver gives no code for it.
NOT_LET_IN = re.compile(
    "authentication failed|no password supplied|Access denied|Login failed|does not exist|Unknown database|no pg_hba.conf entry",
    re.IGNORECASE,
)


def read(data: config.Data, wanted: tables.Wanted) -> tuple[list[pa.Table], str]:
    """The wanted columns of the query's rows, and the digest of all. Raises `DataError`, `SourceUnavailable`, `InvalidSpec`."""
    kept, digest = [], digests.Rows()
    with _connected(data) as connection, _explained(data):
        rows = _rows(connection, data)
        in_order = sqlalchemy.select(rows).order_by(*rows.c)
        result = connection.execution_options(yield_per=PART_ROWS).execute(in_order)  # a cursor of the server's
        for part in result.partitions():
            table = _table(_names(rows), part)
            digest.update(table)
            kept.append(table.select([name for name in table.column_names if wanted(name)]))
        if not kept:
            kept = [pa.table({name: [] for name in _names(rows) if wanted(name)})]
    _check_alike(kept)
    return kept, digest.digest()


def _check_alike(parts: list[pa.Table]) -> None:
    for name in parts[0].column_names:
        kinds = list(dict.fromkeys(part.schema.field(name).type for part in parts))
        if tables.wider_of(*kinds) is None:
            raise errors.DataError(
                f"data.query: column `{name}` must hold values of one type, has {', '.join(map(str, kinds))}: cast it"
            )


def names(data: config.Data) -> list[str]:
    """Names of the query's columns. Raises as `read` does."""
    with _connected(data) as connection, _explained(data):
        return _names(_rows(connection, data))


def _rows(connection: Connection, data: config.Data) -> Subquery:
    """The query as a table of known columns, in parentheses: no statement that writes can stand there."""
    # A colon is no parameter of ours, and a comment at the query's end must not swallow what follows.
    text = re.sub(":", r"\\:", (data.query or "").strip().rstrip(";")) + "\n"
    unknown = sqlalchemy.text(text).columns().subquery("m3")
    nothing = sqlalchemy.select(sqlalchemy.text("*")).select_from(unknown).where(sqlalchemy.false())
    found = [str(name) for name in connection.execute(nothing).keys()]  # noqa: SIM118 - of a result
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise errors.DataError(f"data.query: each column must have a name of its own; `{twice[0]}` is selected twice")
    return sqlalchemy.text(text).columns(*(sqlalchemy.column(name) for name in found)).subquery("m3")


def _names(rows: Subquery) -> list[str]:
    return [str(column.name) for column in rows.c]


def _table(columns: list[str], rows: Any) -> pa.Table:
    """Rows as Arrow, the type of each column from its values: databases do not tell types alike, SQLite none at all."""
    arrays = []
    for name, values in zip(columns, zip(*rows, strict=True), strict=True):
        try:
            arrays.append(pa.array([_plain(value) for value in values]))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise errors.DataError(
                f"data.query: column `{name}` must hold values of one type: {errors.last_line(error)}"
            ) from error
    return pa.table(arrays, names=columns)


def _plain(value: Any) -> Any:
    match value:
        case datetime() if value.tzinfo:
            return value.astimezone(UTC)  # each part of a query must have the same zone
        case None | bool() | int() | float() | str() | bytes() | datetime():
            return value
        case Decimal():
            return float(value)
        case date():
            return datetime(value.year, value.month, value.day)
        case _:
            return str(value)


# --- the database -----------------------------------------------------------------------------------------------------
@contextmanager
def _connected(data: config.Data) -> Iterator[Connection]:
    engine = _engine(data)
    try:
        connection = engine.connect()
    except exc.DBAPIError as error:
        raise _not_connected(engine, error) from error
    with connection:
        yield connection


def _engine(data: config.Data) -> Engine:
    """Raises `InvalidSpec` where the image has no driver, `DataError` where a file of SQLite is not there (it would be made)."""
    try:
        url = sqlalchemy.make_url(data.uri)
        url = url.set(username=os.environ.get(USER) or url.username, password=os.environ.get(PASSWORD))
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    except exc.NoSuchModuleError as error:
        raise errors.InvalidSpec(f"data.uri: a driver for {data.scheme} must be installed in the image") from error
    except ModuleNotFoundError as error:
        raise errors.InvalidSpec(f"data.uri: the driver `{error.name}` must be installed in the image") from error
    except (exc.ArgumentError, ValueError) as error:
        raise errors.InvalidSpec(
            f"data.uri: must be a URL of SQLAlchemy, as postgresql://host/database: {error}"
        ) from error
    if data.scheme == "sqlite" and not Path(url.database or "").is_file():
        raise errors.DataError(
            f"data.uri: the file {url.database} must exist where the job runs; looked from {Path.cwd()}"
        )
    return engine


def _not_connected(engine: Engine, error: exc.DBAPIError) -> errors.M3Error:
    said = errors.last_line(error)
    if not NOT_LET_IN.search(said):
        return errors.SourceUnavailable(f"data.uri: the database must answer; it said: {said}")
    user = engine.url.username or "a user without a name"
    return errors.DataError(
        f"data.uri: the database must let {user} in, with {PASSWORD} from the environment (in the cluster: `data.secretRef`), "
        f"which {'is' if os.environ.get(PASSWORD) else 'is not'} set; it said: {said}"
    )


@contextmanager
def _explained(data: config.Data) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        if _may_pass(error):
            raise errors.SourceUnavailable(
                f"data.uri: the database must answer; it said: {errors.last_line(error)}"
            ) from error
        raise errors.DataError(f"data.query: must run; {data.scheme} said: {_told(error)}") from error
    except exc.SQLAlchemyError as error:
        raise errors.DataError(f"data.query: must run: {errors.last_line(error)}") from error


def _may_pass(error: exc.DBAPIError) -> bool:
    """Whether it is the database's trouble and not the query's; to SQLite a misspelt name is an operational error, too."""
    if name := getattr(error.orig, "sqlite_errorname", None):
        return name != "SQLITE_ERROR"
    return error.connection_invalidated or isinstance(error, exc.OperationalError)


def _told(error: exc.DBAPIError) -> str:
    """The database's first line; what follows draws where in the statement it is."""
    return re.sub(r"^\(.*?\) ", "", str(error).splitlines()[0])
