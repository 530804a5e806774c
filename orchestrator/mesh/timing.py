"""Deadlines on a clock of ours: the event loop's own would not know of virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from orchestrator.ports import Clock

__all__ = ["within"]

_T = TypeVar("_T")


async def within(clock: Clock, work: Awaitable[_T], limit_ms: float) -> _T:
    """Await something for at most so long, on a clock.

    Parameters
    ----------
    clock : Clock
        Whose milliseconds they are.
    work : awaitable
        What to wait for; it is cancelled when time is up.
    limit_ms : float
        0: for ever.

    Returns
    -------
    What ``work`` returns.

    Raises
    ------
    TimeoutError
        When time is up.
    """
    if limit_ms <= 0:
        return await work
    task = asyncio.ensure_future(work)
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = clock.call_at(clock.now_ms() + round(limit_ms), expire)
    try:
        return await task
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if expired and not (caller is not None and caller.cancelling()):
            raise TimeoutError(f"no answer within {limit_ms:g} ms") from None
        raise
    finally:
        timer.cancel()
