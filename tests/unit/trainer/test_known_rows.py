"""What a sample of the training rows tells of test rows."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from m3_trainer.known_rows import SIZE, KnownRows, digest, hashes

ROWS = 200_000


@pytest.fixture(scope="module")
def rows() -> tuple[pd.DataFrame, pd.Series]:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"amount": random.normal(size=ROWS), "hour": random.integers(24, size=ROWS).astype("float64")})
    return frame, pd.Series(random.integers(2, size=ROWS))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("training", [SIZE // 2, ROWS // 2], ids=["all of them in the sample", "sampled"])
def test_the_share_of_known_rows_is_found(rows, training: int, share: float) -> None:
    frame, target = rows
    known = KnownRows.of([(frame[:training], target[:training])])
    begin = round(training * (1 - share))
    part = slice(begin, begin + training)
    assert known.share(hashes(frame[part], target[part])) == pytest.approx(share, abs=0.05)
    assert len(known.smallest) <= SIZE


def test_a_sample_is_read_as_it_was_written(rows) -> None:
    frame, target = rows
    known = KnownRows.of([(frame, target)])
    found = KnownRows.loads(known.dumps())
    assert found.columns == ("amount", "hour")
    assert np.array_equal(found.smallest, known.smallest)
    assert len(known.dumps()) < 64_000


@pytest.mark.parametrize("data", [b"", b"no sample", b"PK\x03\x04 cut off"])
def test_what_is_no_sample_is_not_read(data: bytes) -> None:
    with pytest.raises((ValueError, EOFError, zipfile.BadZipFile)):
        KnownRows.loads(data)


def test_the_digest_is_of_the_set_of_rows(rows) -> None:
    frame, target = rows
    first, last = frame[:10], frame[:10][::-1]
    assert digest(hashes(first, target[:10])) == digest(hashes(last, target[:10][::-1]))
    assert digest(hashes(first, target[:10])) != digest(hashes(first, 1 - target[:10]))
