"""Errors as answers: problem+json with the text of the Python error, and the right status."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from orchestrator.errors import (
    AttemptTimeoutError,
    CapacityError,
    ConfigurationError,
    DeadlineExceededError,
    IllegalActionError,
    NoHealthyEndpointError,
    NotLeaderError,
    QuartermasterError,
    RateLimitedError,
    RequestRejectedError,
    RetriesExhaustedError,
    SchemaMismatchError,
    StorageError,
    TwinError,
    UnknownEntityError,
    UnreachableError,
    ValidationError,
)

__all__ = ["PROBLEM_TYPE", "ConflictError", "Problem", "ProblemError", "add_handlers", "problem_of"]


PROBLEM_TYPE = "application/problem+json"

_log = logging.getLogger(__name__)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes wrong with a request (RFC 9457).

    Parameters
    ----------
    title : str
        The kind, in a few words.
    status : int
        Of the answer.
    detail : str
        What is wrong, and what to do about it.
    instance : str
        The path that was asked for.
    field : str
        The field of the request that is to blame, if one is.
    headers : mapping of str to str
        Of the answer; they are not part of its body.
    """

    title: str
    status: int
    detail: str
    instance: str = ""
    field: str = ""
    headers: Mapping[str, str] = {}

    def response(self, instance: str) -> Response:
        """As an answer to whoever asked for a path."""
        told: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status}
        told |= {"detail": self.detail, "instance": instance}
        if self.field:
            told["field"] = self.field
        return Response(
            msgspec.json.encode(told),
            self.status,
            headers=dict(self.headers),
            media_type=PROBLEM_TYPE,
        )


class ProblemError(QuartermasterError):
    """A request is answered with a problem.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ConflictError(ProblemError):
    """What is asked for does not go together with what is there.

    Parameters
    ----------
    detail : str
        What is wrong, and what to do about it.
    field : str
        Of the request.
    """

    def __init__(self, detail: str, field: str = "") -> None:
        super().__init__(Problem("conflict", 409, detail, field=field))


# The first one that an error is an instance of counts.
_ANSWERS: tuple[tuple[type[Exception], int, str, Mapping[str, str]], ...] = (
    (UnknownEntityError, 404, "not found", {}),
    (CapacityError, 409, "at capacity", {}),
    (IllegalActionError, 409, "not possible now", {}),
    (NotLeaderError, 503, "not the leader", {"Retry-After": "1"}),
    (StorageError, 503, "the log does not take it", {"Retry-After": "5"}),
    (UnreachableError, 503, "a node does not answer", {"Retry-After": "1"}),
    (TwinError, 503, "the twin does not answer", {"Retry-After": "5"}),
    (RateLimitedError, 429, "too many requests", {"Retry-After": "1"}),
    (NoHealthyEndpointError, 503, "no healthy endpoint", {"Retry-After": "1"}),
    (DeadlineExceededError, 504, "not answered in time", {}),
    (AttemptTimeoutError, 504, "not answered in time", {}),
    (RetriesExhaustedError, 502, "not answered", {}),
    (RequestRejectedError, 400, "request rejected", {}),
    (SchemaMismatchError, 422, "of another schema", {}),
    (ValidationError, 422, "not valid", {}),
    (ConfigurationError, 422, "not valid", {}),
    (QuartermasterError, 500, "internal error", {}),
)


def problem_of(error: Exception) -> Problem:
    """What is told of an error. One that nobody has foreseen is logged, and not told."""
    if isinstance(error, ProblemError):
        return error.problem
    for kind, status, title, headers in _ANSWERS:
        if isinstance(error, kind):
            field = str(getattr(error, "field", ""))
            return Problem(title, status, str(error), field=field, headers=headers)
    _log.error("a request failed", exc_info=error)
    return Problem("internal error", 500, "the server failed; see server.log in its folder")


_STATUS_TITLES = {
    404: ("not found", "there is nothing here; /api/v1/openapi.json lists what there is"),
    405: ("method not allowed", "this is not answered here; the header Allow says what is"),
}


_NOT_JSON = "body: it is not JSON in UTF-8; send a JSON object"


def _of_status(error: HTTPException) -> Problem:
    if error.status_code == 400:  # FastAPI could not decode the body
        return Problem("not valid", 422, _NOT_JSON)
    title, detail = _STATUS_TITLES.get(error.status_code, (str(error.detail), str(error.detail)))
    return Problem(title, error.status_code, detail, headers=error.headers or {})


def _of_fields(error: RequestValidationError) -> Problem:
    """The first field that is wrong."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    name = ".".join(where[1:]) or where[0]
    detail = f"{where[0]}: field '{name}' {_lower(first['msg'])}; correct it"
    if first["type"] == "json_invalid":
        return Problem("not valid", 422, _NOT_JSON)
    return Problem("not valid", 422, detail, field=name)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def add_handlers(app: FastAPI) -> None:
    """Have all errors of an application answered as problems."""

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _of_status(error).response(request.url.path)

    async def of_fields(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _of_fields(error).response(request.url.path)

    async def of_error(request: Request, error: Exception) -> Response:
        return problem_of(error).response(request.url.path)

    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_fields)
    app.add_exception_handler(QuartermasterError, of_error)
    app.add_exception_handler(Exception, of_error)  # it is raised on afterwards, for the server
