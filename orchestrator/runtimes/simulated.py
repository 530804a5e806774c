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


@dataclass(frozen=True)
class _Running:
    """A job whose workers exist, and what will happen to it."""

    run: int
    timer: Timer


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
        """Say where events go; the last call counts."""
        self._deliver = deliver

    def observe(self) -> Mapping[str, int]:
        """Jobs whose workers exist, or whose end is not reported yet, and their runs."""
        return {job_id: running.run for job_id, running in self._running.items()}

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Begin to carry effects out, in this order."""
        for effect in effects:
            if isinstance(effect, StartJob):
                self._expect_end(effect, effect.start_ms + effect.restart_ms)
            elif isinstance(effect, RegroupJob):
                self._expect_end(effect, effect.resume_ms)
            elif isinstance(effect, SaveCheckpoint):
                end_ms = self._clock.now_ms() + effect.cost_ms
                committed = CheckpointCommitted(effect.job_id, effect.run)
                self._expect(end_ms, EventKind.CHECKPOINTED, committed)
            elif isinstance(effect, StopJob):
                running = self._running.pop(effect.job_id, None)
                if running is not None:
                    running.timer.cancel()

    def _expect_end(self, effect: StartJob | RegroupJob, resume_ms: int) -> None:
        """A job works from a time on, until all its work is done."""
        left_ms = duration_ms(effect.spec) - effect.progress_ms
        end_ms = resume_ms + -(-left_ms * 1000 // effect.speed_milli)
        exited = WorkerExited(effect.job_id, effect.run)
        self._expect(end_ms, EventKind.COMPLETION, exited)

    def _expect(self, time_ms: int, kind: EventKind, event: _Report) -> None:
        """From now on this is what will happen to a job, instead of what would have before."""
        before = self._running.get(event.job_id)
        if before is not None:
            before.timer.cancel()
        timer = self._clock.call_at(time_ms, lambda: self._happen(event), order=int(kind))
        self._running[event.job_id] = _Running(event.run, timer)

    async def _happen(self, event: _Report) -> None:
        if self._deliver is None:
            raise ConfigurationError("SimulatedRuntime: nobody to report to; call bind() first")
        await self._deliver(event)
        running = self._running.get(event.job_id)
        if not isinstance(event, WorkerExited) or running is None:
            return
        if running.run == event.run:
            del self._running[event.job_id]
