"""Crash loops: workers that are lost again and again, right after they were started."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator.engine.engine import Engine
from orchestrator.live.retry import delay_ms
from orchestrator.messages import Event, WorkerExited, WorkersLost
from orchestrator.ports import Clock

__all__ = ["MOST_CRASHES", "CrashLoops"]


MOST_CRASHES = 6
"""Short runs in a row after which a job is taken to have failed (Kubernetes: ``backoffLimit``)."""


_SHORT_MS = 600_000  # a run that lasted longer was none of a loop


_CRASHED = 1  # exit code


_log = logging.getLogger(__name__)


@dataclass
class _Loop:
    run: int
    crashes: int


class CrashLoops:
    """Lets a job whose workers are lost start again later and later, and in the end not at all.

    A first loss is passed on at once. While the next ones are held back the job keeps its place;
    the waits are those of :func:`orchestrator.live.retry.delay_ms`, about a minute together. Counts
    are kept in memory only: after a restart of the orchestrator they begin anew.

    Parameters
    ----------
    engine : Engine
        The cluster.
    clock : Clock
        Time.
    deliver : coroutine function
        Takes reports.
    """

    def __init__(
        self, engine: Engine, clock: Clock, deliver: Callable[[Event], Awaitable[object]]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._deliver = deliver
        self._loops: dict[str, _Loop] = {}

    async def hear(self, event: Event) -> None:
        """A runtime reports something."""
        if not isinstance(event, WorkersLost) or not self._engine.is_current(event):
            if isinstance(event, WorkerExited):
                self._loops.pop(event.job_id, None)
            await self._deliver(event)
            return
        loop = self._loops.setdefault(event.job_id, _Loop(0, 0))
        if loop.run == event.run:
            return  # it was said before
        now_ms = self._clock.now_ms()
        lasted_ms = now_ms - self._engine.started_ms(event.job_id)
        loop.run, loop.crashes = event.run, 1 if lasted_ms > _SHORT_MS else loop.crashes + 1
        report: Event = event
        if loop.crashes > MOST_CRASHES:
            reason = (
                f"its workers were lost {loop.crashes} times within minutes of their start, the "
                f"last time because: {event.reason or 'nobody said why'}"
            )
            _log.error("job '%s' has failed: %s", event.job_id, reason)
            report = WorkerExited(event.job_id, event.run, _CRASHED, reason)
        if loop.crashes == 1:
            await self._deliver(report)
        else:
            wait_ms = delay_ms(loop.crashes - 1)
            self._clock.call_at(now_ms + wait_ms, lambda: self._pass_on(report))

    async def _pass_on(self, report: Event) -> None:
        if isinstance(report, WorkerExited):
            self._loops.pop(report.job_id, None)
        await self._deliver(report)
