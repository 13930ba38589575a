"""A file of CSV or Parquet as an Arrow table of the wanted columns, and tables as one frame of pandas.

Everything is Arrow until the end: its CSV reader takes the columns and their types before it reads a row, refuses a row of
another length (pandas fills it up, or takes its first value for an index), and reads numbers to the last digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from m3_trainer import errors

if TYPE_CHECKING:
    import pandas as pd
    from pyarrow import csv

Wanted = Callable[[str], bool]
"""Says of a column's name whether it is needed; what is not needed is not read."""
Types = Mapping[str, pa.DataType]

CSV_ENDINGS = (".csv", ".csv.gz", ".tsv")
PARQUET_ENDINGS = (".parquet", ".pq")
HEAD_BYTES, BLOCK_BYTES = 4 * 2**20, 2**20
"""Of a CSV file: what decides the types, and what is read at once. A row must fit into a block."""
# Arrow's list of words for a missing value lacks these two of pandas'.
MORE_NULLS = ["None", "<NA>"]
PANDAS_INDEX = re.compile("__index_level_[0-9]+__")
"""Column in which pandas keeps an index without a name: no data of the user's."""


@dataclass(frozen=True)
class Format:
    """How a file is read."""

    name: str
    separator: str = ","
    is_gzip: bool = False


def format_of(file: str, given: str | None) -> Format | None:
    """The format of a file, as `data.format` says it, else by its ending; None where neither does."""
    ending = file.lower()
    if given == "parquet" or (given is None and ending.endswith(PARQUET_ENDINGS)):
        return Format("parquet")
    if given == "csv" or ending.endswith(CSV_ENDINGS):
        return Format("csv", "\t" if ending.endswith(".tsv") else ",", ending.endswith(".gz"))
    return None


def names(path: Path, form: Format) -> list[str]:
    """Names of the columns, from the file's head alone. Raises `pyarrow.ArrowInvalid`, OSError."""
    return [name for name in _schema(path, form).names if not PANDAS_INDEX.fullmatch(name)]


def read(path: Path, form: Format, wanted: Wanted, known: pa.Schema | None = None) -> pa.Table:
    """The wanted columns of a file; `known` is the schema that files before it have had.

    Raises `pyarrow.ArrowInvalid`, OSError: `explained` says what they mean.
    """
    schema = _schema(path, form)
    chosen = [name for name in schema.names if wanted(name) and not PANDAS_INDEX.fullmatch(name)]
    if twice := sorted({name for name in chosen if schema.names.count(name) > 1}):
        raise errors.DataError(f"data.uri: column `{twice[0]}` must stand once in {path.name}, stands twice or more")
    if form.name == "parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            return plain(file.read(chosen).replace_schema_metadata(None))
    if not chosen:  # to Arrow no columns are all
        return pa.table({})
    types = {name: (known if known and name in known.names else schema).field(name).type for name in chosen}
    types = {name: pa.string() if _is_text(kind) else kind for name, kind in types.items()}
    return plain(_read_csv(path, form, schema.names, types))


def _is_text(kind: pa.DataType) -> bool:
    """What Arrow infers where there is text: bytes, where it is not UTF-8, of which nobody learns, and whoever saved a table in
    Latin-1 wants to know; a time of day, which would be another name (12:30:00 for 12:30), and to pandas a Python object."""
    return pa.types.is_binary(kind) or pa.types.is_time(kind)


def _schema(path: Path, form: Format) -> pa.Schema:
    if form.name == "parquet":
        from pyarrow import parquet

        return parquet.read_schema(path)
    with _open_csv(path, form, HEAD_BYTES) as reader:
        return reader.schema


def _read_csv(path: Path, form: Format, header: Sequence[str], types: Types) -> pa.Table:
    """Read with these types; where a value further down does not fit, once more with a wider one."""
    while True:
        try:
            with _open_csv(path, form, BLOCK_BYTES, types) as reader:
                return reader.read_all()
        except pa.ArrowInvalid as error:
            misfit = MISFIT.search(str(error))
            name = header[int(misfit[1])] if misfit else ""
            if name not in types or types[name] == pa.string():
                raise
            types = {**types, name: _wider(types[name])}


MISFIT = re.compile(r"In CSV column #(\d+): ")


def _wider(kind: pa.DataType) -> pa.DataType:
    """The next type that holds all values of this one, in the order in which Arrow's inference goes."""
    if pa.types.is_null(kind):
        return pa.int64()
    if pa.types.is_int64(kind):
        return pa.float64()
    if pa.types.is_date(kind):
        return pa.timestamp("s")
    if kind == pa.timestamp("s"):
        return pa.timestamp("ns")
    return pa.string()


def _open_csv(path: Path, form: Format, block: int, types: Types | None = None) -> csv.CSVStreamingReader:
    from pyarrow import csv

    file = pa.OSFile(str(path))
    convert = csv.ConvertOptions(strings_can_be_null=True)
    convert.null_values = [*convert.null_values, *MORE_NULLS]
    if types is not None:
        convert.include_columns, convert.column_types = list(types), dict(types)
    return csv.open_csv(
        pa.CompressedInputStream(file, "gzip") if form.is_gzip else file,
        read_options=csv.ReadOptions(block_size=block),
        parse_options=csv.ParseOptions(delimiter=form.separator, newlines_in_values=True),
        convert_options=convert,
    )


@contextmanager
def explained(name: str, form: Format) -> Iterator[None]:
    """Turn what Arrow says of a file into what the user can mend. Raises `DataError`."""
    must = "Parquet" if form.name == "parquet" else "CSV in UTF-8" + (", packed by gzip" if form.is_gzip else "")
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if errors.is_disk_full(error):
            raise
        raise errors.DataError(f"data.uri: {name} must be {must}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Arrow's words, without its advice to its own callers."""
    return re.sub(r"( \(.*block.size.*\)|\. Either the file is corrupted or .*)$", "", errors.last_line(error))


# --- many tables as one -----------------------------------------------------------------------------------------------
def alike(name: str, have: pa.Schema, other: str, has: pa.Schema) -> pa.Schema:
    """The schema of both files: the same columns, in whatever order, of types that go together. Raises `DataError`."""
    if lacking := [column for column in have.names if column not in has.names]:
        raise errors.DataError(_differ(f"{other} lacks `{lacking[0]}` of {name}"))
    if more := [column for column in has.names if column not in have.names]:
        raise errors.DataError(_differ(f"{other} has `{more[0]}`, which {name} lacks"))
    fields = []
    for column in have.names:
        kinds = have.field(column).type, has.field(column).type
        if (kind := wider_of(*kinds)) is None:
            raise errors.DataError(_differ(f"`{column}` is {kinds[0]} in {name} and {kinds[1]} in {other}"))
        fields.append((column, kind))
    return pa.schema(fields)


def _differ(how: str) -> str:
    return f"data.uri: all files must have the same columns; {how}"


def wider_of(*kinds: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of all; None where there is none, as of numbers and text."""
    try:
        return (
            pa.unify_schemas([pa.schema([("it", kind)]) for kind in kinds], promote_options="permissive").field(0).type
        )
    except pa.ArrowTypeError:
        return None


def plain(table: pa.Table) -> pa.Table:
    """Decimals as float64 and days as times: pandas would make a Python object of each."""
    for index, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.float64()))
        elif pa.types.is_date(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.timestamp("s")))
    return table


def frame_of(tables: list[pa.Table]) -> pd.DataFrame:
    """The tables' rows, one after another, as a frame; true and false stay what they are beside a missing value.

    It empties the list, and gives each column's Arrow memory back as soon as the column is one of the frame: no more than one
    column is held twice.
    """
    import pandas as pd

    whole = pa.concat_tables(tables, promote_options="permissive")
    tables.clear()
    for index, field in enumerate(whole.schema):
        if pa.types.is_null(field.type):
            whole = whole.set_column(index, field.name, whole.column(index).cast(pa.float64()))
    # As 1, 0 and NaN, which a gap would make of them, they would be other names (`features.categorical`).
    kinds = {pa.bool_(): pd.BooleanDtype()}
    frame = whole.to_pandas(split_blocks=True, self_destruct=True, ignore_metadata=True, types_mapper=kinds.get)
    pa.default_memory_pool().release_unused()  # what it keeps for its next use would stand beside the model's matrix
    return frame
