"""The IEEE-CIS fraud detection competition's files, from Kaggle with the user's own key, as one file to train on.

Kaggle gives them to those who have accepted the competition's rules, and to nobody else: no copy is shipped, and none is fetched
from anywhere else.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from m3_trainer import errors

if TYPE_CHECKING:
    import pyarrow as pa

COMPETITION = "ieee-fraud-detection"
TRANSACTIONS, IDENTITIES, KEY = "train_transaction.csv", "train_identity.csv", "TransactionID"
SECONDS, TIME = "TransactionDT", "TransactionTime"
FIRST_DAY = "2017-12-01"
"""`TransactionDT` counts seconds from a day that the competition does not tell. This one is a guess that many share; a split by
time needs the order and the distances alone."""
PACKAGE = "`m3 data download` needs kagglehub: pip install 'm3-ml[kaggle]'"
NO_KEY = (
    "Kaggle must know you, and there is no key of yours here. Sign in at https://www.kaggle.com/settings, create a token under "
    "API, and set KAGGLE_API_TOKEN to it (or KAGGLE_USERNAME and KAGGLE_KEY to a legacy key, or keep its file as "
    "~/.kaggle/kaggle.json); accept the competition's rules once, at https://www.kaggle.com/competitions/"
    f"{COMPETITION}/rules; then run the command again"
)
REFUSED = (
    "Kaggle must accept your key, and you the competition's rules: it says {said}. Accept them once, at "
    f"https://www.kaggle.com/competitions/{COMPETITION}/rules, or create another token at https://www.kaggle.com/settings"
)


def download(out: Path) -> int:
    """Fetch the two tables that have labels, join them into `out` (Parquet), and say how many rows it has.

    Kaggle's client keeps what it has fetched, in ~/.cache/kagglehub or KAGGLEHUB_CACHE. Raises `InvalidSpec` without the client's
    package, `DataError` where Kaggle refuses, `SourceUnavailable` where it does not answer.
    """
    from pyarrow import parquet

    from m3_trainer.data import tables

    paths = [_fetch(name) for name in (TRANSACTIONS, IDENTITIES)]
    read = []
    for path in paths:
        form = tables.Format("csv")
        with tables.explained(path.name, form):
            read.append(tables.read(path, form, lambda _: True))
    table = joined(*read)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.part")  # nobody finds half a file
    parquet.write_table(table, beside, compression="zstd")
    beside.replace(out)
    return table.num_rows


def joined(transactions: pa.Table, identities: pa.Table) -> pa.Table:
    """Each transaction with its identity, where it has one, in the transactions' order, and with a time."""
    import pyarrow as pa
    from pyarrow import compute

    row = compute.index_in(transactions[KEY], value_set=identities[KEY].combine_chunks())
    found = identities.drop_columns([KEY]).take(row)
    for name, column in zip(found.column_names, found.columns, strict=True):
        transactions = transactions.append_column(name, column)
    start = pa.scalar(FIRST_DAY).cast(pa.timestamp("s"))
    time = compute.add(start, transactions[SECONDS].cast(pa.int64()).cast(pa.duration("s")))
    return transactions.append_column(TIME, time)


def _fetch(name: str) -> Path:
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a bar is no line of a log
    try:
        import kagglehub
        import requests
        from kagglehub.exceptions import DataCorruptionError, UnauthenticatedError
    except ImportError as error:
        raise errors.InvalidSpec(PACKAGE) from error
    logging.getLogger("kagglehub").setLevel(logging.WARNING)
    try:
        return Path(kagglehub.competition_download(COMPETITION, path=name))
    except UnauthenticatedError as error:
        raise errors.DataError(NO_KEY) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise errors.DataError(REFUSED.format(said=status)) from error
        raise errors.SourceUnavailable(f"Kaggle must give {name}: it says {status}") from error
    except (requests.RequestException, DataCorruptionError) as error:
        raise errors.SourceUnavailable(f"Kaggle must give {name}: {errors.last_line(error)}") from error
