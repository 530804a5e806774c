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


class EtcdBackend:
    """Prefixes of one etcd: ``prefix@endpoint,endpoint``."""

    def __init__(self, place: str) -> None:
        self._prefix, _, endpoints = place.partition("@")
        self._endpoints = endpoints.split(",")

    @asynccontextmanager
    async def leases(self, clock: Clock) -> AsyncIterator[Leases]:
        from orchestrator.foundations.etcd import EtcdLeases  # of an extra, which may be missing

        leases = await EtcdLeases.open(self._endpoints, clock, prefix=f"{self._prefix}/leases")
        try:
            yield leases
        finally:
            await leases.close()

    @asynccontextmanager
    async def log(self, shard: str) -> AsyncIterator[ConsensusEngine]:
        from orchestrator.foundations.etcd import EtcdLog

        log = await EtcdLog.open(self._endpoints, prefix=f"{self._prefix}/{shard}")
        try:
            yield log
        finally:
            await log.close()


BACKENDS: dict[str, Callable[[str], Backend]] = {"sqlite": SQLiteBackend, "etcd": EtcdBackend}
