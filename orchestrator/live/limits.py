"""Time limits: a job that has run for as long as it may is warned, and then ended."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Mapping
from typing import Any

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


# Looking a member of an enumeration up costs as much as the rest of what is asked of a job.
_RUNNING, _SERVICE = int(JobCode.RUNNING), int(JobKind.SERVICE)


_SPARE = 64  # more or less, whatever is in the heap beyond twice what has to be


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
        self._due: dict[str, int] = {}  # by job: before that there is nothing to say to it
        self._heap: list[tuple[int, str]] = []  # the same, and what was so before and no longer is

    @property
    def ends_jobs(self) -> bool:
        """Whether jobs that have had their time are ended."""
        return self._grace_ms is not None

    def note(self, outcome: Outcome) -> None:
        """An entry was applied: whatever changes a job's limit is told of the job."""
        happened = {note.job_id for note in outcome.notes if note.what != "submitted"}
        if not happened or self._grace_ms is None:
            return
        for job_id in happened:
            self._see(job_id)
        self._set_timer()

    def arm(self) -> None:
        """Look at all jobs anew: nobody was told of those that are there already."""
        self._due, self._heap = {}, []
        for job_id in self._engine.placed() if self._grace_ms is not None else ():
            self._see(job_id)
        self._set_timer()

    def _see(self, job_id: str) -> None:
        """Know when there is something to say to a job, if there ever is."""
        due_ms = self._when(job_id)
        if due_ms is None:
            self._due.pop(job_id, None)
        elif due_ms != self._due.get(job_id):
            self._due[job_id] = due_ms
            heapq.heappush(self._heap, (due_ms, job_id))
        if len(self._heap) > 2 * len(self._due) + _SPARE:  # most of it is of jobs that have ended
            self._heap = [(due_ms, job_id) for job_id, due_ms in self._due.items()]
            heapq.heapify(self._heap)

    def _when(self, job_id: str) -> int | None:
        """When a job is to be warned, or ended; None: it does not run, or has no limit."""
        engine, state = self._engine, self._engine.state
        if job_id not in engine.jobs.index:
            return None
        j = engine.jobs.index.find(job_id)
        run: Any = state.job[0, j]
        if run["state"] != _RUNNING or state.request[0, j]["kind"] == _SERVICE:
            return None
        done_ms = int(run["progress_ms"]) + int(run["unsaved_ms"])
        left_ms = max(int(engine.jobs.limit_ms[j]) - done_ms, 0)
        # Rounded up, as ends are: a job whose time is exactly its limit ends in time.
        due_ms = int(run["work_start_ms"]) - (-left_ms * 1000 // max(int(run["speed_milli"]), 1))
        late = self._late.get(job_id)
        if late is not None and late[0] == engine.run_of(job_id):
            due_ms += late[1]
        return due_ms + (self._grace_ms or 0) if self._ends(job_id) else due_ms

    def _ends(self, job_id: str) -> bool:
        """Whether the next thing that a running job hears of its limit is its end."""
        note = self._engine.history.last(job_id, "overdue")
        warned = note is not None and note.run == self._engine.run_of(job_id)
        return warned or self._grace_ms == 0

    def _set_timer(self) -> None:
        """Look when the next job is due."""
        if self._stopped:
            return
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        due_ms = self._heap[0][0] if self._heap else _NEVER
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

    def _take_due(self, now_ms: int) -> list[str]:
        """Jobs that are due, in the order of the running list, and no longer known to be."""
        due = []
        while self._heap and self._heap[0][0] <= now_ms:
            due_ms, job_id = heapq.heappop(self._heap)
            if self._due.get(job_id) == due_ms:
                del self._due[job_id]
                true_ms = self._when(job_id)  # later than was known, if it began late
                if true_ms is not None and true_ms <= now_ms:
                    due.append(job_id)
                else:
                    self._see(job_id)
        if len(due) > 1:
            state, find = self._engine.state, self._engine.jobs.index.find
            running = state.running[0, : int(state.rows[0]["running_len"])]["job"]
            place = {j: k for k, j in enumerate(running.tolist())}
            due.sort(key=lambda job_id: place[find(job_id)])
        return due

    async def _look(self) -> None:
        """Warn whoever is due, and end whoever was warned."""
        self._timer, self._due_ms = None, _NEVER
        now_ms, engine = self._clock.now_ms(), self._engine
        self._told = {told for told in self._told if engine.is_current(JobOverdue(*told[:2]))}
        due = self._take_due(now_ms)
        reports = [(job_id, engine.run_of(job_id), self._ends(job_id)) for job_id in due]
        try:
            for report in reports:
                if report not in self._told:
                    self._told.add(report)
                    await self._report(*report)
        finally:
            for job_id in due:
                self._see(job_id)
            self._not_before_ms = now_ms + _PAUSE_MS
            self._set_timer()

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
