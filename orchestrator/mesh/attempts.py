"""One attempt at an endpoint: how long it may take, and how it can fail.

Transports may say more than that an attempt has failed: whether anything was sent, and that an
endpoint is well but has too much to do.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from orchestrator.errors import QuartermasterError
from orchestrator.ports import Clock
from orchestrator.worker.inference.http import HttpAnswer, HttpRequest

__all__ = [
    "AnsweredError",
    "EndpointBusyError",
    "NobodyListensError",
    "NotSentError",
    "is_leaving",
    "repeats",
    "within",
]


class NotSentError(QuartermasterError, ConnectionError):
    """Nothing of a request has reached an endpoint: any request may be sent again."""


class NobodyListensError(NotSentError):
    """No process listens where an endpoint should be: it is shut out until a probe finds it."""


class AnsweredError(QuartermasterError, ConnectionError):
    """An endpoint says that it could not do what was asked.

    Parameters
    ----------
    message : str
        Who says what.
    answer : HttpAnswer
        The same as it came.
    """

    def __init__(self, message: str, answer: HttpAnswer) -> None:
        super().__init__(message)
        self.answer = answer


class EndpointBusyError(AnsweredError):
    """An endpoint is well, has too much to do, and says when to come back (503, ``Retry-After``).

    Nothing was done: any request may be sent to another one.
    """


def repeats(request: object, error: Exception, methods: tuple[str, ...]) -> bool:
    """Whether a request may be sent again after an error."""
    if not isinstance(request, HttpRequest):
        return True
    undone = isinstance(error, NotSentError)
    if isinstance(error, EndpointBusyError):
        undone = getattr(request, "rest", None) is None
    return undone or request.may_repeat(methods)


_T = TypeVar("_T")


async def within(
    clock: Clock,
    work: Awaitable[_T],
    limit_ms: float,
    late: Callable[[], Exception] | None = None,
) -> _T:
    """Await something for at most so long, on a clock.

    Parameters
    ----------
    clock : Clock
        Whose milliseconds they are.
    work : awaitable
        What to wait for; it is cancelled when time is up.
    limit_ms : float
        0: for ever.
    late : callable or None, optional
        Makes what is raised when time is up; None: a ``TimeoutError``. What ``work`` raises, a
        ``TimeoutError`` of its own too, is handed on as it is.

    Returns
    -------
    What ``work`` returns.

    Raises
    ------
    TimeoutError
        When time is up, unless ``late`` says otherwise.
    """
    if limit_ms <= 0:
        return await work
    caller = asyncio.current_task()
    if caller is None:
        raise RuntimeError("within() needs a task; await it in one")
    before, expired = caller.cancelling(), False

    def expire() -> None:
        nonlocal expired
        expired = True
        caller.cancel()

    timer = clock.call_at(clock.now_ms() + math.ceil(limit_ms), expire)
    try:
        answer = await work
    except (asyncio.CancelledError, Exception):  # work may answer its cancellation with an error
        if expired and caller.uncancel() <= before:
            if late is not None:
                raise late() from None
            raise TimeoutError(f"no answer within {limit_ms:g} ms") from None
        raise
    finally:
        timer.cancel()
    if expired:
        caller.uncancel()
    return answer


def is_leaving() -> bool:
    """Whether it is the caller who was cancelled, not what is awaited."""
    caller = asyncio.current_task()
    return caller is not None and caller.cancelling() > 0
