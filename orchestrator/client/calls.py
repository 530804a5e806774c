"""The server's interface, call by call: what is asked where, and whether it may be asked twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

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
from orchestrator.errors import ValidationError

__all__ = ["Call", "Calls", "Plain"]


_T = TypeVar("_T")


Plain = dict[str, Any]
"""A JSON object that has no form of its own."""


@dataclass(frozen=True)
class Call(Generic[_T]):
    """A request whose answer has a form.

    Parameters
    ----------
    method, path : str
        What is asked, and where.
    query : mapping, optional
        Its parameters; those that are None are left out.
    body : Any, optional
        JSON; None: none.
    headers : mapping, optional
        Besides those of every request.
    repeatable : bool, optional
        Whether asking twice does no more than asking once.
    wait_s : float, optional
        How long the server may hold the answer back, seconds.
    paged : bool, optional
        Whether the answer is a part of a list, and others can be asked for.
    """

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    wait_s: float = 0.0
    paged: bool = False

    def given(self) -> dict[str, str]:
        """The query as text."""
        return {name: _text(value) for name, value in self.query.items() if value is not None}

    def content(self) -> bytes | None:
        """The body as bytes."""
        return None if self.body is None else json.dumps(self.body).encode()

    def at(self, cursor: str | None, limit: int) -> Call[_T]:
        """The same, from a place in its list on; a list that is told whole has no such place."""
        if not self.paged:
            return self
        return replace(self, query={**self.query, "cursor": cursor, "limit": limit})


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _segment(kind: str, name: str) -> str:
    """A name as one segment of a path, whatever it holds."""
    if name in ("", ".", ".."):
        raise ValidationError(f"{kind} {name!r}", "id", "is no identity", "give one that is shown")
    return quote(name, safe="")


def _get(path: str, **query: Any) -> Call[Any]:
    return Call("GET", f"/api/v1{path}", query)


def _list(path: str, **query: Any) -> Call[Any]:
    return replace(_get(path, **query), paged=True)


_IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
_REPLACED_S = 3600.0
_THOUGHT_S = 120.0  # for an answer of the twin


def _post(path: str, body: Any = None, **options: Any) -> Call[Any]:
    return Call("POST", f"/api/v1{path}", body=body or {}, repeatable=False, **options)


class Calls:
    """What can be asked of a server."""

    def version(self) -> Call[Version]:
        """Which server answers."""
        return _get("/version")

    def submit(self, job: JobFields, key: str, *, dry_run: bool) -> Call[Submitted]:
        """A job to be taken once, however often it is sent."""
        return Call(
            "POST",
            "/api/v1/jobs",
            {"dry_run": True if dry_run else None},
            body=job,
            headers={"Idempotency-Key": key},
        )

    def jobs(self, filters: Mapping[str, str | None]) -> Call[Page[JobSummary]]:
        """Jobs, the newest first."""
        return _list("/jobs", **filters)

    def job(self, job_id: str) -> Call[JobStatus]:
        """All that is told of a job."""
        return _get(f"/jobs/{_segment('job', job_id)}")

    def wait(self, job_id: str, timeout_s: float) -> Call[Ended]:
        """A job's status when it has ended, or when time is up."""
        path = f"/jobs/{_segment('job', job_id)}/wait"
        return replace(_get(path, timeout_s=timeout_s), wait_s=timeout_s)

    def logs(self, job_id: str, **options: Any) -> Call[str]:
        """What its workers have written, as records that say where they stand."""
        call = _get(f"/jobs/{_segment('job', job_id)}/logs", **options)
        return replace(call, headers={"Accept": "application/x-ndjson"})

    def when(self, job_id: str, futures: int) -> Call[Plain]:
        """When a job starts and ends, by so many futures."""
        path = f"/jobs/{_segment('job', job_id)}/when"
        return replace(_get(path, futures=futures), wait_s=_THOUGHT_S)

    def why(self, job_id: str) -> Call[Plain]:
        """Why a job waits, and what would start it at once."""
        path = f"/jobs/{_segment('job', job_id)}/why"
        return replace(_get(path), wait_s=_THOUGHT_S)

    def what_if(self, supposed: Plain) -> Call[Plain]:
        """What would be if something were done; nothing is, so that it may be asked twice."""
        return replace(_post("/what-if", supposed), repeatable=True, wait_s=_THOUGHT_S)

    def cancel(self, job_id: str, reason: str) -> Call[Changed]:
        """A job to be ended."""
        return _post(f"/jobs/{_segment('job', job_id)}/cancel", _because(reason))

    def preempt(self, job_id: str, reason: str) -> Call[Changed]:
        """A job to be saved and put back into the queue."""
        return _post(f"/jobs/{_segment('job', job_id)}/preempt", _because(reason))

    def migrate(self, job_id: str) -> Call[Changed]:
        """A job to be moved to a tighter place."""
        return _post(f"/jobs/{_segment('job', job_id)}/migrate", {})

    def scale(self, job_id: str, workers: int) -> Call[Changed]:
        """Another number of workers."""
        return _post(f"/jobs/{_segment('job', job_id)}/scale", {"workers": workers})

    def nodes(self) -> Call[Page[NodeStatus]]:
        """The cluster's nodes."""
        return _get("/nodes")

    def node(self, node_id: str) -> Call[NodeStatus]:
        """One of them."""
        return _get(f"/nodes/{_segment('node', node_id)}")

    def drain(self, node_id: str, *, force: bool) -> Call[Plain]:
        """A node to be emptied; it gets no new work."""
        return _post(f"/nodes/{_segment('node', node_id)}/drain", {"force": force})

    def undrain(self, node_id: str) -> Call[Plain]:
        """A node to be used again."""
        return _post(f"/nodes/{_segment('node', node_id)}/undrain")

    def cluster(self) -> Call[Plain]:
        """The cluster as a whole."""
        return _get("/cluster")

    def queue(self) -> Call[Page[QueueItem]]:
        """Jobs that wait, in the order in which they are served."""
        return _list("/queue")

    def events(self, since: str | None, limit: int) -> Call[Page[Event]]:
        """What has happened since then."""
        return _get("/events", since=since, limit=limit)

    def event_stream(self, since: str | None) -> Call[str]:
        """What happens from then on."""
        headers = {"Accept": "text/event-stream"}
        if since is not None:
            headers["Last-Event-ID"] = since
        return replace(_get("/events/stream", since=since), headers=headers)

    def services(self) -> Call[Page[Plain]]:
        """Services that requests can be sent to."""
        return _get("/services")

    def service(self, name: str) -> Call[Plain]:
        """One of them."""
        return _get(f"/services/{_segment('service', name)}")

    def add_service(self, rules: Plain) -> Call[Plain]:
        """Rules of a service."""
        return _post("/services", rules)

    def replace_replicas(self, service: str) -> Call[Plain]:
        """A new replica for each, one after the other."""
        path = f"/services/{_segment('service', service)}/replace"
        return _post(path, wait_s=_REPLACED_S)  # answered when all are there

    def call(
        self, service: str, path: str, method: str, headers: Mapping[str, str], body: object
    ) -> Call[bytes]:
        """A request to a service; the mesh tries it again, and we do where we lose the mesh.

        That is where it does no harm (RFC 9110, 9.2.2), and there is all of it: pieces of a body
        that were sent are gone.
        """
        whole = f"/api/v1/services/{_segment('service', service)}/call/{path.lstrip('/')}"
        keyed = any(name.lower() == "idempotency-key" for name in headers)
        repeatable = isinstance(body, bytes) and (keyed or method.upper() in _IDEMPOTENT)
        return Call(method, whole, headers=headers, repeatable=repeatable)

    def policy(self) -> Call[Plain]:
        """Which policy is in charge, and which ones are tried."""
        return _get("/policy")

    def decisions(self) -> Call[Page[Plain]]:
        """What was decided, the newest first."""
        return _list("/policy/decisions")

    def set_policy(self, step: str, body: Plain) -> Call[Plain]:
        """A policy to be tried or put in charge: shadow, canary, activate, fallback."""
        return _post(f"/policy/{step}", body)

    def tokens(self) -> Call[Page[Plain]]:
        """Tokens that the server knows: not their texts."""
        return _get("/tokens")

    def create_token(self, name: str, role: str, expires_hours: float | None) -> Call[Plain]:
        """A new token; its text is told this once."""
        body: Plain = {"name": name, "role": role}
        if expires_hours is not None:
            body["expires_hours"] = expires_hours
        return _post("/tokens", body)

    def remove_token(self, name: str) -> Call[Plain]:
        """A token that is not to be known any more."""
        return Call("DELETE", f"/api/v1/tokens/{_segment('token', name)}", repeatable=False)


def _because(reason: str) -> dict[str, str]:
    return {"reason": reason} if reason else {}
