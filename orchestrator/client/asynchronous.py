"""The asynchronous client: the methods of :class:`Client`, to be awaited."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import httpx

from orchestrator.client.calls import Call, Calls, Plain
from orchestrator.client.endpoint import Endpoint
from orchestrator.client.exchange import (
    AGAIN_S,
    POLL_S,
    STEADY_S,
    Turned,
    build_request,
    events_of,
    failure_of,
    finder_of,
    found_again,
    json_of,
    key_of,
    line_options,
    refusal,
)
from orchestrator.client.forms import (
    Changed,
    Ended,
    Event,
    JobFields,
    JobStatus,
    JobSummary,
    NodeStatus,
    Page,
    QueueItem,
    Submitted,
    Version,
)
from orchestrator.client.retry import Attempts, Failure, Retry
from orchestrator.client.streams import EventReader, LineReader

__all__ = ["AsyncClient"]


_T = TypeVar("_T")
_PAGE = 500
_Over = Callable[[], Awaitable[bool]]


async def _at_once() -> bool:
    return True


async def _never() -> bool:
    return False


class AsyncClient:
    """Asks a server without holding up the event loop; otherwise it is a :class:`Client`.

    Parameters
    ----------
    endpoint : Endpoint, str, Path or None, optional
        The server: see :class:`Client`.
    retry : Retry, optional
        For how long a request is tried.

    Raises
    ------
    ConfigurationError
        If nothing says where the server is.

    Examples
    --------
    >>> async with AsyncClient("cluster/endpoint.json") as client:  # doctest: +SKIP
    ...     async for event in client.events(follow=True):
    ...         print(event["what"])
    """

    def __init__(
        self, endpoint: Endpoint | str | Path | None = None, *, retry: Retry | None = None
    ) -> None:
        self._find = finder_of(endpoint)
        self.endpoint = self._find()
        self._retry = retry or Retry()
        self._calls = Calls()
        self._failures = 0  # tries that came to nothing
        self._reached = False  # whether the server has answered
        self._http = self._connect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give its connections back."""
        await self._http.aclose()

    async def version(self) -> Version:
        """Which server answers."""
        return await self._send(self._calls.version())

    async def submit(
        self, *, key: str | None = None, dry_run: bool = False, **job: Unpack[JobFields]
    ) -> Submitted:
        """Hand a job in: see :meth:`Client.submit`."""
        return await self._send(self._calls.submit(job, key_of(key), dry_run=dry_run))

    async def jobs(
        self,
        *,
        state: str | None = None,
        tenant: str | None = None,
        name: str | None = None,
        limit: int = 100,
    ) -> list[JobSummary]:
        """Jobs, the newest first; at most ``limit`` of them."""
        filters = {"state": state, "tenant": tenant, "name": name}
        return await self._listed(self._calls.jobs(filters), limit)

    async def job(self, job_id: str) -> JobStatus:
        """All that is told of a job."""
        return await self._send(self._calls.job(job_id))

    async def wait(self, job_id: str, timeout_s: float = math.inf) -> Ended:
        """A job's status when it has ended, or when time is up: see :meth:`Client.wait`."""
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            told = await self._send(self._calls.wait(job_id, min(POLL_S, left_s)))
            if told.get("ended") or time.monotonic() >= until_s:
                return told

    async def logs(
        self,
        job_id: str,
        *,
        worker: int | None = None,
        run: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[str]:
        """What a job's workers have written, line by line: see :meth:`Client.logs`."""
        if follow:
            stream = self._followed(job_id, worker, run, tail)
        else:
            wanted = {"worker": worker, "run": run, "tail": tail}
            stream = self._lines(LineReader(), job_id, wanted, _at_once)
        async with aclosing(stream):
            async for line in stream:
                yield line

    async def when(self, job_id: str, futures: int = 200) -> Plain:
        """When a job starts and ends: see :meth:`Client.when`."""
        return await self._send(self._calls.when(job_id, futures))

    async def why(self, job_id: str) -> Plain:
        """Why a job waits: see :class:`orchestrator.twin.answers.Why`."""
        return await self._send(self._calls.why(job_id))

    async def what_if(self, **supposed: Any) -> Plain:
        """What would be if something were done now: see :meth:`Client.what_if`."""
        return await self._send(self._calls.what_if(supposed))

    async def cancel(self, job_id: str, reason: str = "") -> Changed:
        """End a job."""
        return await self._send(self._calls.cancel(job_id, reason))

    async def preempt(self, job_id: str, reason: str = "") -> Changed:
        """Save a job and put it back into the queue."""
        return await self._send(self._calls.preempt(job_id, reason))

    async def migrate(self, job_id: str) -> Changed:
        """Move a running job to a tighter place: saved where it is, and started again there."""
        return await self._send(self._calls.migrate(job_id))

    async def scale(self, job_id: str, workers: int) -> Changed:
        """Give an elastic job another number of workers."""
        return await self._send(self._calls.scale(job_id, workers))

    async def nodes(self) -> list[NodeStatus]:
        """All nodes."""
        return await self._listed(self._calls.nodes())

    async def node(self, node_id: str) -> NodeStatus:
        """One node."""
        return await self._send(self._calls.node(node_id))

    async def drain(self, node_id: str, *, force: bool = False) -> Plain:
        """Empty a node; ``force``: jobs that may not be moved are interrupted."""
        return await self._send(self._calls.drain(node_id, force=force))

    async def undrain(self, node_id: str) -> Plain:
        """Use a node again."""
        return await self._send(self._calls.undrain(node_id))

    async def cluster(self) -> Plain:
        """The cluster as a whole: see ``InfrastructureOrchestrator.get_cluster_status``."""
        return await self._send(self._calls.cluster())

    async def queue(self, limit: int | None = None) -> list[QueueItem]:
        """Jobs that wait, in the order in which they are served."""
        return await self._listed(self._calls.queue(), limit)

    async def events(
        self, since: str | None = None, *, limit: int = 1000, follow: bool = False
    ) -> AsyncIterator[Event]:
        """What has happened, the oldest first: see :meth:`Client.events`."""
        if not follow:
            left, more = limit, True
            while more and left > 0:
                call = self._calls.events(since, min(left, _PAGE))
                found, since, more = events_of(await self._send(call), call)
                left -= len(found)
                for event in found:
                    yield event
            return
        reader = EventReader(since)
        stream = self._flow(lambda: self._calls.event_stream(reader.cursor), reader.restart, _never)
        async with aclosing(stream):
            async for data in stream:
                for event in reader.feed(data):
                    yield event

    async def services(self) -> list[Plain]:
        """Services that requests can be sent to."""
        return await self._listed(self._calls.services())

    async def service(self, name: str) -> Plain:
        """One of them."""
        return await self._send(self._calls.service(name))

    async def add_service(self, **rules: Any) -> Plain:
        """Give a service rules, new ones if it has some; see :meth:`Client.add_service`."""
        return await self._send(self._calls.add_service(rules))

    async def replace_replicas(self, service: str) -> Plain:
        """Replace a service's replicas: see :meth:`Client.replace_replicas`."""
        return await self._send(self._calls.replace_replicas(service))

    @asynccontextmanager
    async def call(
        self,
        service: str,
        path: str = "",
        *,
        method: str = "POST",
        body: bytes | AsyncIterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request to a service; what it answers is read as it comes: :meth:`Client.call`."""
        call = self._calls.call(service, path, method, headers or {}, body)
        attempts = self._attempts(call)
        async with AsyncExitStack() as held:

            async def ask() -> httpx.Response:
                response = await self._open_service(call, body, attempts)
                return await held.enter_async_context(aclosing(response))

            yield self._pieces(await ask(), ask, attempts)

    async def policy(self) -> Plain:
        """Which policy is in charge, and which ones are tried."""
        return await self._send(self._calls.policy())

    async def decisions(self, limit: int = 100) -> list[Plain]:
        """What policies have decided, the newest first."""
        return await self._listed(self._calls.decisions(), limit)

    async def set_policy(self, step: str, **given: Any) -> Plain:
        """Try a policy, or put it in charge: see :meth:`Client.set_policy`."""
        return await self._send(self._calls.set_policy(step, given))

    async def tokens(self) -> list[Plain]:
        """Tokens that the server knows: not their texts."""
        return await self._listed(self._calls.tokens())

    async def create_token(self, name: str, role: str, expires_hours: float | None = None) -> Plain:
        """A new token of a role: ``viewer``, ``submitter`` or ``operator``."""
        return await self._send(self._calls.create_token(name, role, expires_hours))

    async def remove_token(self, name: str) -> Plain:
        """Have a token known no more."""
        return await self._send(self._calls.remove_token(name))

    def _connect(self) -> httpx.AsyncClient:
        options, transport = line_options(self.endpoint)
        return httpx.AsyncClient(**options, transport=httpx.AsyncHTTPTransport(**transport))

    def _attempts(self, call: Call[Any]) -> Attempts:
        url, reached = self.endpoint.url, self._reached
        return Attempts(self._retry, url, repeatable=call.repeatable, reached=reached)

    async def _pause(self, attempts: Attempts, failure: Failure) -> None:
        """Wait for the next try, and look where the server is now."""
        self._failures += 1
        await asyncio.sleep(attempts.pause_s(failure))
        found = found_again(self._find, self.endpoint)
        if found != self.endpoint:
            await self._http.aclose()
            self.endpoint = found
            self._http = self._connect()

    async def _open(
        self, call: Call[Any], content: Any = None, *, endless: bool = False
    ) -> httpx.Response:
        """Send a request; who opens the answer closes it."""
        request = build_request(self._http.build_request, call, content, endless=endless)
        response = await self._http.send(request, stream=True)
        self._reached = True
        if response.status_code >= 400:
            async with aclosing(response):
                raise refusal(response, await response.aread())
        return response

    async def _open_service(
        self, call: Call[bytes], body: bytes | AsyncIterable[bytes], attempts: Attempts
    ) -> httpx.Response:
        while True:
            try:
                return await self._open(call, body)
            except Turned as error:
                raise error.answer from None  # the service's word: the mesh has tried enough
            except httpx.TransportError as error:
                await self._pause(attempts, failure_of(error))

    async def _pieces(
        self,
        response: httpx.Response,
        ask: Callable[[], Awaitable[httpx.Response]],
        attempts: Attempts,
    ) -> AsyncIterator[bytes]:
        """An answer's body; while nobody has any of it, what is lost is asked for again."""
        while True:
            try:
                async for piece in response.aiter_bytes():
                    attempts.handed()
                    yield piece
            except httpx.TransportError as error:
                await self._pause(attempts, failure_of(error))
                response = await ask()
            else:
                return

    async def _send(self, call: Call[_T]) -> _T:
        """Ask, again if need be."""
        attempts = self._attempts(call)
        while True:
            try:
                async with aclosing(await self._open(call)) as response:
                    return json_of(await response.aread(), call)  # type: ignore[no-any-return]
            except (httpx.TransportError, Turned) as error:
                await self._pause(attempts, failure_of(error))

    async def _listed(self, call: Call[Page[_T]], limit: int | None = None) -> list[_T]:
        """A whole list, part by part."""
        found: list[_T] = []
        cursor: str | None = None
        while True:
            left = _PAGE if limit is None else min(_PAGE, limit - len(found))
            page = await self._send(call.at(cursor, left))
            found += page["items"]
            cursor = page.get("next_cursor")
            if not cursor or (limit is not None and len(found) >= limit):
                return found

    async def _followed(
        self, job_id: str, worker: int | None, run: int | None, tail: int | None
    ) -> AsyncGenerator[str, None]:
        """Lines until the job has ended, run by run: each counts its own."""
        status: JobStatus = await self.job(job_id)
        now = run or max(1, status.get("starts", 1))

        async def over() -> bool:
            nonlocal status
            told = await self.wait(job_id, 0.0)
            status = told
            return bool(told.get("ended")) or told.get("starts", 1) > now

        while True:
            wanted = {"worker": worker, "run": now, "tail": tail, "follow": True}
            async with aclosing(self._lines(LineReader(), job_id, wanted, over)) as stream:
                async for line in stream:
                    yield line
            if run is not None or status.get("starts", 1) <= now:
                return
            now, tail = now + 1, None

    async def _lines(
        self, reader: LineReader, job_id: str, wanted: Mapping[str, Any], over: _Over
    ) -> AsyncGenerator[str, None]:
        def call() -> Call[str]:
            return self._calls.logs(job_id, **wanted, since=reader.since)

        stream = self._flow(call, reader.restart, over)
        async with aclosing(stream):
            async for data in stream:
                for line in reader.feed(data):
                    yield line

    async def _flow(
        self,
        call: Callable[[], Call[str]],
        restart: Callable[[], None],
        over: _Over,
    ) -> AsyncGenerator[bytes, None]:
        """What a stream brings, until it is over; a connection that is lost is made again."""
        attempts = self._attempts(call())
        while True:
            begun_s = time.monotonic()
            try:
                async with aclosing(await self._open(call(), endless=True)) as response:
                    async for data in response.aiter_bytes():
                        yield data
            except (httpx.TransportError, Turned) as error:
                if time.monotonic() - begun_s > STEADY_S:
                    attempts.succeeded()
                await self._pause(attempts, failure_of(error))
            else:
                failures = self._failures
                if await over() and self._failures == failures:
                    return
                attempts.succeeded()
                await asyncio.sleep(AGAIN_S)
            restart()
