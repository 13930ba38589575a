"""The same rows from every kind of source: folders and patterns of files, S3, the web, PostgreSQL, SQLite."""

import datetime
import functools
import gzip
import hashlib
import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import mlflow
import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from postgres import Postgres
from support import Ended

from m3_trainer import features
from m3_trainer.config import Data
from m3_trainer.data import sources
from m3_trainer.errors import DataError, InvalidSpec, SourceUnavailable

ALL: Callable[[str], bool] = lambda _: True  # noqa: E731


def rows(count: int = 1_000) -> pd.DataFrame:
    """Rows in the order of all their columns, as SQL gives them."""
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "a": np.arange(count),
            "amount": rng.normal(50, 10, count),
            "day": pd.Timestamp("2018-04-01") + pd.to_timedelta(np.arange(count), unit="s"),
            "word": [f"w{index % 7}" for index in range(count)],
            "y": rng.integers(0, 2, count),
        }
    )


def read(uri: str, wanted: Callable[[str], bool] = ALL, **data: Any) -> sources.Source:
    return sources.read(Data(uri=uri, target="y", **data), wanted)


def assert_rows(found: sources.Source, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found.frame, expected, check_dtype=False)


def cut(frame: pd.DataFrame, folder: Path, ending: str, parts: int = 3) -> None:
    """The rows in as many files, in order of their names; the middle one lies in a folder of its own."""
    for index, part in enumerate(np.array_split(np.arange(len(frame)), parts)):
        path = folder / ("part-1" if index == 1 else "") / f"part-{index}{ending}"
        write(frame.iloc[part], path)


def write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


# --- folders and patterns ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_a_folder_and_a_pattern_are_read_as_one_table(clean: Path, ending: str) -> None:
    cut(rows(), clean / "rows", ending)
    (clean / "rows" / "_SUCCESS").write_text("")  # as Spark leaves it
    (clean / "rows" / "README.txt").write_text("three files")
    for uri in ("rows/", f"{clean}/rows/", f"file://{clean}/rows/", f"rows/**/*{ending}", f"ro*/**/part-?{ending}"):
        assert_rows(read(uri), rows())
    assert_rows(read(f"rows/*{ending}"), pd.concat([rows()[:334], rows()[667:]], ignore_index=True))


def test_files_without_an_ending_are_read_as_the_format_says(clean: Path) -> None:
    cut(rows(), clean / "rows", ".csv")
    for path in (clean / "rows").rglob("*.csv"):
        path.rename(path.with_suffix(""))
    assert_rows(read("rows", format="csv"), rows())


def test_the_digest_of_a_folder_is_over_sorted_names_and_contents_wherever_it_lies(clean: Path) -> None:
    cut(rows(), clean / "here", ".csv")
    cut(rows(), clean / "there" / "deep", ".csv")
    names = ["part-0.csv", "part-1/part-1.csv", "part-2.csv"]
    lines = [f"{name} {hashlib.sha256((clean / 'here' / name).read_bytes()).hexdigest()}\n" for name in names]
    expected = f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
    assert read("here/").digest == read("there/deep/").digest == read("here/**/*.csv").digest == expected
    assert_rows(read("here/", expected_digest=expected), rows())
    (clean / "here" / "part-2.csv").rename(clean / "here" / "part-3.csv")
    with pytest.raises(DataError, match=r"the data must have the digest sha256:.* has sha256:"):
        read("here/", expected_digest=expected)


def test_types_widen_from_row_to_row_and_from_file_to_file() -> None:
    many = 400_000  # rows of more than one block
    whole = pd.DataFrame({"a": range(many), "empty": None, "late": None, "day": "2018-04-01", "id": 7, "y": 1})
    whole.to_csv("a.csv", index=False)
    with Path("a.csv").open("a") as file:
        file.write("0.5,,x,2018-04-01 12:30:00.25,00A,0\n")
    Path("b.csv").write_text("y,id,day,late,empty,a\n1,1,2018-04-02,,2.5,1e3\n")
    frame = read("*.csv").frame
    assert len(frame) == many + 2
    kinds = {str(name): str(dtype) for name, dtype in frame.dtypes.items()}
    assert kinds == {
        "a": "float64", "empty": "float64", "late": "str", "day": "datetime64[ns]", "id": "str", "y": "int64",
    }  # fmt: skip
    assert frame["a"].tolist()[-3:] == [many - 1, 0.5, 1000]
    assert frame["id"].tolist()[-3:] == ["7", "00A", "1"]
    assert frame["day"].iloc[-2] == pd.Timestamp("2018-04-01T12:30:00.25")


def test_what_csv_may_hold_is_read_as_pandas_reads_it() -> None:
    Path("rows.csv").write_bytes(
        b"\xef\xbb\xbfa,text,flag,small,y\r\n"
        b'1,"two\nlines, and a ""quote""",true,1e-300,0\r\n'
        b",NA,,nan,1\r\n"
        b"3,,false,None,1\r\n"
    )
    expected = pd.DataFrame(
        {"a": [1, None, 3], "text": ['two\nlines, and a "quote"', None, None], "flag": pd.array([True, None, False], "boolean"),
         "small": [1e-300, None, None], "y": [0, 1, 1]}
    )  # fmt: skip
    pd.testing.assert_frame_equal(read("rows.csv").frame, expected)


def test_parquet_of_other_tools_is_read_into_numbers_and_times() -> None:
    import pyarrow as pa
    from pyarrow import parquet

    frame = pd.DataFrame({"y": [0, 1]}, index=pd.Index([5, 6]))
    frame.to_parquet("indexed.parquet")
    assert list(read("indexed.parquet").frame) == ["y"]
    days = [datetime.date(2018, 4, 1), None]
    columns = {
        "money": pa.array([1, 2], pa.decimal128(10, 2)), "day": pa.array(days), "flag": pa.array([True, None]),
        "kind": pa.array(["a", "b"]).dictionary_encode(), "y": pa.array([0, 1], pa.int8()),
    }  # fmt: skip
    parquet.write_table(pa.table(columns), "rows.parquet")
    found = {str(name): str(dtype) for name, dtype in read("rows.parquet").frame.dtypes.items()}
    assert found == {
        "money": "float64", "day": "datetime64[s]", "flag": "boolean", "kind": "category", "y": "int8",
    }  # fmt: skip


# --- stores -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def s3(minio: dict[str, str], clean: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in the bucket; the credentials are in the environment, as from a Secret."""
    for name, value in minio.items():
        monkeypatch.setenv(name, value)
    return f"s3://kept/{clean.name}"


def upload(folder: Path, uri: str) -> None:
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    filesystem, root = fsspec.core.url_to_fs(uri, **options)
    for path in folder.rglob("*.*"):
        filesystem.put_file(str(path), f"{root}/{path.relative_to(folder)}")


@pytest.mark.parametrize("ending", [".csv.gz", ".parquet"])
def test_s3_gives_files_folders_and_patterns_with_the_digest_that_they_have_here(
    clean: Path, s3: str, ending: str
) -> None:
    cut(rows(), clean / "rows", ending)
    write(rows(), clean / "rows" / "whole" / f"all{ending}")
    upload(clean / "rows", s3)
    for uri in (f"{s3}/whole/all{ending}", f"{s3}/whole/", f"{s3}/whole/*{ending}"):
        found = read(uri)
        assert_rows(found, rows())
        assert found.digest == read(str(clean / "rows" / "whole" / f"all{ending}")).digest
    parts = read(f"{s3}/**/part-*{ending}")
    assert_rows(parts, rows())
    assert parts.digest == read(f"rows/**/part-*{ending}").digest


def test_google_cloud_storage_gives_what_s3_gives(
    clean: Path, google_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_storage)
    cut(rows(), clean / "rows", ".parquet")
    filesystem = fsspec.filesystem("gs")
    for path in (clean / "rows").rglob("*.*"):
        filesystem.put_file(str(path), f"kept/{path.relative_to(clean)}")
    for pattern in ("rows/", "rows/**/part-*.parquet"):
        found = read(f"gs://kept/{pattern}")
        assert_rows(found, rows())
        assert found.digest == read(pattern).digest


def test_googles_key_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CREDENTIALS", "keys/google.json")
    with pytest.raises(DataError, match=r"GOOGLE_CREDENTIALS must be the JSON key of a service account itself"):
        read("gs://kept/rows.csv")


def test_a_job_trains_on_a_folder_in_s3_and_mlflow_tells_of_what(
    m3: Callable[..., Ended], clean: Path, s3: str
) -> None:
    cut(rows(), clean / "rows", ".parquet")
    upload(clean / "rows", s3)
    job = {
        "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "of-many-files"},
        "spec": {
            "data": {"uri": f"{s3}/", "target": "y", "timeColumn": "day"},
            "features": {"exclude": ["word"]}, "model": {"hyperparameters": {"n_estimators": 5}},
        },
    }  # fmt: skip
    Path("job.yaml").write_text(json.dumps(job))
    ended = m3("run", "-f", "job.yaml", "-o", "json")
    assert ended.code == 0, ended.err
    run = mlflow.MlflowClient(f"sqlite:///{clean}/m3/mlflow.db").get_run(json.loads(ended.out)["run"]["runId"])
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.source_type) == (clean.name, "s3")
    assert mlflow.data.get_source(dataset).uri == f"{s3}/"
    assert json.loads(dataset.profile) == {"num_rows": 1000, "num_elements": 4000}
    columns = {column["name"]: column["type"] for column in json.loads(dataset.schema)["mlflow_colspec"]}
    assert columns == {"a": "long", "amount": "double", "day": "datetime", "y": "long"}
    assert run.data.tags["m3.data.digest"] == read("rows/").digest


@pytest.fixture
def https(clean: Path) -> Iterator[str]:
    """A web server over TLS, with a certificate of an authority of its own."""
    folder = clean / "web"
    folder.mkdir()
    certify(folder / "key.pem", folder / "certificate.pem")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def certify(key_file: Path, certificate_file: Path) -> None:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def test_https_gives_a_file(m3_process: Callable[..., Ended], clean: Path, https: str) -> None:
    write(rows(), clean / "web" / "rows.csv.gz")
    job = {
        "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "of-the-web"},
        "spec": {
            "data": {"uri": f"{https}/rows.csv.gz?signature=f00d", "target": "y", "format": "csv"},
            "model": {"hyperparameters": {"n_estimators": 5}},
        },
    }  # fmt: skip
    Path("job.yaml").write_text(json.dumps(job))
    ended = m3_process("run", "-f", "job.yaml", "-o", "json", SSL_CERT_FILE=str(clean / "web" / "certificate.pem"))
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert (result["lineage"]["rows"], result["lineage"]["dataDigest"]) == (1000, read("web/rows.csv.gz").digest)
    run = mlflow.MlflowClient(f"sqlite:///{clean}/m3/mlflow.db").get_run(result["run"]["runId"])
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, mlflow.data.get_source(dataset).url) == ("rows.csv.gz", f"{https}/rows.csv.gz")
    untrusted = m3_process("run", "-f", "job.yaml")
    assert (untrusted.code, "certificate verify failed" in untrusted.err) == (3, True), untrusted.err


# --- SQL --------------------------------------------------------------------------------------------------------------
@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, clean: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a database with the rows in the table `rows`; a password is in the environment alone."""
    if request.param == "sqlite":
        uri = f"sqlite:///{clean / 'rows.db'}"
        fill(uri)
        return uri
    postgres: Postgres = request.getfixturevalue("postgres")
    fill(postgres.owner)
    monkeypatch.setenv("DATABASE_PASSWORD", postgres.password)
    return postgres.uri


def fill(uri: str, frame: pd.DataFrame | None = None, table: str = "rows") -> None:
    shuffled = (rows(12_000) if frame is None else frame).sample(frac=1, random_state=1)
    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).begin() as connection:
        shuffled.to_sql(table, connection, index=False, if_exists="replace", chunksize=5_000)


def test_a_query_gives_its_rows_in_their_order_and_a_digest_of_them(database: str) -> None:
    found = read(database, lambda name: name != "word", query="select * from rows order by amount -- biggest last")
    expected = rows(12_000).drop(columns="word")
    if database.startswith("sqlite"):  # it has no times
        expected["day"] = expected["day"].dt.strftime("%Y-%m-%d %H:%M:%S.%f")
    assert_rows(found, expected)
    same = read(database, query="with all_rows as (select * from rows where word <> ':x') select * from all_rows;\n")
    assert found.digest == same.digest
    assert read(database, query="select * from rows where a % 2 = 0").digest != found.digest
    assert_rows(
        read(database, lambda name: name != "word", query="select * from rows", expected_digest=found.digest), expected
    )
    assert sources.columns(Data(uri=database, target="y", query="select y, a as b from rows")) == ["y", "b"]


def test_the_values_of_a_database_become_numbers_and_times(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", postgres.password)
    query = """
        select 1.25::numeric(10, 2) as money, date '2018-04-01' as day, timestamptz '2018-04-01 12:00+02' as moment,
               true as flag, 7::smallint as small, '{"a": 1}'::jsonb as document, null as nothing, 1 as y
        union all select null, null, null, null, null, null, null, 0
    """
    frame = read(postgres.uri, query=query).frame
    assert {str(name): str(dtype) for name, dtype in frame.dtypes.items()} == {
        "money": "float64", "day": "datetime64[us]", "moment": "datetime64[us, UTC]", "flag": "boolean",
        "small": "float64", "document": "str", "nothing": "float64", "y": "int64",
    }  # fmt: skip
    assert frame["money"].iloc[0] == 1.25
    assert frame["moment"].iloc[0] == pd.Timestamp("2018-04-01T10:00", tz="UTC")


def test_a_name_is_the_same_from_every_source(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read as a number, a time or true and false, and with a gap as another type, is the name that stands there."""
    days = [datetime.date(2018, 4, 1), None, datetime.date(2018, 4, 2)]
    frame = pd.DataFrame(
        {"code": pd.array([5411, None, 5812], "Int64"), "flag": pd.array([False, None, True], "boolean"), "day": days,
         "clock": ["08:00", None, "12:30"], "word": ["shop", None, "web"], "y": [0, 1, 1]}
    )  # fmt: skip
    write(frame, Path("rows.csv"))
    write(frame, Path("rows.parquet"))
    fill(postgres.owner, frame)
    monkeypatch.setenv("DATABASE_PASSWORD", postgres.password)
    for source in (read("rows.csv"), read("rows.parquet"), read(postgres.uri, query="select * from rows")):
        names = {str(name): sorted(features.texts(column.dropna())) for name, column in source.frame.items()}
        assert names == {
            "code": ["5411", "5812"], "flag": ["False", "True"], "day": ["2018-04-01", "2018-04-02"],
            "clock": ["08:00", "12:30"], "word": ["shop", "web"], "y": ["0", "1", "1"],
        }  # fmt: skip


def test_rows_come_from_a_cursor_of_the_server(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(postgres.owner)
    monkeypatch.setenv("DATABASE_PASSWORD", postgres.password)
    statements: list[str] = []
    with postgres.log_of(statements):
        read(postgres.uri, query="select * from rows")
    told = "\n".join(statements)
    assert re.search(r"DECLARE .* CURSOR .*ORDER BY m3\.a, ", told, re.DOTALL), told
    assert told.count("FETCH FORWARD") >= 2, told


SQL_MISTAKES: dict[str, tuple[dict[str, str], type[Exception], str]] = {
    "a table that is not there": (
        {"query": "select * from rowss"}, DataError, "data.query: must run; ",
    ),
    "SQL that is none": (
        {"query": "selekt * from rows"}, DataError, "data.query: must run; ",
    ),
    "a statement that writes": (
        {"query": "delete from rows"}, DataError, "data.query: must run; ",
    ),
    "no rows": (
        {"query": "select * from rows where a < 0"}, DataError, "must hold at least one row, holds none",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind", "message"), SQL_MISTAKES.values(), ids=SQL_MISTAKES.keys())
def test_a_mistake_in_a_query_is_one_message(database: str, data: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as raised:
        read(database, **data)
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_column_that_is_selected_twice_is_refused(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", postgres.password)
    with pytest.raises(DataError, match=r"data.query: each column must have a name of its own; `a` is selected twice"):
        read(postgres.uri, query="select 1 as a, 2 as a, 0 as y")


def test_a_column_that_changes_its_type_is_refused(clean: Path) -> None:
    uri = f"sqlite:///{clean / 'rows.db'}"
    with sqlalchemy.create_engine(uri).begin() as connection:
        connection.execute(sqlalchemy.text("create table rows (a, y)"))
        connection.execute(sqlalchemy.text("insert into rows values (:a, :y)"), [{"a": 1, "y": 0}] * 10_000)
        connection.execute(sqlalchemy.text("insert into rows values ('x', 1)"))
    with pytest.raises(
        DataError, match=r"data.query: column `a` must hold values of one type, has int64, string: cast it"
    ):
        read(uri, query="select * from rows")
    with pytest.raises(DataError, match=r"data.query: column `a` must hold values of one type: "):
        read(uri, query="select * from rows where a = 'x' union select * from rows where a = 1")


def test_a_file_of_sqlite_that_is_not_there_is_not_made() -> None:
    with pytest.raises(DataError, match=r"data.uri: the file none.db must exist where the job runs; looked from "):
        read("sqlite:///none.db", query="select 1 as y")
    assert not Path("none.db").exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mysql://host/shop", "data.uri: the driver `MySQLdb` must be installed in the image"),
        ("postgresql+nodriver://host/shop", "data.uri: a driver for postgresql must be installed in the image"),
        ("postgresql://host:port/shop", "data.uri: must be a URL of SQLAlchemy, as postgresql://host/database: "),
    ],
)
def test_a_driver_that_is_not_there_is_named(uri: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        read(uri, query="select 1 as y")
    assert message in str(raised.value)


def test_a_database_that_does_not_let_one_in_is_told_apart_from_one_that_is_down(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"the database must let reader in, with DATABASE_PASSWORD .* which is not set"):
        read(postgres.uri, query="select 1 as y")
    monkeypatch.setenv("DATABASE_PASSWORD", "guess")
    with pytest.raises(DataError, match=r"which is set; it said: .*password authentication failed"):
        read(postgres.uri, query="select 1 as y")
    monkeypatch.setenv("DATABASE_PASSWORD", postgres.password)
    with pytest.raises(DataError, match=r'database "shop" does not exist'):
        read(postgres.uri.replace("/postgres", "/shop"), query="select 1 as y")
    with pytest.raises(SourceUnavailable, match=r"data.uri: the database must answer; it said: "):
        read("postgresql://reader@127.0.0.1:9/postgres", query="select 1 as y")


def test_the_password_is_in_no_output_and_in_nothing_that_mlflow_keeps(
    m3_process: Callable[..., Ended], clean: Path, postgres: Postgres
) -> None:
    fill(postgres.owner)
    job = {
        "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "of-a-query"},
        "spec": {
            "data": {"uri": postgres.uri, "query": "select * from rows", "target": "y", "timeColumn": "day"},
            "model": {"hyperparameters": {"n_estimators": 5}},
        },
    }  # fmt: skip
    Path("job.yaml").write_text(json.dumps(job))
    good = m3_process("run", "-f", "job.yaml", "-o", "json", DATABASE_PASSWORD=postgres.password)
    assert good.code == 0, good.err
    Path("job.yaml").write_text(json.dumps(job).replace("from rows", "from nothing"))
    bad = m3_process("run", "-f", "job.yaml", DATABASE_PASSWORD=postgres.password)
    assert (bad.code, "data.query: must run; " in bad.err) == (3, True), bad.err
    kept = [path.read_bytes() for path in Path("m3").rglob("*") if path.is_file()]
    secret = postgres.password.encode()
    for text in (good.out, good.err, bad.out, bad.err):
        assert postgres.password not in text
    for content in kept:
        assert secret not in content
        assert secret not in (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b"")
    run = mlflow.MlflowClient(f"sqlite:///{clean}/m3/mlflow.db").get_run(json.loads(good.out)["run"]["runId"])
    source = json.loads(run.inputs.dataset_inputs[0].dataset.source)
    assert source == {"uri": postgres.uri, "query": "select * from rows"}
