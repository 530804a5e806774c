"""The synchronous client: one method for each thing that a server can be asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
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

__all__ = ["Client"]


_T = TypeVar("_T")
_PAGE = 500


class Client:
    """Asks a server, and waits for its answers.

    Requests that do no harm when they are repeated are tried again while a server is started again;
    the others are where it is certain that the server has not seen them. A job that is submitted
    twice with one key is one job.

    Parameters
    ----------
    endpoint : Endpoint, str, Path or None, optional
        The server, or the ``endpoint.json`` that it has written, or the folder that this lies in;
        None: what ``QUARTERMASTER_URL`` and ``QUARTERMASTER_TOKEN``, or ``QUARTERMASTER_ENDPOINT``,
        say.
    retry : Retry, optional
        For how long a request is tried.

    Raises
    ------
    ConfigurationError
        If nothing says where the server is.

    Notes
    -----
    Every method raises what the same thing raises in Python: ``UnknownEntityError`` for a job that
    nobody knows, ``ValidationError`` for a field that makes no sense, and so on; besides them
    ``AuthError``, ``RequestFailedError`` and ``ServerUnreachableError``.

    Examples
    --------
    >>> with Client("cluster/endpoint.json") as client:  # doctest: +SKIP
    ...     job = client.submit(name="hello", command=["echo", "hello"], cpus_per_worker=1)
    ...     client.wait(job["job_id"])["exit_code"]
    0
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its connections back."""
        self._http.close()

    def version(self) -> Version:
        """Which server answers."""
        return self._send(self._calls.version())

    def submit(
        self, *, key: str | None = None, dry_run: bool = False, **job: Unpack[JobFields]
    ) -> Submitted:
        """Hand a job in.

        Parameters
        ----------
        key : str or None, optional
            The same key and the same job again are the same job; None: a new one.
        dry_run : bool, optional
            Only say whether it would be taken.
        **job
            See :class:`JobFields`.
        """
        return self._send(self._calls.submit(job, key_of(key), dry_run=dry_run))

    def jobs(
        self,
        *,
        state: str | None = None,
        tenant: str | None = None,
        name: str | None = None,
        limit: int = 100,
    ) -> list[JobSummary]:
        """Jobs, the newest first; at most ``limit`` of them."""
        filters = {"state": state, "tenant": tenant, "name": name}
        return self._listed(self._calls.jobs(filters), limit)

    def job(self, job_id: str) -> JobStatus:
        """All that is told of a job."""
        return self._send(self._calls.job(job_id))

    def wait(self, job_id: str, timeout_s: float = math.inf) -> Ended:
        """A job's status when it has ended, or when time is up: ``ended`` says which.

        Parameters
        ----------
        job_id : str
            The job.
        timeout_s : float, optional
            How long to wait, seconds.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            told = self._send(self._calls.wait(job_id, min(POLL_S, left_s)))
            if told.get("ended") or time.monotonic() >= until_s:
                return told

    def logs(
        self,
        job_id: str,
        *,
        worker: int | None = None,
        run: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> Iterator[str]:
        """What a job's workers have written, line by line.

        Parameters
        ----------
        job_id : str
            The job.
        worker : int or None, optional
            Which one; None: all, and where there are several, ``[rank]`` stands before each line.
        run : int or None, optional
            Which start of the job; None: the last one.
        tail : int or None, optional
            Only so many lines at the end.
        follow : bool, optional
            Go on until the job has ended, over restarts of the server, too.
        """
        if follow:
            yield from self._followed(job_id, worker, run, tail)
            return
        wanted = {"worker": worker, "run": run, "tail": tail}
        yield from self._lines(LineReader(), job_id, wanted, lambda: True)

    def when(self, job_id: str, futures: int = 200) -> Plain:
        """When a job starts and ends: see :class:`orchestrator.twin.answers.When`.

        Parameters
        ----------
        job_id : str
            The job.
        futures : int, optional
            How many futures of the cluster are played.
        """
        return self._send(self._calls.when(job_id, futures))

    def why(self, job_id: str) -> Plain:
        """Why a job waits: see :class:`orchestrator.twin.answers.Why`."""
        return self._send(self._calls.why(job_id))

    def what_if(self, **supposed: Any) -> Plain:
        """What would be if something were done now: see :class:`orchestrator.twin.answers.WhatIf`.

        Parameters
        ----------
        **supposed
            ``cancel``, ``fail``, ``drain`` (lists of identities), ``nodes`` (by node, how many more
            like it), ``quota`` (by tenant), ``priority`` (by job), ``submit`` (see
            :class:`JobFields`), ``policy``; and ``futures``, how many are played.
        """
        return self._send(self._calls.what_if(supposed))

    def cancel(self, job_id: str, reason: str = "") -> Changed:
        """End a job."""
        return self._send(self._calls.cancel(job_id, reason))

    def preempt(self, job_id: str, reason: str = "") -> Changed:
        """Save a job and put it back into the queue."""
        return self._send(self._calls.preempt(job_id, reason))

    def migrate(self, job_id: str) -> Changed:
        """Move a running job to a tighter place: saved where it is, and started again there."""
        return self._send(self._calls.migrate(job_id))

    def scale(self, job_id: str, workers: int) -> Changed:
        """Give an elastic job another number of workers."""
        return self._send(self._calls.scale(job_id, workers))

    def nodes(self) -> list[NodeStatus]:
        """All nodes."""
        return self._listed(self._calls.nodes())

    def node(self, node_id: str) -> NodeStatus:
        """One node."""
        return self._send(self._calls.node(node_id))

    def drain(self, node_id: str, *, force: bool = False) -> Plain:
        """Empty a node; ``force``: jobs that may not be moved are interrupted."""
        return self._send(self._calls.drain(node_id, force=force))

    def undrain(self, node_id: str) -> Plain:
        """Use a node again."""
        return self._send(self._calls.undrain(node_id))

    def cluster(self) -> Plain:
        """The cluster as a whole: see ``InfrastructureOrchestrator.get_cluster_status``."""
        return self._send(self._calls.cluster())

    def queue(self, limit: int | None = None) -> list[QueueItem]:
        """Jobs that wait, in the order in which they are served."""
        return self._listed(self._calls.queue(), limit)

    def events(
        self, since: str | None = None, *, limit: int = 1000, follow: bool = False
    ) -> Iterator[Event]:
        """What has happened, the oldest first.

        Parameters
        ----------
        since : str or None, optional
            Only what came after the event with this ``cursor``.
        limit : int, optional
            At most so many: the first ones after ``since``, or the last ones of all; what is
            followed has no end.
        follow : bool, optional
            Go on with what happens, over restarts of the server, too.
        """
        if not follow:
            left, more = limit, True
            while more and left > 0:
                call = self._calls.events(since, min(left, _PAGE))
                found, since, more = events_of(self._send(call), call)
                left -= len(found)
                yield from found
            return
        reader = EventReader(since)
        stream = self._flow(
            lambda: self._calls.event_stream(reader.cursor), reader.restart, lambda: False
        )
        for data in stream:
            yield from reader.feed(data)

    def services(self) -> list[Plain]:
        """Services that requests can be sent to."""
        return self._listed(self._calls.services())

    def service(self, name: str) -> Plain:
        """One of them."""
        return self._send(self._calls.service(name))

    def add_service(self, **rules: Any) -> Plain:
        """Give a service rules, new ones if it has some; its replicas are a job of its name.

        Parameters
        ----------
        **rules
            Fields of :class:`orchestrator.ServiceSpec`: ``name``, ``service_ms`` and others.
        """
        return self._send(self._calls.add_service(rules))

    def replace_replicas(self, service: str) -> Plain:
        """Replace a service's replicas, one after the other; how many, when all are."""
        return self._send(self._calls.replace_replicas(service))

    @contextmanager
    def call(
        self,
        service: str,
        path: str = "",
        *,
        method: str = "POST",
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """Send a request to a service; what it answers is read as it comes.

        Parameters
        ----------
        service, path, method : str
            Whom, where, and how.
        body : bytes or iterable of bytes, optional
            What it is told.
        headers : mapping or None, optional
            Headers of the request.

        Yields
        ------
        iterator of bytes
            The answer's body. Where it breaks off before its first piece, and the request is
            repeatable (by its method or an ``Idempotency-Key``, with a body of bytes), it is sent
            again; later, and otherwise, that is a ``ServerUnreachableError``.
        """
        call = self._calls.call(service, path, method, headers or {}, body)
        attempts = self._attempts(call)
        with ExitStack() as held:

            def ask() -> httpx.Response:
                return held.enter_context(closing(self._open_service(call, body, attempts)))

            yield self._pieces(ask(), ask, attempts)

    def policy(self) -> Plain:
        """Which policy is in charge, and which ones are tried."""
        return self._send(self._calls.policy())

    def decisions(self, limit: int = 100) -> list[Plain]:
        """What policies have decided, the newest first."""
        return self._listed(self._calls.decisions(), limit)

    def set_policy(self, step: str, **given: Any) -> Plain:
        """Try a policy, or put it in charge.

        Parameters
        ----------
        step : str
            ``shadow`` or ``activate`` with ``bundle``, ``canary`` with ``bundle`` and ``share``,
            ``fallback`` with ``reason``.
        **given
            See there.
        """
        return self._send(self._calls.set_policy(step, given))

    def tokens(self) -> list[Plain]:
        """Tokens that the server knows: not their texts."""
        return self._listed(self._calls.tokens())

    def create_token(self, name: str, role: str, expires_hours: float | None = None) -> Plain:
        """A new token of a role: ``viewer``, ``submitter`` or ``operator``."""
        return self._send(self._calls.create_token(name, role, expires_hours))

    def remove_token(self, name: str) -> Plain:
        """Have a token known no more."""
        return self._send(self._calls.remove_token(name))

    def _connect(self) -> httpx.Client:
        options, transport = line_options(self.endpoint)
        return httpx.Client(**options, transport=httpx.HTTPTransport(**transport))

    def _attempts(self, call: Call[Any]) -> Attempts:
        url, reached = self.endpoint.url, self._reached
        return Attempts(self._retry, url, repeatable=call.repeatable, reached=reached)

    def _pause(self, attempts: Attempts, failure: Failure) -> None:
        """Wait for the next try, and look where the server is now."""
        self._failures += 1
        time.sleep(attempts.pause_s(failure))
        found = found_again(self._find, self.endpoint)
        if found != self.endpoint:
            self._http.close()
            self.endpoint = found
            self._http = self._connect()

    def _open(
        self, call: Call[Any], content: Any = None, *, endless: bool = False
    ) -> httpx.Response:
        """Send a request; who opens the answer closes it."""
        request = build_request(self._http.build_request, call, content, endless=endless)
        response = self._http.send(request, stream=True)
        self._reached = True
        if response.status_code >= 400:
            with closing(response):
                raise refusal(response, response.read())
        return response

    def _open_service(
        self, call: Call[bytes], body: bytes | Iterable[bytes], attempts: Attempts
    ) -> httpx.Response:
        while True:
            try:
                return self._open(call, body)
            except Turned as error:
                raise error.answer from None  # the service's word: the mesh has tried enough
            except httpx.TransportError as error:
                self._pause(attempts, failure_of(error))

    def _pieces(
        self, response: httpx.Response, ask: Callable[[], httpx.Response], attempts: Attempts
    ) -> Iterator[bytes]:
        """An answer's body; while nobody has any of it, what is lost is asked for again."""
        while True:
            try:
                for piece in response.iter_bytes():
                    attempts.handed()
                    yield piece
            except httpx.TransportError as error:
                self._pause(attempts, failure_of(error))
                response = ask()
            else:
                return

    def _send(self, call: Call[_T]) -> _T:
        """Ask, again if need be."""
        attempts = self._attempts(call)
        while True:
            try:
                with closing(self._open(call)) as response:
                    return json_of(response.read(), call)  # type: ignore[no-any-return]
            except (httpx.TransportError, Turned) as error:
                self._pause(attempts, failure_of(error))

    def _followed(
        self, job_id: str, worker: int | None, run: int | None, tail: int | None
    ) -> Iterator[str]:
        """Lines until the job has ended, run by run: each counts its own."""
        status: JobStatus = self.job(job_id)
        now = run or max(1, status.get("starts", 1))

        def over() -> bool:
            nonlocal status
            told = self.wait(job_id, 0.0)
            status = told
            return bool(told.get("ended")) or told.get("starts", 1) > now

        while True:
            wanted = {"worker": worker, "run": now, "tail": tail, "follow": True}
            yield from self._lines(LineReader(), job_id, wanted, over)
            if run is not None or status.get("starts", 1) <= now:
                return
            now, tail = now + 1, None

    def _lines(
        self, reader: LineReader, job_id: str, wanted: Mapping[str, Any], over: Callable[[], bool]
    ) -> Iterator[str]:
        def call() -> Call[str]:
            return self._calls.logs(job_id, **wanted, since=reader.since)

        for data in self._flow(call, reader.restart, over):
            yield from reader.feed(data)

    def _listed(self, call: Call[Page[_T]], limit: int | None = None) -> list[_T]:
        """A whole list, part by part."""
        found: list[_T] = []
        cursor: str | None = None
        while True:
            left = _PAGE if limit is None else min(_PAGE, limit - len(found))
            page = self._send(call.at(cursor, left))
            found += page["items"]
            cursor = page.get("next_cursor")
            if not cursor or (limit is not None and len(found) >= limit):
                return found

    def _flow(
        self,
        call: Callable[[], Call[str]],
        restart: Callable[[], None],
        over: Callable[[], bool],
    ) -> Iterator[bytes]:
        """What a stream brings, until it is over; a connection that is lost is made again."""
        attempts = self._attempts(call())
        while True:
            begun_s = time.monotonic()
            try:
                with closing(self._open(call(), endless=True)) as response:
                    yield from response.iter_bytes()
            except (httpx.TransportError, Turned) as error:
                if time.monotonic() - begun_s > STEADY_S:
                    attempts.succeeded()
                self._pause(attempts, failure_of(error))
            else:
                # A server that is stopped ends its streams, too: what it says while it starts again
                # is no sign that the stream had come to its end before.
                failures = self._failures
                if over() and self._failures == failures:
                    return
                attempts.succeeded()
                time.sleep(AGAIN_S)
            restart()
