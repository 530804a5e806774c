"""What members of one cluster share: leases, and a log for each shard; by name, to be parameters.

Another one is one more class, and one more line of ``BACKENDS``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from orchestrator.foundations.leases import SQLiteLeases
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.ports import Clock, ConsensusEngine, Leases


class Backend(Protocol):
    """Made in each process from one text: a folder, or addresses."""

    def leases(self, clock: Clock) -> AbstractAsyncContextManager[Leases]: ...

    def log(self, shard: str) -> AbstractAsyncContextManager[ConsensusEngine]: ...


class SQLiteBackend:
    """A file for leases and a file for each log, in one folder."""

    def __init__(self, place: str) -> None:
        self._folder = Path(place)

    @asynccontextmanager
    async def leases(self, clock: Clock) -> AsyncIterator[Leases]:
        leases = SQLiteLeases(self._folder / "leases", clock)
        try:
            yield leases
        finally:
            leases.close()

    @asynccontextmanager
    async def log(self, shard: str) -> AsyncIterator[ConsensusEngine]:
        with SQLiteLog(self._folder / shard) as log:
            yield log


BACKENDS: dict[str, Callable[[str], Backend]] = {"sqlite": SQLiteBackend}
