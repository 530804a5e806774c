"""What both clients do alike: the line to a server, its answers, and what failed on the way."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from orchestrator.client.calls import Call
from orchestrator.client.endpoint import Endpoint, Finder, find_endpoint
from orchestrator.client.forms import Event, Page
from orchestrator.client.problems import RequestFailedError, error_of
from orchestrator.client.retry import Failure
from orchestrator.errors import ConfigurationError, QuartermasterError

__all__ = [
    "AGAIN_S",
    "POLL_S",
    "STEADY_S",
    "Turned",
    "build_request",
    "events_of",
    "failure_of",
    "finder_of",
    "found_again",
    "json_of",
    "key_of",
    "line_options",
    "refusal",
]


POLL_S = 25.0
"""For how long one request waits for a job's end."""


AGAIN_S = 0.05
"""Before a stream that has ended early is opened again."""


STEADY_S = 1.0
"""A stream that has lasted for so long was a success: its next loss is a new one."""


_CONNECT_S, _ANSWER_S = 3.0, 30.0


# Servers close connections that nobody has used for a while, many after 5 s. Whether a request that
# crosses that was read is not known; one that must not be repeated would have failed.
_IDLE_S = 2.0


# A machine that is gone closes nothing: its silence is noticed in less than a minute.
_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]


class Turned(Exception):  # noqa: N818  it is caught where it is raised, and not an error yet
    """The server has answered, and said no."""

    def __init__(self, answer: QuartermasterError, after_s: float | None) -> None:
        super().__init__(str(answer))
        self.answer, self.after_s = answer, after_s


def line_options(endpoint: Endpoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of an httpx client for a server, and of its transport."""
    client = {
        "base_url": endpoint.url,
        "headers": {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {},
        # Neither a proxy nor .netrc comes between us and a server on this machine.
        "trust_env": not endpoint.local,
    }
    transport = {
        # Certificates are only loaded where they are needed: it takes as long as all the rest.
        "verify": endpoint.url.startswith("https"),
        "limits": httpx.Limits(keepalive_expiry=_IDLE_S),
        "socket_options": _KEEP_ALIVE,
    }
    return client, transport


def finder_of(endpoint: Endpoint | str | Path | None) -> Finder:
    """What says where the server is, from what a caller has given."""
    if isinstance(endpoint, Endpoint):
        return lambda: endpoint
    return find_endpoint(endpoint)


def found_again(find: Finder, last: Endpoint) -> Endpoint:
    """Where the server is now; while nothing says so, where it was."""
    try:
        return find()
    except ConfigurationError:
        return last


def build_request(
    build: Callable[..., httpx.Request],
    call: Call[Any],
    content: Any = None,
    *,
    endless: bool = False,
) -> httpx.Request:
    """A call as a request.

    Parameters
    ----------
    build : callable
        ``build_request`` of the client that sends it.
    call : Call
        What is asked.
    content : bytes or iterable, optional
        The body, where the call has none of its own.
    endless : bool, optional
        Whether the answer goes on for as long as it likes.
    """
    headers = dict(call.headers)
    body = call.content()
    if body is not None:
        content = body
        headers.setdefault("Content-Type", "application/json")
    answer_s = None if endless else _ANSWER_S + call.wait_s
    return build(
        call.method,
        call.path,
        params=call.given() or None,
        content=content,
        headers=headers,
        timeout=httpx.Timeout(answer_s, connect=_CONNECT_S),
    )


def refusal(response: httpx.Response, body: bytes) -> Turned:
    """An answer of 400 or more as what it means."""
    answer = error_of(response.status_code, body, response.headers.get("Content-Type", ""))
    after = response.headers.get("Retry-After", "")
    return Turned(answer, float(after) if after.isdigit() else None)


def failure_of(error: httpx.TransportError | Turned) -> Failure:
    """What a try has come to."""
    if isinstance(error, Turned):
        return Failure("", sent=True, answer=error.answer, after_s=error.after_s)
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if unsent:
        problem = "nobody answers there"
    elif isinstance(error, httpx.TimeoutException):
        problem = "it does not answer in time"
    else:
        problem = "the connection was lost"
    return Failure(problem, sent=not unsent)


def json_of(body: bytes, call: Call[Any]) -> Any:
    """What an answer says.

    Raises
    ------
    RequestFailedError
        If it is no JSON: somebody else answers at that address.
    """
    try:
        return json.loads(body) if body else {}
    except ValueError as error:
        raise RequestFailedError(
            f"{call.method} {call.path}: the answer is no JSON; is a Quartermaster server at that "
            "address?",
            200,
        ) from error


def events_of(page: Page[Event], call: Call[Page[Event]]) -> tuple[list[Event], str | None, bool]:
    """Events of a page, where the next begins, and whether there is a next.

    Without a cursor a page holds the last events, and nothing comes behind it.
    """
    found = list(page["items"])
    more = call.query.get("since") is not None and len(found) >= call.query["limit"]
    if page.get("gap"):
        found.insert(0, {"gap": True})
    return found, page.get("next_cursor"), more


def key_of(key: str | None) -> str:
    """The key by which a job that is sent twice is known again."""
    return secrets.token_hex(16) if key is None else key
