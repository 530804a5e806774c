"""A save has a deadline: one that hangs costs the victim its last interval, not others their place.

A job that is being saved keeps its resources until the checkpoint is committed. A file system that
hangs, or a report that never comes, would keep its preemptor waiting, and its node from leaving,
for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.messages import CheckpointCommitted, Event, SaveCheckpoint, StopJob, WorkersLost
from orchestrator.ports import Clock, Timer

__all__ = ["SaveDeadlines"]


_TIMES = 3  # as long as expected, at least


_log = logging.getLogger(__name__)


class SaveDeadlines:
    """Gives checkpoints up that are not committed in time: their jobs fall back to the ones before.

    A save may take three times as long as the job says, and at least ``grace_ms`` longer.

    Parameters
    ----------
    engine : Engine
        The cluster.
    clock : Clock
        Time.
    deliver : coroutine function
        Takes reports.
    grace_ms : int
        Beyond the expected time.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        deliver: Callable[[Event], Awaitable[object]],
        grace_ms: int,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._deliver = deliver
        self._grace_ms = grace_ms
        self._due: dict[str, tuple[SaveCheckpoint, int]] = {}  # by job
        self._timers: dict[str, Timer] = {}
        self._started = False

    def note(self, outcome: Outcome) -> None:
        """Hear what came of an entry, replayed or new: saves that begin, and that are over."""
        for effect in outcome.effects:
            if isinstance(effect, SaveCheckpoint):
                most_ms = max(_TIMES * effect.cost_ms, effect.cost_ms + self._grace_ms)
                self._due[effect.job_id] = effect, self._engine.now_ms + most_ms
                if self._started:
                    self._arm(effect.job_id)
            elif isinstance(effect, StopJob):
                self._due.pop(effect.job_id, None)
                timer = self._timers.pop(effect.job_id, None)
                if timer is not None:
                    timer.cancel()

    def start(self) -> None:
        """From now on time is kept: for what the log has told of, too."""
        self._started = True
        for job_id in self._due:
            self._arm(job_id)

    def _arm(self, job_id: str) -> None:
        save, due_ms = self._due[job_id]
        self._timers[job_id] = self._clock.call_at(due_ms, lambda: self._give_up(save))

    async def _give_up(self, save: SaveCheckpoint) -> None:
        if not self._engine.is_current(CheckpointCommitted(save.job_id, save.run)):
            return
        _log.warning(
            "job '%s' was not saved in time (it said that it takes %.1f s): it goes on from the "
            "checkpoint before",
            save.job_id,
            save.cost_ms / 1000.0,
        )
        await self._deliver(WorkersLost(save.job_id, save.run, "its checkpoint took too long"))
