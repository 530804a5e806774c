"""Pairs and leases in etcd: its own leases end them, and its revisions are the fencing tokens."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import msgspec
from aetcd import rpc

from orchestrator.errors import CorruptedError, StorageError
from orchestrator.foundations.etcd.connection import (
    Closing,
    CompactedError,
    Connection,
    created,
    get,
    is_at,
    prefix_end,
    put,
)
from orchestrator.foundations.etcd.forms import Keys
from orchestrator.foundations.leases import check_lease
from orchestrator.ports import Clock, Lease, Pair

__all__ = ["EtcdLeases"]


_log = logging.getLogger(__name__)


_AGAIN_S = 0.5  # until a watch is tried again that had an error


_SET, _DELETED = b"s", b"d"


_MARK = 8  # bytes


class _Held(msgspec.Struct, frozen=True):
    """What a lease's key holds."""

    holder: str
    expires_ms: int


class EtcdLeases(Closing):
    """Pairs and leases of all processes that open one prefix. Made by :meth:`open`.

    Who holds a lease has its key, which is bound to a lease of etcd's own: when that ends, the key
    goes, and somebody else can create it. The revision that created it is the token: it grows. etcd
    counts whole seconds, from when it gets to know, and looks every half second: a lease ends up to
    two seconds later than ``expires_ms`` says, and never before; an election makes it longer.
    Whoever holds it has to stop by ``expires_ms`` on its own clock.

    Nothing is believed that one member says by itself, but for what :meth:`watch` tells: that may
    come late. What is read may have changed by the time that somebody acts on it; so compare, or
    send the token along.
    """

    def __init__(self, connection: Connection, clock: Clock, prefix: str) -> None:
        self._connection, self._clock = connection, clock
        self._prefix = Keys(prefix).prefix
        self._pairs = self._prefix + b"pair/"

    @classmethod
    async def open(
        cls,
        endpoints: Sequence[str],
        clock: Clock,
        *,
        prefix: str = "quartermaster",
        timeout_s: float = 5.0,
        credentials: Any = None,
    ) -> EtcdLeases:
        """Open the pairs and leases under a prefix, perhaps that of a log.

        Parameters
        ----------
        endpoints : sequence of str
            Members of the cluster, ``host:port``.
        clock : Clock
            Tells holders how long they may hold, ms. Of processes on several machines, wall clocks.
        prefix : str
            With which all keys begin.
        timeout_s : float
            How long etcd may take to answer, its elections included.
        credentials : grpc.ChannelCredentials, optional
            For TLS.

        Raises
        ------
        StorageError
            If etcd cannot be reached.
        """
        connection = Connection(endpoints, timeout_s=timeout_s, credentials=credentials)
        leases = cls(connection, clock, prefix)
        try:
            await connection.read(leases._prefix)
        except BaseException:
            await connection.close()
            raise
        return leases

    async def close(self) -> None:
        """Give the connections up; leases end by themselves."""
        await self._connection.close()

    # --- pairs ---------------------------------------------------------------------------------

    def _key(self, key: str) -> bytes:
        return self._pairs + key.encode()

    def _pair(self, found: Any) -> Pair:
        """A pair as etcd has it. One that was deleted is kept, so that its revision is known."""
        key = found.key[len(self._pairs) :].decode()
        kind, value = found.value[:1], found.value[1 + _MARK :]
        if kind not in (_SET, _DELETED):
            raise CorruptedError(
                f"{self._connection}, {found.key!r}: begins with {kind!r}; delete the key"
            )
        return Pair(key, value if kind == _SET else None, found.mod_revision)

    async def get(self, key: str) -> Pair:
        """What a key has; revision 0 and no value: it was never set."""
        (found,), _ = await self._connection.consult(self._key(key))
        return self._pair(found[0]) if found else Pair(key, None, 0)

    async def set(self, key: str, value: bytes | None, revision: int) -> Pair | None:
        """Set a key if it still has a revision (None: delete it); None: it has another.

        Raises
        ------
        StorageError
            If etcd does not answer, or does not take it.
        """
        name, kind = self._key(key), _DELETED if value is None else _SET
        mine = kind + os.urandom(_MARK) + (value or b"")
        reply = await self._connection.change(
            [is_at(name, revision)], [put(name, mine)], [get(name)]
        )
        if reply.succeeded:
            return Pair(key, value, reply.header.revision)
        found = reply.responses[0].response_range.kvs
        if found and found[0].value == mine:  # the first answer was lost
            return self._pair(found[0])
        return None

    async def watch(self, prefix: str, since: int = 0) -> AsyncIterator[Pair]:
        """Keys that begin so, each time one is set after a revision: the last value of each.

        Nothing comes while etcd cannot be reached; then what has been set meanwhile.
        """
        start = self._key(prefix)
        end = prefix_end(start) if prefix.isascii() else prefix_end(self._pairs)
        while True:
            try:
                reply = await self._connection.read(start, end, min_mod_revision=since + 1)
                for found in sorted(reply.kvs, key=lambda one: int(one.mod_revision)):
                    since = found.mod_revision
                    if found.key.startswith(start):
                        yield self._pair(found)
                seen = max(reply.header.revision, since)
                async with aclosing(self._connection.watch(start, end, seen + 1)) as told:
                    async for changes in told:
                        if not changes:
                            break  # look whether the member is stopped, or behind
                        for found in changes:
                            since = found.mod_revision
                            if found.key.startswith(start):
                                yield self._pair(found)
            except CompactedError:
                _log.debug("%s: the watch was late, and etcd has forgotten", self._connection)
            except StorageError as error:
                _log.warning("a watch waits: %s", error)
                await asyncio.sleep(_AGAIN_S)

    # --- leases --------------------------------------------------------------------------------

    def _name(self, name: str) -> bytes:
        return self._prefix + b"lease/" + name.encode()

    def _taken(self, name: str) -> bytes:
        """A key that stays: by its revision, who takes a lease knows that nobody has meanwhile."""
        return self._prefix + b"taken/" + name.encode()

    async def _grant(self, ttl_ms: int) -> int:
        """A lease of etcd's own; asked for a second time it is the same one."""
        number = int.from_bytes(os.urandom(8), "big") >> 1 or 1
        request = rpc.LeaseGrantRequest(ID=number, TTL=-(-ttl_ms // 1000))
        await self._connection.ask(
            lambda member: member.leases.LeaseGrant, request, grpc.StatusCode.FAILED_PRECONDITION
        )
        return number

    async def _revoke(self, number: int) -> None:
        """End a lease of etcd's own, and with it what is bound to it."""
        request = rpc.LeaseRevokeRequest(ID=number)
        await self._connection.ask(
            lambda member: member.leases.LeaseRevoke, request, grpc.StatusCode.NOT_FOUND
        )

    def _lease(self, name: str, found: Any) -> Lease:
        try:
            held = msgspec.json.decode(found.value, type=_Held)
        except msgspec.MsgspecError as error:
            raise CorruptedError(
                f"{self._connection}, {found.key!r}: {error}; delete the key"
            ) from error
        return Lease(name, held.holder, found.create_revision, held.expires_ms)

    async def _find(self, name: str) -> Any:
        (found,), _ = await self._connection.consult(self._name(name))
        return found[0] if found else None

    async def _hold(self, lease: Lease, compare: Sequence[Any], ttl_ms: int) -> Lease | None:
        """Have the key of a lease, bound to a new one of etcd's own, if comparisons hold.

        They are such that they do not hold again once they have.
        """
        key, number = self._name(lease.name), await self._grant(ttl_ms)
        value = msgspec.json.encode(_Held(lease.holder, lease.expires_ms))
        changes = [put(key, value, number), put(self._taken(lease.name), b"")]
        reply = await self._connection.change(compare, changes, [get(key)])
        if reply.succeeded:
            return Lease(
                lease.name, lease.holder, lease.token or reply.header.revision, lease.expires_ms
            )
        found = reply.responses[0].response_range.kvs
        if found and found[0].lease == number:  # the first answer was lost
            return self._lease(lease.name, found[0])
        await self._revoke(number)
        return None

    async def acquire(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        """Take a lease that nobody holds; None: somebody does.

        Raises
        ------
        StorageError
            If etcd does not answer; the lease may be taken then, until it ends.
        """
        check_lease(ttl_ms, name=name, holder=holder)
        expires_ms = self._clock.now_ms() + ttl_ms  # from before etcd begins to count
        key, taken = self._name(name), self._taken(name)
        (held, last), _ = await self._connection.consult(key, taken)
        if held:
            return None
        compare = [created(key, 0), is_at(taken, last[0].mod_revision if last else 0)]
        return await self._hold(Lease(name, holder, 0, expires_ms), compare, ttl_ms)

    async def renew(self, lease: Lease, ttl_ms: int) -> Lease | None:
        """Hold a lease for longer, from now; None: it has ended.

        It is bound to a new lease of etcd's own: a member that was stopped may say of an old one
        that it lives on, but cannot make one.

        Raises
        ------
        StorageError
            If etcd does not answer; ``expires_ms`` is then what it was.
        """
        check_lease(ttl_ms)
        expires_ms = self._clock.now_ms() + ttl_ms
        found = await self._find(lease.name)
        if found is None or found.create_revision != lease.token:
            return None
        key = self._name(lease.name)
        compare = [created(key, lease.token), is_at(key, found.mod_revision)]
        longer = Lease(lease.name, lease.holder, lease.token, expires_ms)
        renewed = await self._hold(longer, compare, ttl_ms)
        if renewed is not None:
            await self._revoke(found.lease)  # nothing is bound to it any more
        return renewed

    async def release(self, lease: Lease) -> None:
        """Give a lease back; one that has ended is ignored."""
        found = await self._find(lease.name)
        if found is not None and found.create_revision == lease.token:
            await self._revoke(found.lease)

    async def holder(self, name: str) -> Lease | None:
        """Who holds a lease now."""
        found = await self._find(name)
        return None if found is None else self._lease(name, found)
