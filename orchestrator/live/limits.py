"""Time limits: a job that has run for as long as it may is warned, and then ended."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np

from orchestrator.engine.engine import Outcome
from orchestrator.engine.history import TIMED_OUT
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import EventKind, JobCode, JobKind
from orchestrator.live.retry import Reports
from orchestrator.messages import JobOverdue, WorkerExited
from orchestrator.ports import Timer

__all__ = ["TimeLimits"]


_AFTER_EVENTS = int(EventKind.NONE)  # order on the clock: a job that ends just in time has ended


_NEVER = int(np.iinfo(np.int64).max)


_PAUSE_MS = 1000


_log = logging.getLogger(__name__)


class TimeLimits:
    """Ends jobs that run for longer than ``max_duration_hours``.

    What counts is time at work, at the speed of ``num_workers``: an elastic job on half of them has
    twice as long, and neither waiting nor restarts, nor work that was lost and is done again, count
    against it. A job that has had its time is warned of it (:class:`JobOverdue`, in its history and
    in the log); when the grace is over as well it ends as failed, with the exit code of ``timeout``
    (124), and its last checkpoint stays. Services have no limit.

    Both are entries of the log. That a warning was given is remembered in the job's history; the
    rest follows from the cluster's state, so that a restart goes on where it was.

    Parameters
    ----------
    reports : Reports
    grace_s : float or None
        Seconds from the warning to the end; 0: jobs are ended without one; None: never.
    late : Mapping of str to (int, int)
        Jobs that began later than the cluster knows, as when the runtime refused to start them for
        a while: the run, and by how much, ms.
    """

    def __init__(
        self, reports: Reports, grace_s: float | None, late: Mapping[str, tuple[int, int]]
    ) -> None:
        ok = grace_s is None or (
            isinstance(grace_s, int | float)
            and not isinstance(grace_s, bool)
            and math.isfinite(grace_s)
            and grace_s >= 0
        )
        if not ok:
            raise ConfigurationError(
                f"InfrastructureOrchestrator: 'time_limit_grace_s' is {grace_s!r}; give seconds "
                "from 0 on, or None for no limits"
            )
        self._engine, self._clock, self._deliver = reports.engine, reports.clock, reports.deliver
        self._late = late
        self._grace_ms = None if grace_s is None else round(1000 * grace_s)
        self._timer: Timer | None = None
        self._due_ms = _NEVER  # when the timer goes off
        self._not_before_ms = 0  # what was just reported may not be in the log yet
        self._told: set[tuple[str, int, bool]] = set()  # reports: job, run, whether it ends
        self._stopped = False

    def note(self, outcome: Outcome) -> None:
        """An entry was applied."""
        if any(note.what != "submitted" for note in outcome.notes):
            self.arm()

    def arm(self) -> None:
        """See when the next job has had its time."""
        if self._stopped:
            return
        late, due_ms = self._look_ahead()
        due_ms = min([due_ms, *(due for _, due, _ in late)])
        if due_ms <= self._clock.now_ms():
            due_ms = max(due_ms, self._not_before_ms)
        if due_ms == self._due_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due_ms = due_ms
        if due_ms < _NEVER:
            self._timer = self._clock.call_at(due_ms, self._look, order=_AFTER_EVENTS)

    def stop(self) -> None:
        """Keep time no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_ahead(self) -> tuple[list[tuple[str, int, bool]], int]:
        """Jobs that have had their time, and when the next one will have had it.

        Of each: its name, when it is due, and whether it was warned and is due to end.
        """
        if self._grace_ms is None:
            return [], _NEVER
        engine, state = self._engine, self._engine.state
        at = state.running[0, : int(state.rows[0]["running_len"])]["job"]
        at = at[state.request[0]["kind"][at] != JobKind.SERVICE]
        runs = state.job[0]
        at = at[runs["state"][at] == JobCode.RUNNING]
        done = runs["progress_ms"][at] + runs["unsaved_ms"][at]
        left = np.maximum(engine.jobs.limit_ms[at] - done, 0)
        # Rounded up, as ends are: a job whose time is exactly its limit ends in time.
        due = runs["work_start_ms"][at] - (-left * 1000 // np.maximum(runs["speed_milli"][at], 1))
        names = engine.jobs.index.ids
        for job_id, (run, late_ms) in self._late.items():
            if job_id not in engine.jobs.index:
                continue  # its start waited for longer than the job was remembered
            if engine.run_of(job_id) == run:
                due[at == engine.jobs.index.find(job_id)] += late_ms
        now_ms = self._clock.now_ms()
        late = []
        for j, due_ms in zip(at[due <= now_ms], due[due <= now_ms], strict=True):
            job_id = names[j]
            note = engine.history.last(job_id, "overdue")
            ends = self._grace_ms == 0 or (note is not None and note.run == engine.run_of(job_id))
            late.append((job_id, int(due_ms) + (self._grace_ms if ends else 0), ends))
        return late, int(due[due > now_ms].min(initial=_NEVER))

    async def _look(self) -> None:
        """Warn whoever is due, and end whoever was warned."""
        self._timer, self._due_ms = None, _NEVER
        now_ms, placed = self._clock.now_ms(), self._engine.placed()
        self._told = {told for told in self._told if placed.get(told[0]) == told[1]}
        for job_id, due_ms, ends in self._look_ahead()[0]:
            report = job_id, placed[job_id], ends
            if due_ms > now_ms or report in self._told:
                continue
            self._told.add(report)
            await self._report(*report)
        self._not_before_ms = now_ms + _PAUSE_MS
        self.arm()

    async def _report(self, job_id: str, run: int, ends: bool) -> None:
        limit = f"{self._engine.jobs.specs[job_id].max_duration_hours:g} h"
        grace_s = (self._grace_ms or 0) / 1000
        if ends:
            said = f"ran past max_duration_hours ({limit}) and {grace_s:g} s of grace"
            _log.error("job '%s' is ended: it %s", job_id, said)
            await self._deliver(WorkerExited(job_id, run, TIMED_OUT, said))
        else:
            said = f"has run for max_duration_hours ({limit}) and is ended in {grace_s:g} s"
            _log.warning("job '%s' %s", job_id, said)
            await self._deliver(JobOverdue(job_id, run, said))
