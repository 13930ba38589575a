"""The newest state that was seen of each object, whoever saw it: a watch, a list, or the answer to our own write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

ItemT = TypeVar("ItemT")


class Key(NamedTuple):
    """Names an object of one kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class _Entry(Generic[ItemT]):
    version: int
    item: ItemT


REMEMBERED = 1000
"""So many of the objects that are gone are known to be gone, the last ones."""


class Store(Generic[ItemT]):
    """Never goes back in time: what is older than what is held, or than the end of what was held, is not taken."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry[ItemT]] = {}
        self._gone: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[Key, ItemT]]:
        return iter([(key, entry.item) for key, entry in self._entries.items()])

    def get(self, key: Key) -> ItemT | None:
        entry = self._entries.get(key)
        return entry.item if entry else None

    def put(self, key: Key, item: ItemT, resource_version: str) -> bool:
        """Hold `item`; False where it is held already, or something newer is: no news."""
        version = number(resource_version)
        held = self._entries.get(key)
        newest = max(held.version if held else 0, self._gone.get(key, 0))
        if newest >= version > 0:
            return False
        self._entries[key] = _Entry(version, item)
        return True

    def drop(self, key: Key, resource_version: str = "0") -> None:
        """Forget an object. Where it is known to be gone since `resource_version`, news of before that come late: an event
        that a stale API server tells again must not bring it back to life."""
        self._entries.pop(key, None)
        if version := number(resource_version):
            self._gone[key] = max(version, self._gone.pop(key, 0))  # as the last one
            if len(self._gone) > REMEMBERED:
                del self._gone[next(iter(self._gone))]

    def replace(self, items: Iterable[tuple[Key, ItemT, str]], resource_version: str) -> None:
        """Take a list that was made at `resource_version`: what is not in it, and not newer than it, is gone."""
        listed = list(items)
        present = {key for key, _, _ in listed}
        version = number(resource_version)
        for key in [key for key, entry in self._entries.items() if key not in present and entry.version <= version]:
            self.drop(key, resource_version)
        for key, item, item_version in listed:
            self.put(key, item, item_version)


def number(resource_version: str) -> int:
    """Kubernetes promises since 1.35 that resource versions compare as numbers, and etcd's always have."""
    return int(resource_version) if resource_version.isdecimal() else 0
