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
        Most entries; the log is never cut.
    """

    def __init__(self, capacity: int = 10_000_000) -> None:
        self._capacity = capacity
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._entries)

    async def append(self, entry: Entry) -> int:
        """Append an entry; its index."""
        if len(self._entries) >= self._capacity:
            raise CapacityError(
                f"InMemoryConsensus: the log is full ({self._capacity} entries); raise 'capacity'"
            )
        self._entries.append(entry)
        return len(self._entries) - 1

    def entries(self, start: int = 0) -> Sequence[Entry]:
        """All entries from index ``start`` on."""
        return tuple(self._entries[start:])
