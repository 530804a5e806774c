"""Pairs that are compared and set, and leases with fencing tokens: in memory, and in a file.

A lease ends by itself when its holder does not renew it. Whoever takes it next gets a larger token,
so that what a former holder still sends can be told apart and refused.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import ValidationError
from orchestrator.foundations.database import Database
from orchestrator.ports import Clock, Lease, Pair

__all__ = ["InMemoryLeases", "SQLiteLeases", "check_lease"]


def check_lease(ttl_ms: int, **texts: str) -> None:
    """Refuse what is no lease."""
    for name, text in texts.items():
        if not isinstance(text, str) or not text:
            raise ValidationError("Leases", name, f"is {text!r}", "give a name")
    if not isinstance(ttl_ms, int) or ttl_ms < 1:
        raise ValidationError("Leases", "ttl_ms", f"is {ttl_ms!r}", "give at least 1 ms")


class InMemoryLeases:
    """Pairs and leases of one process.

    Parameters
    ----------
    clock : Clock
        Tells when leases end.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pairs: dict[str, Pair] = {}
        self._leases: dict[str, Lease] = {}
        self._revision = 0
        self._changed = asyncio.Event()

    async def get(self, key: str) -> Pair:
        """What a key has; revision 0 and no value: it was never set."""
        return self._pairs.get(key, Pair(key, None, 0))

    async def set(self, key: str, value: bytes | None, revision: int) -> Pair | None:
        """Set a key if it still has a revision (None: delete it); None: it has another."""
        if (await self.get(key)).revision != revision:
            return None
        self._revision += 1
        pair = Pair(key, value, self._revision)
        self._pairs[key] = pair
        self._changed.set()
        self._changed = asyncio.Event()
        return pair

    async def acquire(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        """Take a lease that nobody holds; None: somebody does."""
        check_lease(ttl_ms, name=name, holder=holder)
        now_ms, last = self._clock.now_ms(), self._leases.get(name)
        if last is not None and last.expires_ms > now_ms:
            return None
        self._revision += 1
        self._leases[name] = Lease(name, holder, self._revision, now_ms + ttl_ms)
        return self._leases[name]

    async def renew(self, lease: Lease, ttl_ms: int) -> Lease | None:
        """Hold a lease for longer, from now; None: it has ended."""
        check_lease(ttl_ms)
        now_ms, last = self._clock.now_ms(), self._leases.get(lease.name)
        if last is None or last.token != lease.token or last.expires_ms <= now_ms:
            return None
        self._leases[lease.name] = replace(last, expires_ms=now_ms + ttl_ms)
        return self._leases[lease.name]

    async def release(self, lease: Lease) -> None:
        """Give a lease back; one that has ended is ignored."""
        last = self._leases.get(lease.name)
        if last is not None and last.token == lease.token:
            self._leases[lease.name] = replace(last, expires_ms=self._clock.now_ms())

    async def holder(self, name: str) -> Lease | None:
        """Who holds a lease now."""
        last = self._leases.get(name)
        return last if last is not None and last.expires_ms > self._clock.now_ms() else None

    async def watch(self, prefix: str, since: int = 0) -> AsyncIterator[Pair]:
        """Keys that begin so, each time one is set after a revision: the last value of each."""
        while True:
            changed = self._changed
            for pair in _after(self._pairs.values(), prefix, since):
                since = pair.revision
                yield pair
            await changed.wait()


def _after(pairs: Iterable[Pair], prefix: str, since: int) -> list[Pair]:
    """Pairs that were set after a revision, in the order in which they were."""
    found = [pair for pair in pairs if pair.revision > since and pair.key.startswith(prefix)]
    return sorted(found, key=lambda pair: pair.revision)


class SQLiteLeases:
    """Pairs and leases of all processes that open one file, perhaps that of a log.

    Parameters
    ----------
    path : str or Path
        The file.
    clock : Clock
        Tells when leases end, and when to look for what others have set. Of processes on one
        machine, a wall clock.
    look_ms : int
        How often whoever watches looks: SQLite tells nobody of other processes.
    busy_s : float
        How long to wait for another process that is writing.
    """

    def __init__(
        self, path: str | Path, clock: Clock, *, look_ms: int = 20, busy_s: float = 5.0
    ) -> None:
        if look_ms < 1:
            raise ValidationError("SQLiteLeases", "look_ms", f"is {look_ms}", "give at least 1 ms")
        self._clock, self._look_ms = clock, look_ms
        self._database = Database(Path(path), busy_s=busy_s, group=1024)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    async def get(self, key: str) -> Pair:
        """What a key has; revision 0 and no value: it was never set."""
        rows = self._database.read("SELECT value, revision FROM pairs WHERE key = ?", key)
        return Pair(key, *rows[0]) if rows else Pair(key, None, 0)

    async def set(self, key: str, value: bytes | None, revision: int) -> Pair | None:
        """Set a key if it still has a revision (None: delete it); None: it has another."""

        def change(connection: sqlite3.Connection) -> Pair | None:
            row = connection.execute("SELECT revision FROM pairs WHERE key = ?", (key,)).fetchone()
            if (row[0] if row else 0) != revision:
                return None
            number = _count(connection)
            connection.execute("REPLACE INTO pairs VALUES (?, ?, ?)", (key, value, number))
            return Pair(key, value, number)

        return await self._database.write(change)

    async def acquire(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        """Take a lease that nobody holds; None: somebody does."""
        check_lease(ttl_ms, name=name, holder=holder)

        def change(connection: sqlite3.Connection) -> Lease | None:
            now_ms, last = self._clock.now_ms(), _lease(connection, name)
            if last is not None and last.expires_ms > now_ms:
                return None
            return _put(connection, Lease(name, holder, _count(connection), now_ms + ttl_ms))

        return await self._database.write(change)

    async def renew(self, lease: Lease, ttl_ms: int) -> Lease | None:
        """Hold a lease for longer, from now; None: it has ended."""
        check_lease(ttl_ms)
        return await self._change(
            lease,
            lambda last, now_ms: (
                replace(last, expires_ms=now_ms + ttl_ms) if last.expires_ms > now_ms else None
            ),
        )

    async def release(self, lease: Lease) -> None:
        """Give a lease back; one that has ended is ignored."""
        await self._change(lease, lambda last, now_ms: replace(last, expires_ms=now_ms))

    async def _change(
        self, lease: Lease, new: Callable[[Lease, int], Lease | None]
    ) -> Lease | None:
        """Replace a lease whose token is still the last one; what it is now."""

        def change(connection: sqlite3.Connection) -> Lease | None:
            last = _lease(connection, lease.name)
            if last is None or last.token != lease.token:
                return None
            after = new(last, self._clock.now_ms())
            return None if after is None else _put(connection, after)

        return await self._database.write(change)

    async def holder(self, name: str) -> Lease | None:
        """Who holds a lease now."""
        rows = self._database.read(_LEASE, name)
        last = Lease(*rows[0]) if rows else None
        return last if last is not None and last.expires_ms > self._clock.now_ms() else None

    async def watch(self, prefix: str, since: int = 0) -> AsyncIterator[Pair]:
        """Keys that begin so, each time one is set after a revision: the last value of each."""
        while True:
            rows = self._database.read(
                "SELECT key, value, revision FROM pairs WHERE revision > ?", since
            )
            for pair in _after([Pair(*row) for row in rows], prefix, since):
                since = pair.revision
                yield pair
            await self._clock.sleep_until(self._clock.now_ms() + self._look_ms)


_LEASE = "SELECT name, holder, token, expires_ms FROM leases WHERE name = ?"


def _lease(connection: sqlite3.Connection, name: str) -> Lease | None:
    row = connection.execute(_LEASE, (name,)).fetchone()
    return Lease(*row) if row else None


def _put(connection: sqlite3.Connection, lease: Lease) -> Lease:
    connection.execute(
        "REPLACE INTO leases VALUES (?, ?, ?, ?)",
        (lease.name, lease.holder, lease.token, lease.expires_ms),
    )
    return lease


def _count(connection: sqlite3.Connection) -> int:
    """The next revision, which is also the next token: numbers of one file never come back."""
    connection.execute("UPDATE counter SET revision = revision + 1")
    return int(connection.execute("SELECT revision FROM counter").fetchone()[0])
