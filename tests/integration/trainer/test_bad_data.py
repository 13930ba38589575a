"""Data that cannot be learnt from, and stores that do not give it: each is one message, and nothing is registered."""

import bz2
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from harness import unused_port
from support import Ended

ROWS = "a,y\n" + "1,0\n2,1\n" * 100


def csv(name: str = "rows.csv", **columns: list) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    pd.DataFrame(columns).to_csv(name, index=False)
    return name


def parquet(name: str, **columns: list) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    pd.DataFrame(columns).to_parquet(name)
    return name


def file(name: str, content: str | bytes) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def many(*values: object) -> list:
    return [values[index % len(values)] for index in range(200)]


def truncated(name: str, share: float = 0.5) -> str:
    whole = Path(name).read_bytes()
    return file(name, whole[: int(len(whole) * share)])


def of_folder(name: str, **files: str | bytes) -> str:
    for each, content in files.items():
        file(f"{name}/{each.replace('_', '.')}", content)
    return f"{name}/"


def damaged(name: str) -> str:
    """Its footer is whole, its columns are not."""
    whole = bytearray(Path(name).read_bytes())
    whole[4:200] = bytes(196)
    return file(name, bytes(whole))


FILES: dict[str, tuple[Callable[[], dict], int, str]] = {
    "a missing file": (
        lambda: {"uri": "none.csv"}, 3, "data.uri: the file none.csv must exist where the job runs; looked from",
    ),
    "a folder without files": (
        lambda: {"uri": (Path("empty").mkdir(), "empty/")[1]}, 3,
        "data.uri: empty/ must hold at least one file; there is none",
    ),
    "a folder of other files": (
        lambda: {"uri": of_folder("notes", a_txt="see rows.csv")}, 3,
        "data.uri: a file of notes/ must end in one of .csv, .csv.gz, .tsv, .parquet, .pq, or data.format say what they are",
    ),
    "a pattern that matches nothing": (
        lambda: {"uri": "rows-*.csv"}, 3, "data.uri: rows-*.csv must match at least one file; there is none",
    ),
    "a folder of two formats": (
        lambda: {"uri": (parquet("both/b.parquet", a=many(1), y=many(0, 1)), of_folder("both", a_csv=ROWS))[1]}, 3,
        "data.uri: all files of both/ must be of one format; a.csv is CSV, b.parquet is Parquet: name some of them by a pattern",
    ),
    "a file that lacks a column": (
        lambda: {"uri": of_folder("days", a_csv=ROWS, b_csv="y\n0\n1\n")}, 3,
        "data.uri: all files must have the same columns; b.csv lacks `a` of a.csv",
    ),
    "a file with a column more": (
        lambda: {"uri": of_folder("days", a_csv=ROWS, b_csv="a,b,y\n1,2,0\n")}, 3,
        "data.uri: all files must have the same columns; b.csv has `b`, which a.csv lacks",
    ),
    "a column of two types": (
        lambda: {"uri": of_folder("days", a_csv=ROWS, b_csv="a,y\nx,0\n")}, 3,
        "data.uri: all files must have the same columns; `a` is int64 in a.csv and string in b.csv",
    ),
    "an empty file": (lambda: {"uri": file("empty.csv", "")}, 3, "the file empty.csv must hold rows, is empty"),
    "an empty file of many": (
        lambda: {"uri": of_folder("days", a_csv=ROWS, b_csv="")}, 3,
        "data.uri: the file b.csv of days/ must hold rows, is empty",
    ),
    "a header without rows": (
        lambda: {"uri": file("head.csv", "a,y\n")}, 3, "head.csv must hold at least one row, holds none",
    ),
    "an unknown ending": (
        lambda: {"uri": file("rows.dat", "a")}, 2,
        "spec.data: `format` must be set to csv or parquet where `uri` does not end in .csv",
    ),
    "CSV that calls itself Parquet": (
        lambda: {"uri": file("rows.parquet", ROWS)}, 3,
        "data.uri: rows.parquet must be Parquet: Parquet magic bytes not found in footer",
    ),
    "half of a Parquet file": (
        lambda: {"uri": truncated(parquet("rows.parquet", a=many(1, 2), y=many(0, 1)))}, 3,
        "data.uri: rows.parquet must be Parquet: ",
    ),
    "a Parquet file with a hole": (
        lambda: {"uri": damaged(parquet("rows.parquet", a=list(range(200)), y=many(0, 1)))}, 3,
        "data.uri: rows.parquet must be Parquet: ",
    ),
    "half of a gzip file": (
        lambda: {"uri": truncated(file("rows.csv.gz", gzip.compress(os.urandom(3000).hex().encode())))}, 3,
        "data.uri: rows.csv.gz must be CSV in UTF-8, packed by gzip: Truncated compressed stream",
    ),
    "another packer's file": (
        lambda: {"uri": file("rows.csv.gz", bz2.compress(ROWS.encode()))}, 3,
        "data.uri: rows.csv.gz must be CSV in UTF-8, packed by gzip: ",
    ),
    "a file of bytes": (
        lambda: {"uri": file("bytes.csv", bytes(range(128, 256)))}, 3, "data.uri: bytes.csv must be CSV in UTF-8: ",
    ),
    "text in Latin-1": (
        lambda: {"uri": file("rows.csv", ("name,a,y\n" + "Zürich,1,0\nRome,2,1\n" * 50).encode("latin-1"))}, 3,
        "data.uri: rows.csv must be CSV in UTF-8: In CSV column #0: CSV conversion error to string: invalid UTF8 data",
    ),
    "a row that is longer": (
        lambda: {"uri": file("rows.csv", ROWS + "1,0,7\n")}, 3,
        "data.uri: rows.csv must be CSV in UTF-8: CSV parse error: ",
    ),
    "a row that is shorter": (
        lambda: {"uri": file("rows.csv", ROWS + "1\n")}, 3,
        "data.uri: rows.csv must be CSV in UTF-8: CSV parse error: ",
    ),
    "a column that stands twice": (
        lambda: {"uri": file("rows.csv", ROWS.replace("a,y", "y,y", 1))}, 3,
        "data.uri: column `y` must stand once in rows.csv, stands twice or more",
    ),
    "an unknown column": (
        lambda: {"uri": csv(a=many(1, 2), label=many(0, 1)), "target": "labell"}, 3,
        "data.target: column `labell` must be in the data; did you mean `label`?",
    ),
    "other data": (
        lambda: {"uri": csv(a=many(1, 2), y=many(0, 1)), "expectedDigest": f"sha256:{'0' * 64}"}, 3,
        f"data.uri: the data must have the digest sha256:{'0' * 64} (data.expectedDigest), has sha256:",
    ),
}  # fmt: skip
VALUES: dict[str, tuple[Callable[[], dict], int, str]] = {
    "a target with one class": (
        lambda: {"uri": csv(a=many(1, 2), y=many(0))}, 3,
        "data.target: `y` must have both classes, 0 and 1; every row has 0",
    ),
    "a target of words": (
        lambda: {"uri": csv(a=many(1, 2), y=many("yes", "no"))}, 3,
        "data.target: `y` must be 0 or 1 in every row, has 'no', 'yes'",
    ),
    "a NaN target": (
        lambda: {"uri": csv(a=many(1, 2), y=[None, *many(0, 1)[1:]])}, 3,
        "data.target: `y` must have a value in every row; 1 of 200 rows have none, the first is row 1",
    ),
    "a class with one row": (
        lambda: {"uri": csv(a=many(1, 2), y=[1, *many(0)[1:]])}, 3,
        "data.target: each class must have at least 2 rows, one for training and one for the test",
    ),
    "an infinite feature": (
        lambda: {"uri": csv(a=[float("inf"), *many(1, 2)[1:]], y=many(0, 1))}, 3,
        "features: `a` must be finite in every row",
    ),
    "a feature of words": (
        lambda: {"uri": csv(a=many(1, 2), y=many(0, 1), c=many("x")), "timeColumn": "c"}, 3,
        "data.timeColumn: `c` must hold dates and times: ",
    ),
    "a time that is a number": (
        lambda: {"uri": csv(a=many(1, 2), y=many(0, 1), t=many(5, 6)), "timeColumn": "t"}, 3,
        "data.timeColumn: `t` must hold dates and times, holds numbers",
    ),
    "a time that is missing": (
        lambda: {"uri": csv(a=many(1, 2), y=many(0, 1), t=["", *many("2018-04-01")[1:]]), "timeColumn": "t"}, 3,
        "data.timeColumn: `t` must have a value in every row",
    ),
}  # fmt: skip
STORES: dict[str, tuple[Callable[[], dict], int, str]] = {
    "a web server that is not there": (
        lambda: {"uri": f"http://127.0.0.1:{unused_port()}/rows.csv"}, 7, "data.uri: the store of http://127.0.0.1:",
    ),
}  # fmt: skip
MISTAKES = FILES | VALUES | STORES


@pytest.fixture
def train(m3: Callable[..., Ended]) -> Callable[..., Ended]:
    """Runs a job on this data; it must fail, in words, and register nothing."""

    def run(**data: Any) -> Ended:
        job = {
            "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "bad"},
            "spec": {"data": {"target": "y"} | data},
        }  # fmt: skip
        Path("job.yaml").write_text(json.dumps(job))
        ended = m3("run", "-f", "job.yaml")
        assert "Traceback" not in ended.err
        assert registered() == []
        return ended

    return run


def registered() -> list[str]:
    if not Path("m3/mlflow.db").exists():
        return []
    return [model.name for model in mlflow.MlflowClient("sqlite:///m3/mlflow.db").search_registered_models()]


@pytest.mark.parametrize(("data", "code", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_the_data_is_one_message(train, data: Callable[[], dict], code: int, message: str) -> None:
    ended = train(**data())
    assert (ended.code, message in ended.err) == (code, True), ended.err


# --- S3 ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def s3(minio: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in minio.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("s3")
def test_a_bucket_and_an_object_that_are_missing_are_named(train) -> None:
    for uri in ("s3://nowhere/rows.csv", "s3://kept/none.csv", "s3://nowhere/rows/"):
        ended = train(uri=uri)
        missing = f"data.uri: {uri} must exist; its store has no such file, folder or bucket"
        none = f"data.uri: {uri} must hold at least one file; there is none"
        assert (ended.code, missing in ended.err or (uri[-1] == "/" and none in ended.err)) == (3, True), ended.err


@pytest.mark.parametrize("setting", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_keys_are_told_apart_from_a_store_that_is_down(train, s3: pytest.MonkeyPatch, setting: str) -> None:
    s3.setenv(setting, "another")
    ended = train(uri="s3://kept/rows.csv")
    must = "data.uri: s3://kept/rows.csv must be readable with the credentials in the environment (in the cluster: "
    assert (ended.code, must in ended.err) == (3, True), ended.err


def test_no_keys_at_all_are_told(train, s3: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        s3.delenv(name)
    s3.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3.setenv("HOME", str(tmp_path))
    ended = train(uri="s3://kept/rows.csv")
    assert (ended.code, "must be readable with the credentials in the environment" in ended.err) == (3, True), ended.err


def test_a_store_that_is_down_is_told(train, s3: pytest.MonkeyPatch) -> None:
    s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port()}")
    s3.setenv("AWS_MAX_ATTEMPTS", "1")
    ended = train(uri="s3://kept/rows.csv")
    assert (ended.code, "s3://kept/rows.csv must " in ended.err) == (7, True), ended.err


# --- the web ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def web() -> Iterator[str]:
    """A web server that answers with the status that its path names."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(int(self.path.split("/")[1]))

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, 3, "must exist; its store has no such file, folder or bucket"),
        (401, 3, "must be readable with the credentials in the environment (in the cluster: `data.secretRef`): 401"),
        (403, 3, "must be readable with the credentials in the environment (in the cluster: `data.secretRef`): 403"),
        (503, 7, "must be readable: 503"),
    ],
)
def test_what_a_web_server_answers_is_told_and_no_signature_with_it(
    train, web: str, status: int, code: int, message: str
) -> None:
    ended = train(uri=f"{web}/{status}/rows.csv?signature=f00d")
    assert (ended.code, f"data.uri: {web}/{status}/rows.csv {message}" in ended.err) == (code, True), ended.err
    assert "f00d" not in ended.err
