"""A save has a deadline: one that hangs costs the victim its last interval, not others their place.

A job that is being saved keeps its resources until the checkpoint is committed. A file system that
hangs, or a report that never comes, would keep its preemptor waiting, and its node from leaving,
for ever.
"""

from __future__ import annotations

import logging

from orchestrator.engine.engine import Outcome
from orchestrator.live.retry import Reports
from orchestrator.messages import CheckpointCommitted, SaveCheckpoint, StopJob, WorkersLost
from orchestrator.ports import Timer

__all__ = ["SaveDeadlines"]


_TIMES = 3  # as long as expected, at least


_log = logging.getLogger(__name__)


class SaveDeadlines:
    """Gives checkpoints up that are not committed in time: their jobs fall back to the ones before.

    A save may take three times as long as the job says, and at least ``grace_ms`` longer.

    Parameters
    ----------
    reports : Reports
    grace_ms : int
        Beyond the expected time.
    """

    def __init__(self, reports: Reports, grace_ms: int) -> None:
        self._engine, self._clock, self._deliver = reports.engine, reports.clock, reports.deliver
        self._grace_ms = grace_ms
        self._timers: dict[str, Timer] = {}  # by job

    def note(self, outcome: Outcome) -> None:
        """Hear what came of an entry: saves that begin, and that are over."""
        for effect in outcome.effects:
            if isinstance(effect, SaveCheckpoint):
                self._arm(effect.job_id, effect.run, effect.cost_ms)
            elif isinstance(effect, StopJob):
                self._disarm(effect.job_id)

    def start(self) -> None:
        """Keep time for jobs that are being saved already: from now on, they may be told again."""
        for job_id, (run, cost_ms) in self._engine.saving().items():
            self._arm(job_id, run, cost_ms)

    def stop(self) -> None:
        """Keep time for nobody."""
        for job_id in list(self._timers):
            self._disarm(job_id)

    def _arm(self, job_id: str, run: int, cost_ms: int) -> None:
        self._disarm(job_id)
        most_ms = max(_TIMES * cost_ms, cost_ms + self._grace_ms)
        due_ms = self._clock.now_ms() + most_ms
        self._timers[job_id] = self._clock.call_at(due_ms, lambda: self._give_up(job_id, run))

    def _disarm(self, job_id: str) -> None:
        timer = self._timers.pop(job_id, None)
        if timer is not None:
            timer.cancel()

    async def _give_up(self, job_id: str, run: int) -> None:
        if not self._engine.is_current(CheckpointCommitted(job_id, run)):
            return
        _log.warning(
            "job '%s' was not saved in time: it goes on from the checkpoint before", job_id
        )
        await self._deliver(WorkersLost(job_id, run, "its checkpoint took too long"))
