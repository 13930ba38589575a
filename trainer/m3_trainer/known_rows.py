"""A sample of the rows that a model has learned from: by it a later job finds out whether its test rows were among them.

The sample is of hashes, not of rows: nothing of the data leaves the job with it. It holds the smallest hashes, so that any two
parts of the same data are sampled alike (bottom-k sampling: Cohen and Kaplan, 2007), and 32 kB say as much of a billion rows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

SIZE = 4096
"""With four training rows to a test row about 1,000 of the test rows are looked up."""
MAX_SHARE = 0.01
"""Share of the test rows that may be equal to a training row: customers do buy the same thing twice."""


def hashes(features: pd.DataFrame, target: pd.Series) -> np.ndarray:
    """A uint64 for each row, shape (n,), equal where all features and the target are."""
    of_features = pd.util.hash_pandas_object(features.reset_index(drop=True), index=False).to_numpy()
    return of_features * np.uint64(2) + target.to_numpy().astype("uint64")


def digest(of: np.ndarray) -> str:
    """sha256 of a set of rows, whatever their order."""
    return "sha256:" + hashlib.sha256(np.sort(of).tobytes()).hexdigest()


@dataclass(frozen=True)
class KnownRows:
    """The sample: its columns in the order in which they were hashed, and the smallest hashes, sorted."""

    columns: tuple[str, ...]
    smallest: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[tuple[pd.DataFrame, pd.Series]]) -> Self:
        """Of rows that come in parts of the same columns, at least one."""
        columns, smallest = (), np.array([], dtype="uint64")
        for features, target in parts:
            columns = tuple(map(str, features.columns))
            smallest = np.union1d(smallest, hashes(features, target))[:SIZE]
        return cls(columns, smallest)

    def share(self, of: np.ndarray) -> float:
        """Estimated share of rows, given by their hashes over the same columns, that are training rows, too."""
        looked_up = of[of <= self.smallest[-1]] if len(self.smallest) == SIZE else of
        return float(np.isin(looked_up, self.smallest).mean()) if len(looked_up) else 0.0

    def dumps(self) -> bytes:
        file = io.BytesIO()
        np.savez(file, columns=np.array(self.columns, dtype=np.str_), smallest=self.smallest)
        return file.getvalue()

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """Raises ValueError, KeyError or BadZipFile for what is no sample. Never unpickles."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return cls(tuple(found["columns"].tolist()), found["smallest"])
