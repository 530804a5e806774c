"""A log of one replica."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import CapacityError
from orchestrator.messages import Entry

__all__ = ["InMemoryConsensus"]


class InMemoryConsensus:
    """An ordered log in memory: as durable as this object, agreed upon by its one replica.

    Parameters
    ----------
    capacity : int
        Most entries that are kept; when half of them are, it is time to cut the log.
    """

    def __init__(self, capacity: int = 10_000_000) -> None:
        self._capacity = capacity
        self._entries: list[Entry] = []
        self._first = 0  # index of the first one
        self._snapshot: tuple[int, object] | None = None

    def __len__(self) -> int:
        """Count the entries that are kept."""
        return len(self._entries)

    @property
    def cut_due(self) -> bool:
        """Whether half of the entries that there may be are kept."""
        return 2 * len(self._entries) >= self._capacity

    @property
    def snapshot(self) -> tuple[int, object] | None:
        """The last snapshot, and the index of the first entry that it does not contain."""
        return self._snapshot

    async def cut(self, index: int, snapshot: object) -> None:
        """Keep a snapshot of what all entries before an index have made, then drop these."""
        self._snapshot = index, snapshot
        del self._entries[: max(index - self._first, 0)]
        self._first = max(index, self._first)

    async def append(self, entry: Entry) -> int:
        """Append an entry; its index."""
        if len(self._entries) >= self._capacity:
            raise CapacityError(
                f"InMemoryConsensus: the log is full ({self._capacity} entries); cut it, or raise "
                "'capacity'"
            )
        self._entries.append(entry)
        return self._first + len(self._entries) - 1

    def entries(self, start: int = 0) -> Sequence[Entry]:
        """All entries that are kept, from index ``start`` on."""
        return tuple(self._entries[max(start - self._first, 0) :])
