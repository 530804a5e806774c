"""The members of an etcd cluster: one is asked, and the next one if it does not answer in time.

A request may reach etcd more than once: its answer can be lost, or a member be stopped while it has
it. So each is made such that the second time changes nothing, however late the first one arrives.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeAlias

try:
    import grpc
    from aetcd import rpc
except ImportError as error:
    raise ImportError(
        f"etcd is spoken to with aetcd and grpcio ({error}); install them: "
        "pip install 'quartermaster[etcd]'"
    ) from error

from orchestrator.errors import ConfigurationError, StorageError

__all__ = [
    "Closing",
    "CompactedError",
    "Connection",
    "created",
    "delete",
    "get",
    "has_value",
    "is_at",
    "none_in",
    "prefix_end",
    "put",
]


_log = logging.getLogger(__name__)


_WAIT_S = 0.25  # for a member's answer, before the next one is asked; behind all, twice as long


_LONGEST_WAIT_S = 2.0


_PAUSE_S = 0.02  # after a member that has refused at once


_SILENCE_S = 1.0  # of a watch, until it is looked whether it has missed something


_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # pages of a log
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


_REQUIRE_LEADER = (("hasleader", "true"),)  # a member that is cut off ends its watches


_TRANSIENT = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)


_REMEDIES = {
    "database space exceeded": "compact and defragment it, then disarm its alarm "
    "(etcdctl compact, defrag, alarm disarm), or raise --quota-backend-bytes",
    "request is too large": "raise its --max-request-bytes",
    "too many operations": "raise its --max-txn-ops to 128 at least",
    "corrupt": "restore the member that has raised the alarm",
}


class Closing(AbstractAsyncContextManager["Closing"]):
    """Something with connections, which are given up where its block ends."""

    async def __aenter__(self) -> Self:
        """It is open already."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Give the connections up."""


class CompactedError(Exception):
    """What was asked for is older than what etcd still knows of its past."""


class Member:
    """A member, and what it can be asked for."""

    def __init__(self, endpoint: str, credentials: Any) -> None:
        self.endpoint = endpoint
        self.channel = (
            grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)
        )
        self.pairs = rpc.KVStub(self.channel)
        self.leases = rpc.LeaseStub(self.channel)
        self.watches = rpc.WatchStub(self.channel)


Method: TypeAlias = Callable[[Member], Callable[..., Any]]


class Connection:
    """Connections to all members, of one event loop.

    Parameters
    ----------
    endpoints : sequence of str
        Members: ``host:port``.
    timeout_s : float
        How long a request may take, whatever happens to the members meanwhile.
    credentials : grpc.ChannelCredentials, optional
        For TLS.

    Attributes
    ----------
    lost : int
        Requests whose answer did not come: they may have been carried out.
    """

    def __init__(
        self, endpoints: Sequence[str], *, timeout_s: float, credentials: Any = None
    ) -> None:
        if isinstance(endpoints, str) or not endpoints or not all(map(_is_endpoint, endpoints)):
            raise ConfigurationError(
                f"etcd: 'endpoints' is {endpoints!r}; give its members, such as ['127.0.0.1:2379']"
            )
        if not timeout_s > 0:
            raise ConfigurationError(f"etcd: 'timeout_s' is {timeout_s}; give more than 0 s")
        self.timeout_s = timeout_s
        self._members = [Member(endpoint, credentials) for endpoint in endpoints]
        self._asked = 0  # the member that is asked
        self._closed = False
        self.lost = 0

    def __str__(self) -> str:
        """Name the members."""
        return "etcd at " + ", ".join(member.endpoint for member in self._members)

    async def close(self) -> None:
        """Give the connections up."""
        self._closed = True
        await asyncio.gather(*(member.channel.close() for member in self._members))

    async def ask(self, method: Method, request: Any, done: Any = None) -> Any:
        """Have something done; etcd's answer.

        Parameters
        ----------
        method : callable
            What a member is asked for.
        request : message
        done : grpc.StatusCode, optional
            The refusal that means that it is done already; the answer is None then.

        Raises
        ------
        StorageError
            If no member has answered in time, or etcd refuses. If none has answered, it may be
            done all the same, now or later.
        CompactedError
            If it is about a past that is forgotten.
        """
        loop = asyncio.get_running_loop()
        end, last, tries = loop.time() + self.timeout_s, "too little time", 0
        while (left_s := end - loop.time()) > 0:
            if self._closed:
                raise StorageError(f"{self}: this connection is closed; open another one")
            member = self._members[self._asked]
            wait_s = min(_WAIT_S * 2 ** (tries // len(self._members)), _LONGEST_WAIT_S)
            tries += 1
            try:
                return await method(member)(request, timeout=min(wait_s, left_s))
            except grpc.aio.AioRpcError as error:
                if error.code() is done:
                    return None
                self._require_transient(error)
                last = f"{member.endpoint}: {error.details()}"
                self.lost += 1
                self._leave(member)
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    await asyncio.sleep(_PAUSE_S)
        raise StorageError(
            f"{self}: no answer within {self.timeout_s:g} s ({last}); start a majority of the "
            "members, or give the endpoints of a cluster that runs; what was asked for may be done "
            "all the same"
        )

    def _leave(self, member: Member) -> None:
        """Ask the next member from now on, unless somebody else has found so meanwhile."""
        if self._members[self._asked] is member:
            self._asked = (self._asked + 1) % len(self._members)

    def _require_transient(self, error: grpc.aio.AioRpcError) -> None:
        """Raise what asking again does not help against."""
        code, details = error.code(), error.details() or str(error.code())
        if code is grpc.StatusCode.OUT_OF_RANGE:
            raise CompactedError(details) from error
        if code in _TRANSIENT or "too many requests" in details:
            return
        remedy = next((known for text, known in _REMEDIES.items() if text in details), "")
        raise StorageError(f"{self}: {details}; {remedy or 'look at its log'}") from error

    async def change(
        self, compare: Sequence[Any], success: Sequence[Any], failure: Sequence[Any] = ()
    ) -> Any:
        """Make all changes if all comparisons hold, else do other things: at one moment."""
        request = rpc.TxnRequest(compare=compare, success=success, failure=failure)
        return await self.ask(lambda member: member.pairs.Txn, request)

    async def read(self, key: bytes, end: bytes = b"", **options: Any) -> Any:
        """A key, or all from a key to before another one, in their order.

        Members confer first; but see :meth:`consult`.
        """
        request = rpc.RangeRequest(key=key, range_end=end, **options)
        return await self.ask(lambda member: member.pairs.Range, request)

    async def consult(self, *keys: bytes) -> Any:
        """Some keys, and the revision at which they are so, as a majority knows it now.

        A member that was stopped may answer plain reads with what it knew before. What might
        change something is agreed upon first; so this asks for a change that is never made.
        """
        never = created(keys[0], -1)
        reply = await self.change([never], [put(keys[0], b"")], [get(key) for key in keys])
        return [one.response_range.kvs for one in reply.responses], reply.header.revision

    async def forget(self, revision: int) -> None:
        """Have etcd forget the past before a revision, if it can be asked for it."""
        request = rpc.CompactionRequest(revision=revision)
        try:
            await self.ask(lambda member: member.pairs.Compact, request)
        except (CompactedError, StorageError) as error:
            _log.info("%s was not compacted at revision %d: %s", self, revision, error)

    async def watch(
        self, start: bytes, end: bytes, revision: int
    ) -> AsyncGenerator[Sequence[Any], None]:
        """What is set from a revision on, in order; nothing, now and then, if nothing is.

        Ends when the member that tells it is lost, or another one is asked by now: look then at
        what there is, and watch again from there. Nothing that comes may also mean that the member
        is stopped, or lags.

        Raises
        ------
        CompactedError
            If that revision is forgotten.
        """
        member = self._members[self._asked]
        create = rpc.WatchCreateRequest(
            key=start,
            range_end=end,
            start_revision=revision,
            filters=[rpc.WatchCreateRequest.NODELETE],
        )
        call = member.watches.Watch(metadata=_REQUIRE_LEADER)
        reading: asyncio.Task[Any] | None = None
        try:
            await call.write(rpc.WatchRequest(create_request=create))
            while self._members[self._asked] is member and not self._closed:
                reading = reading or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait([reading], timeout=_SILENCE_S)
                if not done:
                    yield ()
                    continue
                response, reading = reading.result(), None
                if response is grpc.aio.EOF:
                    break
                if response.canceled:
                    _require_kept(response)
                    break
                if response.events:
                    yield [event.kv for event in response.events]
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._leave(member)
        finally:
            if reading is not None:
                reading.cancel()
            call.cancel()


def _is_endpoint(endpoint: object) -> bool:
    return isinstance(endpoint, str) and endpoint.rpartition(":")[2].isdecimal()


def _require_kept(response: Any) -> None:
    if response.compact_revision:
        raise CompactedError(f"revisions before {response.compact_revision} are forgotten")


# --- what transactions are made of ---------------------------------------------------------------


def created(key: bytes, revision: int) -> Any:
    """Whether a key was created by a revision; 0: it does not exist."""
    return rpc.Compare(
        result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key, create_revision=revision
    )


def none_in(start: bytes, end: bytes) -> Any:
    """Whether no key from one to before another exists."""
    return rpc.Compare(
        result=rpc.Compare.EQUAL,
        target=rpc.Compare.CREATE,
        key=start,
        range_end=end,
        create_revision=0,
    )


def is_at(key: bytes, revision: int) -> Any:
    """Whether a key was set by a revision last; 0: it does not exist."""
    return rpc.Compare(
        result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=revision
    )


def has_value(key: bytes, value: bytes) -> Any:
    """Whether a key has a value."""
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VALUE, key=key, value=value)


def put(key: bytes, value: bytes, lease: int = 0) -> Any:
    """Set a key."""
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))


def get(key: bytes, end: bytes = b"", limit: int = 0) -> Any:
    """Read a key, or those up to another one."""
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, range_end=end, limit=limit))


def delete(key: bytes, end: bytes = b"") -> Any:
    """Delete a key, or those up to another one."""
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end))


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all that begin so; they end with an ASCII character."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
