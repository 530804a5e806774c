"""Answers that say no, as the errors that the same thing raises in Python."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.errors import (
    CapacityError,
    ConfigurationError,
    IllegalActionError,
    NotLeaderError,
    QuartermasterError,
    RateLimitedError,
    SchemaMismatchError,
    UnknownEntityError,
    UnknownServiceError,
    ValidationError,
)

__all__ = ["AuthError", "RequestFailedError", "ServerUnreachableError", "error_of"]


class ServerUnreachableError(QuartermasterError, ConnectionError):
    """Nobody answers at the server's address.

    Parameters
    ----------
    url : str
        The address.
    problem : str
        What happened.
    """

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            f"server {url}: {problem}; start it again ('quartermaster serve --dir DIR'), or give "
            "the endpoint of one that runs"
        )
        self.url = url


class AuthError(QuartermasterError, PermissionError):
    """The server does not know the token, or its role is too low for what was asked."""


class RequestFailedError(QuartermasterError, RuntimeError):
    """The server has refused a request, or failed at it.

    Parameters
    ----------
    message : str
        What the server says.
    status : int
        The answer's status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


_BY_NAME: dict[str, type[QuartermasterError]] = {
    kind.__name__.removesuffix("Error").lower(): kind
    for kind in (
        CapacityError,
        ConfigurationError,
        IllegalActionError,
        NotLeaderError,
        RateLimitedError,
        SchemaMismatchError,
        UnknownEntityError,
        UnknownServiceError,
        ValidationError,
        AuthError,
    )
}


_BY_STATUS: dict[int, type[QuartermasterError]] = {
    401: AuthError,
    403: AuthError,
    404: UnknownEntityError,
    409: IllegalActionError,
    422: ValidationError,
    429: RateLimitedError,
}


def error_of(status: int, body: bytes, media_type: str = "") -> QuartermasterError:
    """The error that an answer stands for.

    Parameters
    ----------
    status : int
        The answer's status, 400 or more.
    body : bytes
        What it says: a problem of RFC 9457, or anything else.
    media_type : str, optional
        What it says that it is.
    """
    told = _problem(body) if "json" in media_type else {}
    text = str(told.get("detail") or told.get("title") or "")
    if not text:
        said = body[:200].decode("utf-8", "replace").strip()
        text = f"the server answered {status}; it says: {said or 'nothing'}"
    kind = _BY_NAME.get(_plain(told.get("type"))) or _BY_STATUS.get(status)
    if kind is IllegalActionError and "capacity" in str(told.get("title", "")):
        kind = CapacityError
    if kind is None:
        return RequestFailedError(text, status)
    # Texts are the server's: constructors that word their own are passed by.
    error = kind.__new__(kind, text)
    error.args = (text,)
    if told.get("field") is not None:
        error.__dict__["field"] = str(told["field"])
    error.__dict__["status"] = status
    return error


def _problem(body: bytes) -> dict[str, Any]:
    """What a body tells, if it tells anything."""
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _plain(name: object) -> str:
    """A problem's type without its place: ``.../unknown-entity`` is ``unknownentity``."""
    last = str(name or "").replace(":", "/").rstrip("/").rpartition("/")[2]
    return last.replace("-", "").replace("_", "").lower().removesuffix("error")
