"""A runtime that only takes time: jobs run for as long as their specifications, and costs, say."""

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
    StopReason,
    WorkerExited,
    WorkersLost,
)
from orchestrator.ports import Clock, Timer
from orchestrator.runtimes.costs import NO_CONDUCT, NO_COSTS, ORDINARY, Conduct, Lags, RuntimeCosts

__all__ = ["SimulatedRuntime"]


_Report: TypeAlias = WorkerExited | CheckpointCommitted | WorkersLost


_AGAIN_MS = 1000  # until what nobody has taken is reported again


@dataclass
class _Running:
    """A job whose workers exist, and what will happen to it."""

    event: _Report
    progress_ms: int = 0  # with which it began, as the engine has it
    timer: Timer | None = None
    heard: bool = True  # nothing has happened that nobody has taken
    happened: bool = False


class SimulatedRuntime:
    """Reports what real workers would, when they would.

    Events of one instant are delivered in the order of the engine: completions, then checkpoints,
    each in the order in which they began; what else happens then is ordered by whoever puts it on
    the same clock, with an ``order`` out of ``EventKind``.

    Parameters
    ----------
    clock : Clock
        Time.
    costs : RuntimeCosts, optional
        What real workers take beyond what specifications say. The engine does not know of it,
        here as on a live cluster: work is then done later than it takes it to be.
    conduct : mapping of str to Conduct, optional
        How the workers of jobs behave, by the job, where that is not as usual.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        costs: RuntimeCosts = NO_COSTS,
        conduct: Mapping[str, Conduct] = NO_CONDUCT,
    ) -> None:
        self._clock = clock
        self._costs, self._conduct = costs, conduct
        self._lags = Lags()
        self._vacant: dict[str, int] = {}  # by job: when nothing is left of its run before
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
                self._start(effect)
            elif isinstance(effect, RegroupJob):
                self._regroup(effect)
            elif isinstance(effect, SaveCheckpoint):
                self._save(effect)
            elif isinstance(effect, StopJob):
                running = self._running.get(effect.job_id)
                if running is not None and running.event.run == effect.run:
                    self._stop(effect, running)

    def lose(self, job_id: str, reason: str = "") -> None:
        """The workers of a job are gone, as if somebody had killed them; one without has none."""
        running = self._running.get(job_id)
        if running is not None:
            lost = WorkersLost(job_id, running.event.run, reason)
            self._expect(self._clock.now_ms(), lost, running.progress_ms)

    def _costs_of(self, job_id: str) -> RuntimeCosts:
        own = self._conduct.get(job_id, ORDINARY).costs
        return self._costs if own is None else own

    def _start(self, effect: StartJob) -> None:
        due_ms = max(effect.start_ms, self._clock.now_ms()) + effect.restart_ms
        vacant_ms = self._vacant.pop(effect.job_id, 0) + effect.restart_ms
        begins_ms = max(due_ms, vacant_ms)
        begins_ms += self._costs_of(effect.job_id).until_work_ms(len(effect.workers))
        lag_ms = min(self._lags.saved.get(effect.job_id, 0), effect.progress_ms)
        self._lags.begin(effect.job_id, lag_ms, due_ms, begins_ms, effect.speed_milli)
        self._expect_end(effect, begins_ms, lag_ms)

    def _regroup(self, effect: RegroupJob) -> None:
        lag_ms = self._lags.at(effect.job_id, self._clock.now_ms())
        costs = self._costs_of(effect.job_id)
        costs_ms = round(costs.regroup_ms)
        if effect.moved:
            costs_ms = costs.until_work_ms(len(effect.workers)) + round(costs.stop_ms)
        # Whoever has not begun yet does not begin sooner because of it.
        begins_ms = max(effect.resume_ms + costs_ms, self._lags.begins(effect.job_id))
        self._lags.begin(effect.job_id, lag_ms, effect.resume_ms, begins_ms, effect.speed_milli)
        self._expect_end(effect, begins_ms, lag_ms)

    def _save(self, effect: SaveCheckpoint) -> None:
        """Work stops now; the job is saved, or its workers end, after a while."""
        now_ms, job_id = self._clock.now_ms(), effect.job_id
        costs, begun = self._costs_of(job_id), now_ms >= self._lags.begins(job_id)
        self._lags.begin(job_id, self._lags.at(job_id, now_ms), now_ms, now_ms, 0)
        if begun and self._conduct.get(job_id, ORDINARY).saves:
            end_ms = now_ms + effect.cost_ms + round(costs.save_ms)
            self._expect(end_ms, CheckpointCommitted(job_id, effect.run), effect.progress_ms)
        else:
            lost = WorkersLost(job_id, effect.run, "it cannot save, and was told to end")
            self._expect(now_ms + round(costs.stop_ms), lost, effect.progress_ms)

    def _stop(self, stop: StopJob, running: _Running) -> None:
        now_ms, job_id = self._clock.now_ms(), stop.job_id
        if stop.progress_ms > running.progress_ms or stop.reason == StopReason.PREEMPTED:
            self._lags.save(job_id, self._lags.at(job_id, now_ms))
        interrupted = stop.reason == StopReason.INTERRUPTED
        costs = self._costs_of(job_id)
        left_ms = costs.lost_ms if interrupted else costs.stop_ms
        ended = running.happened and not isinstance(running.event, CheckpointCommitted)
        if left_ms and not ended:
            self._vacant[job_id] = now_ms + round(left_ms)
        self._lags.running.pop(job_id, None)
        self._drop(running)

    def _is_done(self, effect: Effect) -> bool:
        """Whether a start or a save was told before, and what it asked for is there."""
        if not isinstance(effect, StartJob | SaveCheckpoint):
            return False
        running = self._running.get(effect.job_id)
        if running is None or running.event.run != effect.run:
            return False
        saves = not isinstance(running.event, WorkerExited)
        return saves or isinstance(effect, StartJob)

    def _expect_end(self, effect: StartJob | RegroupJob, resume_ms: int, lag_ms: int) -> None:
        """A job works from a time on, until all its work is done."""
        left_ms = duration_ms(effect.spec) - effect.progress_ms + lag_ms
        end_ms = resume_ms + -(-left_ms * 1000 // effect.speed_milli)
        code = self._conduct.get(effect.job_id, ORDINARY).exit_code
        exited = WorkerExited(effect.job_id, effect.run, code)
        self._expect(end_ms, exited, effect.progress_ms)

    def _expect(self, time_ms: int, event: _Report, progress_ms: int) -> None:
        """From now on this is what will happen to a job, instead of what would have before."""
        before = self._running.get(event.job_id)
        if before is not None:
            self._drop(before)
        running = _Running(event, progress_ms)
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
        running.heard, running.happened = False, True
        event = running.event
        if await self._deliver(event) is False:
            if self._running.get(event.job_id) is running:
                self._report_at(self._clock.now_ms() + _AGAIN_MS, running)
            return
        running.heard = True
        if isinstance(event, WorkerExited):
            self._lags.forget(event.job_id)
            self._vacant.pop(event.job_id, None)
        ended = not isinstance(event, CheckpointCommitted)
        if ended and self._running.get(event.job_id) is running:
            del self._running[event.job_id]
