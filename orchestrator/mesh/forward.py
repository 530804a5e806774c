"""What a proxy hands on: headers without those of one connection, and errors as answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from orchestrator.errors import (
    AttemptTimeoutError,
    DeadlineExceededError,
    NoHealthyEndpointError,
    NotLeaderError,
    QuartermasterError,
    RateLimitedError,
    RequestRejectedError,
    RetriesExhaustedError,
    UnknownServiceError,
)
from orchestrator.mesh.attempts import AnsweredError
from orchestrator.worker.inference.http import HttpAnswer
from orchestrator.worker.inference.parser import HttpError

__all__ = ["Problem", "answer_to", "onward", "problem_of"]

_OF_ONE_CONNECTION = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_AGAIN_S = 1.0
_STATUS: tuple[tuple[type[QuartermasterError], int], ...] = (
    (UnknownServiceError, 404),
    (RateLimitedError, 429),
    (NoHealthyEndpointError, 503),
    (DeadlineExceededError, 504),
    (AttemptTimeoutError, 504),
    (RetriesExhaustedError, 503),
    (NotLeaderError, 503),
    (RequestRejectedError, 400),
)


@dataclass(frozen=True)
class Problem:
    """Why a request gets no answer of a service, as problem+json (RFC 9457) says it.

    ``retry_after_s``: when to ask again; 0: that would not help.
    """

    status: int
    detail: str
    retry_after_s: float = 0.0
    challenge: bool = False  # whether the answer asks for a token

    def answer(self, instance: str) -> HttpAnswer:
        """As an answer."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        headers = {"content-type": "application/problem+json"}
        if self.retry_after_s > 0.0:
            headers["retry-after"] = str(math.ceil(self.retry_after_s))
        if self.challenge:
            headers["www-authenticate"] = "Bearer"
        return HttpAnswer(self.status, json.dumps(body).encode(), headers)


def problem_of(error: QuartermasterError) -> Problem:
    """What to say for an error of the request path."""
    if isinstance(error, HttpError):
        return Problem(error.status, str(error))
    if isinstance(error, RateLimitedError):
        return Problem(429, str(error), max(error.retry_after_s, 0.001))
    cause = error.__cause__
    if isinstance(error, RetriesExhaustedError) and isinstance(cause, AttemptTimeoutError):
        return Problem(504, str(error), _AGAIN_S)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return Problem(status, str(error), _AGAIN_S if status == 503 else 0.0)


def answer_to(error: QuartermasterError, instance: str) -> HttpAnswer:
    """The answer for an error: the endpoint's own, if it has given one."""
    cause = error.__cause__
    if isinstance(error, RetriesExhaustedError) and isinstance(cause, AnsweredError):
        said = cause.answer
        kept = ("content-type", "retry-after")
        headers = {name: said.headers[name] for name in kept if name in said.headers}
        return HttpAnswer(said.status, said.body, headers)
    return problem_of(error).answer(instance)


def onward(fields: Sequence[tuple[str, str]], *but: str) -> list[tuple[str, str]]:
    """Headers that go on to the other side.

    Without those that are about one connection, those that any ``Connection`` names, and ``but``.
    """
    named = [value for name, value in fields if name == "connection"]
    own = {word.strip().lower() for word in ",".join(named).split(",")} if named else ()
    return [
        (name, value)
        for name, value in fields
        if name not in _OF_ONE_CONNECTION and name not in but and name not in own
    ]
