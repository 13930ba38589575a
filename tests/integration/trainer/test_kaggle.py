"""`m3 data download ieee-cis` with Kaggle's own client, against a server that speaks its API.

The client knows Kaggle's address alone; a proxy in the environment leads it here instead, as it may lead it out of a company.
"""

import io
import json
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from harness import unused_port
from support import Ended

KEY = "KGAT_of-mine"
ASK = "http://localhost:7777/api/v1/competitions.CompetitionApiService/DownloadDataFile"
STORE = "http://store.example"
ROWS = 2_000


def tables() -> dict[str, pd.DataFrame]:
    """The competition's two tables in small, with columns of theirs; one transaction in four has an identity."""
    rng = np.random.default_rng(5)
    ids = 2_987_000 + np.arange(ROWS)
    transactions = pd.DataFrame(
        {
            "TransactionID": ids, "isFraud": rng.integers(0, 2, ROWS), "TransactionDT": 86_400 + 60 * np.arange(ROWS),
            "TransactionAmt": rng.uniform(1, 500, ROWS).round(2), "ProductCD": rng.choice(["W", "C"], ROWS),
            "dist1": np.where(rng.random(ROWS) < 0.5, np.nan, 19.0),
        }
    )  # fmt: skip
    some = rng.choice(ids, ROWS // 4, replace=False)
    identities = pd.DataFrame({"TransactionID": some, "id_01": -5.0, "DeviceType": "mobile"})
    return {"train_transaction.csv": transactions, "train_identity.csv": identities}


def zipped(name: str, frame: pd.DataFrame) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, frame.to_csv(index=False))
    return packed.getvalue()


class Kaggle(ThreadingHTTPServer):
    """Asked for a file, it names an address in a store, which gives the file as a zip, as Kaggle does with large ones."""

    status = 200
    asked: list[str]

    def __init__(self) -> None:
        self.asked = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Kaggle

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path)
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.send_error(401)
        if self.server.status != 200:
            return self.send_error(self.server.status)
        assert (self.path, body["competitionName"]) == (ASK, "ieee-fraud-detection")
        self.send_response(302)
        self.send_header("Location", f"{STORE}/{body['fileName']}.zip")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def do_GET(self) -> None:
        name = self.path.removeprefix(f"{STORE}/").removesuffix(".zip")
        content = zipped(name, tables()[name])
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Mon, 15 Jul 2019 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def kaggle(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    server = Kaggle()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(clean / "cache"))
    monkeypatch.setenv("HOME", str(clean))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("kaggle")
def test_the_two_tables_become_one_file_that_the_sample_trains_on(
    m3_process: Callable[..., Ended], clean: Path
) -> None:
    ended = m3_process("data", "download", "ieee-cis", KAGGLE_API_TOKEN=KEY)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "data/ieee-cis.parquet: 2,000 transactions (column isFraud)"
    made = pd.read_parquet("data/ieee-cis.parquet")
    expected = tables()["train_transaction.csv"].merge(tables()["train_identity.csv"], on="TransactionID", how="left")
    pd.testing.assert_frame_equal(made.drop(columns="TransactionTime"), expected, check_dtype=False)
    assert made["TransactionTime"].iloc[[0, -1]].tolist() == [
        pd.Timestamp("2017-12-02"), pd.Timestamp("2017-12-02") + pd.Timedelta(minutes=ROWS - 1),
    ]  # fmt: skip
    assert [path.name for path in (clean / "data").iterdir()] == ["ieee-cis.parquet"]
    sample = Path(__file__).parents[3] / "manifests/samples/ieee-cis.yaml"
    trained = m3_process("run", "-f", str(sample), "-o", "json")
    assert trained.code == 0, trained.err
    features = json.loads(trained.out)["features"]
    assert {"TransactionAmt", "dist1", "id_01"} <= set(features)
    assert not {"isFraud", "TransactionID", "TransactionDT", "TransactionTime"} & set(features)


def test_without_a_key_it_says_how_to_get_one(m3_process: Callable[..., Ended], kaggle: Kaggle) -> None:
    ended = m3_process("data", "download", "ieee-cis")
    assert ended.code == 3
    assert ended.err.splitlines()[-1] == (
        "error: Kaggle must know you, and there is no key of yours here. Sign in at https://www.kaggle.com/settings, create a "
        "token under API, and set KAGGLE_API_TOKEN to it (or KAGGLE_USERNAME and KAGGLE_KEY to a legacy key, or keep its file as "
        "~/.kaggle/kaggle.json); accept the competition's rules once, at "
        "https://www.kaggle.com/competitions/ieee-fraud-detection/rules; then run the command again"
    )
    assert kaggle.asked == []
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("key", "status", "code", "message"),
    [
        (
            "guess",
            200,
            3,
            "error: Kaggle must accept your key, and you the competition's rules: it says 401. Accept them",
        ),
        (KEY, 403, 3, "error: Kaggle must accept your key, and you the competition's rules: it says 403. Accept them"),
        (KEY, 503, 7, "error: Kaggle must give train_transaction.csv: it says 503"),
    ],
)
def test_what_kaggle_refuses_is_told(
    m3_process: Callable[..., Ended], kaggle: Kaggle, key: str, status: int, code: int, message: str
) -> None:
    kaggle.status = status
    ended = m3_process("data", "download", "ieee-cis", KAGGLE_API_TOKEN=key)
    assert (ended.code, message in ended.err) == (code, True), ended.err
    assert "Traceback" not in ended.err
    assert not Path("data").exists()


@pytest.mark.usefixtures("kaggle")
def test_a_kaggle_that_does_not_answer_is_told(m3_process: Callable[..., Ended]) -> None:
    nobody = f"http://127.0.0.1:{unused_port()}"
    ended = m3_process("data", "download", "ieee-cis", KAGGLE_API_TOKEN=KEY, http_proxy=nobody)
    assert (ended.code, "error: Kaggle must give train_transaction.csv: " in ended.err) == (7, True), ended.err


@pytest.mark.usefixtures("kaggle")
def test_without_its_package_it_says_what_to_install(m3: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # as where it is not installed
    ended = m3("data", "download", "ieee-cis")
    assert (ended.code, ended.err) == (2, "error: `m3 data download` needs kagglehub: pip install 'm3-ml[kaggle]'\n")


def test_it_writes_parquet_alone(m3: Callable[..., Ended]) -> None:
    ended = m3("data", "download", "ieee-cis", "--out", "data/ieee.csv")
    assert (ended.code, "--out: must end in .parquet, is data/ieee.csv" in ended.err) == (2, True)
