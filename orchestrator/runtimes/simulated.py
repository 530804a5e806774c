"""A runtime that only takes time: jobs run for exactly as long as their specifications say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.engine.records import duration_ms
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import EventKind
from orchestrator.messages import (
    CheckpointCommitted,
    Effect,
    Event,
    RegroupJob,
    SaveCheckpoint,
    StartJob,
    StopJob,
    WorkerExited,
)
from orchestrator.ports import Clock, Timer

__all__ = ["SimulatedRuntime"]


_Report: TypeAlias = WorkerExited | CheckpointCommitted


_AGAIN_MS = 1000  # until what nobody has taken is reported again


@dataclass
class _Running:
    """A job whose workers exist, and what will happen to it."""

    event: _Report
    timer: Timer | None = None
    heard: bool = True  # nothing has happened that nobody has taken


class SimulatedRuntime:
    """Reports what real workers would, when they would.

    Events of one instant are delivered in the order of the engine: completions, then checkpoints,
    each in the order in which they began; what else happens then is ordered by whoever puts it on
    the same clock, with an ``order`` out of ``EventKind``.

    Parameters
    ----------
    clock : Clock
        Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._deliver: Callable[[Event], Awaitable[object]] | None = None

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        """Say where events go; the last call counts, and hears what nobody has taken."""
        self._deliver = deliver
        for running in self._running.values():
            if not running.heard:
                self._report_at(self._clock.now_ms(), running)

    def close(self) -> None:
        """End all workers; nothing is reported any more."""
        for running in list(self._running.values()):
            self._drop(running)

    def observe(self) -> Mapping[str, int]:
        """Jobs whose workers exist, or whose end is not reported yet, and their runs."""
        return {job_id: running.event.run for job_id, running in self._running.items()}

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Begin to carry effects out, in this order."""
        for effect in effects:
            if self._is_done(effect):
                continue
            if isinstance(effect, StartJob):
                start_ms = max(effect.start_ms, self._clock.now_ms())
                self._expect_end(effect, start_ms + effect.restart_ms)
            elif isinstance(effect, RegroupJob):
                self._expect_end(effect, effect.resume_ms)
            elif isinstance(effect, SaveCheckpoint):
                end_ms = self._clock.now_ms() + effect.cost_ms
                committed = CheckpointCommitted(effect.job_id, effect.run)
                self._expect(end_ms, committed)
            elif isinstance(effect, StopJob):
                running = self._running.get(effect.job_id)
                if running is not None and running.event.run == effect.run:
                    self._drop(running)

    def _is_done(self, effect: Effect) -> bool:
        """Whether a start or a save was told before, and what it asked for is there."""
        if not isinstance(effect, StartJob | SaveCheckpoint):
            return False
        running = self._running.get(effect.job_id)
        if running is None or running.event.run != effect.run:
            return False
        saves = isinstance(running.event, CheckpointCommitted)
        return saves or isinstance(effect, StartJob)

    def _expect_end(self, effect: StartJob | RegroupJob, resume_ms: int) -> None:
        """A job works from a time on, until all its work is done."""
        left_ms = duration_ms(effect.spec) - effect.progress_ms
        end_ms = resume_ms + -(-left_ms * 1000 // effect.speed_milli)
        exited = WorkerExited(effect.job_id, effect.run)
        self._expect(end_ms, exited)

    def _expect(self, time_ms: int, event: _Report) -> None:
        """From now on this is what will happen to a job, instead of what would have before."""
        before = self._running.get(event.job_id)
        if before is not None:
            self._drop(before)
        running = _Running(event)
        self._running[event.job_id] = running
        self._report_at(time_ms, running)

    def _drop(self, running: _Running) -> None:
        if running.timer is not None:
            running.timer.cancel()
        del self._running[running.event.job_id]

    def _report_at(self, time_ms: int, running: _Running) -> None:
        if running.timer is not None:
            running.timer.cancel()
        order = EventKind.COMPLETION
        if isinstance(running.event, CheckpointCommitted):
            order = EventKind.CHECKPOINTED
        running.timer = self._clock.call_at(
            time_ms, lambda: self._happen(running), order=int(order)
        )

    async def _happen(self, running: _Running) -> None:
        if self._deliver is None:
            raise ConfigurationError("SimulatedRuntime: nobody to report to; call bind() first")
        running.heard = False
        event = running.event
        if await self._deliver(event) is False:
            if self._running.get(event.job_id) is running:
                self._report_at(self._clock.now_ms() + _AGAIN_MS, running)
            return
        running.heard = True
        if isinstance(event, WorkerExited) and self._running.get(event.job_id) is running:
            del self._running[event.job_id]
