"""Generated transactions, digests, and what a frame must be."""

import hashlib
import time
from pathlib import Path

import pandas as pd
import pytest

from m3_trainer.config import Data, Workload
from m3_trainer.data import digests, sample, sources, stores, tables
from m3_trainer.data import frame as frames
from m3_trainer.errors import DataError, InvalidSpec


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    one, same, other = sample.transactions(2_000, 7), sample.transactions(2_000, 7), sample.transactions(2_000, 8)
    assert digests.of_frame(one) == digests.of_frame(same) != digests.of_frame(other)


@pytest.mark.parametrize("rows", [100, 5_000, 200_000])
def test_generated_rows_are_in_time_order_and_hold_both_classes(rows: int) -> None:
    frame = sample.transactions(rows)
    assert len(frame) == rows
    assert frame["TX_DATETIME"].is_monotonic_increasing
    assert 0.001 < frame[sample.TARGET].mean() < 0.1


def test_every_amount_over_the_limit_is_fraud() -> None:
    frame = sample.transactions(100_000)
    assert (frame.loc[frame["TX_AMOUNT"] > sample.AMOUNT_LIMIT, sample.TARGET] == 1).all()
    assert (frame["TX_AMOUNT"] > sample.AMOUNT_LIMIT).any()


def test_the_pattern_of_a_fraud_is_not_among_the_columns() -> None:
    assert "TX_FRAUD_SCENARIO" not in sample.transactions(100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 5}, "rows must be between 100 and"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"days": 0}, "days must be between 1 and 3650"),
    ],
)
def test_a_sample_that_cannot_be_made_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        sample.transactions(**({"rows": 1000} | options))


def test_a_sample_is_what_its_uri_says_and_the_rest_by_default() -> None:
    assert sources.sample_options("sample://transactions?rows=500") == {"rows": 500, "seed": 7, "days": 60}


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("ROWS.CSV", None, tables.Format("csv")),
        ("rows.csv.gz", None, tables.Format("csv", is_gzip=True)),
        ("rows.tsv", None, tables.Format("csv", "\t")),
        ("rows.pq", None, tables.Format("parquet")),
        ("part-0", "parquet", tables.Format("parquet")),
        ("rows.gz", "csv", tables.Format("csv", is_gzip=True)),
        ("rows.txt", None, None),
    ],
)
def test_the_format_is_what_the_file_says_else_the_ending(name: str, given: str | None, expected: object) -> None:
    assert tables.format_of(name, given) == expected


def test_a_signature_in_an_address_is_not_shown() -> None:
    assert stores.shown("https://host/rows.csv?X-Amz-Signature=f00d") == "https://host/rows.csv"
    assert stores.shown("sample://transactions?rows=500") == "sample://transactions?rows=500"


def test_the_digest_of_a_file_is_over_its_name_and_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,y\n1,0\n2,1\n")
    line = f"rows.csv {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
    read = sources.read(Data(uri=str(path), target="y"), lambda _: True)
    assert read.digest == f"sha256:{hashlib.sha256(line.encode()).hexdigest()}"


def test_other_data_than_expected_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,y\n1,0\n2,1\n")
    with pytest.raises(DataError, match="the data must have the digest sha256:0000"):
        sources.read(Data(uri=str(path), target="y", expected_digest=f"sha256:{'0' * 64}"), lambda _: True)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.parquet", "rows.tsv"])
def test_csv_and_parquet_hold_the_same_rows(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5], "unused": [0, 0], "y": [0, 1]})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    read = sources.read(Data(uri=str(path), target="y"), lambda column: column != "unused")
    pd.testing.assert_frame_equal(read.frame, frame[["a", "y"]])


TARGETS = {
    "a missing value": ([0, None, 1], "`y` must have a value in every row; 1 of 3 rows have none, the first is row 2"),
    "one class": ([0, 0, 0], "`y` must have both classes, 0 and 1; every row has 0"),
    "three classes": ([0, 1, 2], "`y` must be 0 or 1 in every row, has 0, 1, 2"),
    "text": (["no", "yes", "no"], "`y` must be 0 or 1 in every row, has 'no', 'yes'"),
}


@pytest.mark.parametrize(("values", "message"), TARGETS.values(), ids=TARGETS.keys())
def test_a_target_that_is_no_binary_column_is_refused(values: list, message: str) -> None:
    with pytest.raises(DataError) as raised:
        frames.target_of(Data(uri="x.csv", target="y"), pd.DataFrame({"y": values}))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "`t` must hold dates and times, holds numbers"),
        (["2026-01-01", "soon"], "`t` must hold dates and times"),
        (["2026-01-01", None], "`t` must have a value in every row"),
    ],
)
def test_a_time_column_without_times_is_refused(values: list, message: str) -> None:
    with pytest.raises(DataError) as raised:
        frames.time_of(Data(uri="x.csv", target="y", time_column="t"), pd.DataFrame({"t": values}))
    assert message in str(raised.value)


def workload(**parts: dict) -> Workload:
    return Workload.parse({"data": {"uri": "x.csv", "target": "y"}, **parts})


def test_a_column_that_is_not_there_is_named_with_its_nearest() -> None:
    with pytest.raises(DataError, match=r"data.target: column `y` must be in the data; did you mean `yy`\?"):
        frames.check_columns(workload(), ["amount", "yy"])
    with pytest.raises(
        DataError, match=r"features.include: column `amuont` must be in the data; did you mean `amount`\?"
    ):
        frames.check_columns(workload(features={"include": ["amuont"]}), ["amount", "y"])


def test_rows_are_generated_at_half_a_million_a_second() -> None:
    sample.transactions(1_000)  # numpy's first use
    start = time.process_time()  # of this process: what else the machine does must not matter
    sample.transactions(500_000)
    assert time.process_time() - start < 1.0
