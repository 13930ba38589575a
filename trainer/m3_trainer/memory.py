"""Whether the kernel has killed a process of this container for want of memory.

The cgroup counts it, in both versions of cgroups; the kernel's log, which says it too, cannot be read in a pod. Where cgroups
are of version 2, Kubernetes by default lets the kernel end the whole container instead (`memory.oom.group`): then nobody is
left here to count, and the pod's own status says `OOMKilled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
SELF = Path("/proc/self/cgroup")
COUNTERS = ("memory.events", "memory.oom_control")
LIMITS = ("memory.max", "memory.limit_in_bytes")
NO_LIMIT = 2**60
"""Version 1 writes the largest number of pages for `none`."""


@dataclass(frozen=True)
class Memory:
    """The memory cgroup in a folder; None where there is none."""

    folder: Path | None

    @classmethod
    def of_this_process(cls) -> Memory:
        return cls(next((folder for folder in folders(_text(SELF), ROOT) if _first(folder, COUNTERS)), None))

    def kills(self) -> int:
        """Processes killed so far; 0 where nobody counts."""
        return count(_first(self.folder, COUNTERS))

    def limit(self) -> int | None:
        """Bytes that the container may have; None without a limit."""
        return limit(_first(self.folder, LIMITS))


def folders(cgroups: str, root: Path) -> list[Path]:
    """Where the counters of a process may be, by its `/proc/self/cgroup`: its own folder, or, in a container, the root."""
    found = []
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found += [root / "memory" / path.lstrip("/"), root / "memory"]
        elif not controllers:
            found += [root / path.lstrip("/"), root]
    return found


def count(text: str) -> int:
    """`oom_kill` of `memory.events` or `memory.oom_control`; kernels before 4.13 do not count."""
    pairs = (line.split() for line in text.splitlines())
    return next((int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == "oom_kill"), 0)


def limit(text: str) -> int | None:
    """Bytes of `memory.max` or `memory.limit_in_bytes`."""
    value = text.strip()
    return int(value) if value.isdecimal() and int(value) < NO_LIMIT else None


def shown(size: int) -> str:
    """Bytes as Kubernetes writes them: `512Mi`, `2Gi`, `1.5Gi`."""
    unit, name = (2**30, "Gi") if size >= 2**30 else (2**20, "Mi")
    return f"{size / unit:.4g}{name}"


def _first(folder: Path | None, names: tuple[str, ...]) -> str:
    return next(filter(None, (_text(folder / name) for name in names)), "") if folder else ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
