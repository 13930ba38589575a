"""Lines, what is kept of them, and the counters of a memory cgroup as the kernel writes them."""

from pathlib import Path

import pytest

from m3_trainer import memory
from m3_trainer.output import MAX_LINE, Kept, Lines, Output


def test_a_stream_is_cut_into_its_lines_wherever_it_is_read() -> None:
    text = b"one\ntwo\r\n\n\xff\xfe\nlast"
    for size in range(1, len(text) + 1):
        lines = Lines()
        cut = [line for start in range(0, len(text), size) for line in lines.feed(text[start : start + size])]
        assert [*cut, lines.rest()] == [b"one\n", b"two\r\n", b"\n", b"\xff\xfe\n", b"last"]


def test_a_line_without_end_goes_on_in_pieces() -> None:
    lines = Lines()
    pieces = [piece for _ in range(100) for piece in lines.feed(b"x" * 10_000)] + [lines.rest()]
    assert b"".join(pieces) == b"x" * 1_000_000
    assert max(map(len, pieces)) < MAX_LINE + 10_000


@pytest.mark.parametrize(
    ("written", "data"),
    [
        (["aaaa", "bbbb"], "aaaabbbb"),
        (["aaaa", "bbbb", "cccc"], "aaaabbbbcccc"),
        (["aaaa", "bbbb", "cccc", "dddd", "eeee"], "aaaabbbb\n… 4 bytes left out …\nddddeeee"),
        (["aaaa", "b" * 6, "c", "dddd"], "aaaa\n… 6 bytes left out …\ncdddd"),
    ],
    ids=["what fits", "into both parts", "without the middle", "in the order of the lines"],
)
def test_the_first_and_the_newest_lines_are_kept(written: list[str], data: str) -> None:
    kept = Kept(first=8, newest=8)
    for line in written:
        kept.write(line.encode())
    assert kept.data().decode() == data


def test_the_line_for_the_operator_is_the_last_wherever_it_is_written() -> None:
    kept = Kept()
    output = Output(kept)
    for line in (b"M3_ERROR 1\n", b"a\n", b"M3_ERROR 2\n", b"b\n"):
        output.line(line)
    assert (kept.data(), output.error) == (b"a\nM3_ERROR 1\nb\n", b"M3_ERROR 2\n")
    output.end()
    assert kept.data() == b"a\nM3_ERROR 1\nb\nM3_ERROR 2\n"


V1 = "12:pids:/kubepods/pod1/c1\n5:cpu,cpuacct:/x\n4:memory:/kubepods/pod1/c1\n1:name=systemd:/y\n"
ROOT = Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("cgroups", "folders"),
    [
        (V1, [ROOT / "memory/kubepods/pod1/c1", ROOT / "memory"]),
        ("0::/\n", [ROOT, ROOT]),
        ("0::/user.slice/session-1.scope\n", [ROOT / "user.slice/session-1.scope", ROOT]),
        ("", []),
    ],
    ids=["version 1", "version 2 in a container", "version 2", "none"],
)
def test_the_counters_are_looked_for_where_the_process_is(cgroups: str, folders: list[Path]) -> None:
    assert memory.folders(cgroups, ROOT) == folders


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7),
        ("low 0\nhigh 0\nmax 31\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("oom_kill_disable 0\nunder_oom 0\n", 0),
        ("", 0),
    ],
    ids=["version 1", "version 2", "a kernel that does not count", "no file"],
)
def test_the_kernels_count_of_kills(text: str, kills: int) -> None:
    assert memory.count(text) == kills


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("536870912\n", 536870912, "512Mi"),
        ("1610612736\n", 1610612736, "1.5Gi"),
        ("9223372036854771712\n", None, None),
        ("max\n", None, None),
        ("", None, None),
    ],
)
def test_the_limit_as_kubernetes_writes_it(text: str, limit: int | None, shown: str | None) -> None:
    assert memory.limit(text) == limit
    assert shown is None or memory.shown(limit or 0) == shown
