"""Digests of what was read: equal digests are equal data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def of_content(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(contents: Iterable[tuple[str, str]]) -> str:
    """`sha256:…` over sorted lines of a name and the sha256 of its content: that of a folder does not depend on where it lies."""
    lines = sorted(f"{name} {content}\n" for name, content in contents)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def of_frame(frame: pd.DataFrame) -> str:
    """`sha256:…` over a frame as Arrow, without pandas' metadata, which names versions."""
    import pyarrow as pa

    rows = Rows()
    rows.update(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None).combine_chunks())
    return rows.digest()


class Rows:
    """`sha256:…` over tables, one after another, each as an Arrow stream: of a query's rows no more than a part is in memory.

    How rows are cut into tables is part of the digest, and whoever calls this cuts them always alike.
    """

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()

    def update(self, table: pa.Table) -> None:
        import pyarrow as pa

        with pa.ipc.new_stream(pa.PythonFile(_HashSink(self._hasher), mode="w"), table.schema) as writer:
            writer.write_table(table)

    def digest(self) -> str:
        return f"sha256:{self._hasher.hexdigest()}"


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
