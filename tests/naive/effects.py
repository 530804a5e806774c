"""Effects as somebody infers them who has only an engine's event log and looks at its state.

The twin of the effects that the kernels write. It has to look after every action: a job starts, or
its workers change, at most once between two looks, and it stops at most once before that, so that
the state says everything about each of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.engine.engine import Engine
from orchestrator.kernels.state.codes import JobCode, LogKind, NodeCode, Reason
from orchestrator.messages import (
    Cancel,
    Decide,
    Effect,
    Entry,
    Plan,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
)

__all__ = ["NaiveEffects"]


class NaiveEffects:
    """Leads a life of an engine action by action, and infers the effects of each.

    The engine keeps its log, and nobody else hands it entries.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._state = engine.state
        self._seen = 0
        jobs = engine.shape.jobs
        self._lost_ms = np.zeros(jobs, np.int64)  # so far, by job
        self._migrations = np.zeros(jobs, np.int64)  # so far, by job
        self._scaling = np.zeros(jobs, np.bool_)  # the next placement is no start
        self._runs = np.zeros(jobs, np.int64)  # numbers of the last ones
        self._last_run = 0  # the highest one of a job that is forgotten
        self._held = np.zeros(jobs, np.bool_)
        self._lost = StopReason.INTERRUPTED

    def effects_of(self, entry: Entry, reason: Reason) -> tuple[Effect, ...]:
        """Apply an entry, of which another engine has said what comes of it."""
        body, parts = entry.body, [entry]
        cancels = isinstance(body, Cancel)
        self._lost = StopReason.CANCELLED if cancels else StopReason.INTERRUPTED
        if isinstance(body, Decide) and len(body.plan.actions) > 1:
            actions = body.plan.actions if reason == Reason.OK else ()
            parts = [Entry(entry.time_ms, Decide(Plan((action,)))) for action in actions]
        effects: list[Effect] = []
        for part in parts:
            self._engine.handle(part)
            effects += self._read()
        return tuple(effects)

    def _read(self) -> list[Effect]:
        count = int(self._state.rows[0]["log_count"])
        assert count <= self._engine.shape.log, "the log is too short for this life"
        effects = [self._effect(record) for record in self._state.log[0, self._seen : count]]
        self._seen = count
        return [effect for effect in effects if effect is not None]

    def _effect(self, record: Any) -> Effect | None:
        kind, subject, value = int(record["kind"]), int(record["subject"]), int(record["value"])
        if kind == LogKind.PLACEMENT:
            return self._regroup(subject) if self._scaling[subject] else self._start(subject)
        if kind == LogKind.NODE_STATE:
            left = value == NodeCode.ABSENT
            return ReleaseNode(self._engine.nodes.index.ids[subject]) if left else None
        return self._state_change(subject, JobCode(value))

    def _state_change(self, j: int, code: JobCode) -> Effect | None:
        run: Any = self._state.job[0, j]
        cost_ms = int(self._state.request[0, j]["checkpoint_ms"])
        if code == JobCode.CHECKPOINTING and cost_ms > 0:
            progress_ms = int(run["progress_ms"]) + int(run["unsaved_ms"])
            return SaveCheckpoint(self._name(j), int(self._runs[j]), cost_ms, progress_ms)
        if code == JobCode.PREEMPTED:
            return self._stop(j, StopReason.PREEMPTED, save=cost_ms <= 0)
        if code == JobCode.PENDING and self._held[j]:
            return self._stop(j, self._lost, save=False)
        if code == JobCode.PENDING:
            # A new job, perhaps in the row of one that is forgotten, whose id may be used again.
            self._last_run = max(self._last_run, int(self._runs[j]))
            self._runs[j] = self._last_run
            self._lost_ms[j] = 0
            self._migrations[j] = 0
        elif code == JobCode.SCALING:
            self._scaling[j] = True
        elif code == JobCode.COMPLETED:
            self._held[j] = False
        return None

    def _stop(self, j: int, reason: StopReason, *, save: bool) -> StopJob:
        self._held[j] = False
        run: Any = self._state.job[0, j]
        lost_ms = int(run["lost_ms"] - self._lost_ms[j])
        self._lost_ms[j] = run["lost_ms"]
        return StopJob(
            job_id=self._name(j),
            run=int(self._runs[j]),
            reason=reason,
            progress_ms=int(run["progress_ms"]),
            lost_ms=lost_ms,
            save=save,
        )

    def _start(self, j: int) -> StartJob:
        self._runs[j] += 1
        self._held[j] = True
        run: Any = self._state.job[0, j]
        return StartJob(
            job_id=self._name(j),
            run=int(self._runs[j]),
            spec=self._engine.jobs.specs[self._name(j)],
            workers=self._engine.workers_of(self._name(j)),
            start_ms=int(run["start_ms"]),
            restart_ms=int(run["work_start_ms"]) - int(run["start_ms"]),
            progress_ms=int(run["progress_ms"]),
            speed_milli=int(run["speed_milli"]),
        )

    def _regroup(self, j: int) -> RegroupJob:
        self._scaling[j] = False
        run: Any = self._state.job[0, j]
        moved = bool(run["migrations"] > self._migrations[j])
        self._migrations[j] = run["migrations"]
        return RegroupJob(
            job_id=self._name(j),
            run=int(self._runs[j]),
            spec=self._engine.jobs.specs[self._name(j)],
            workers=self._engine.workers_of(self._name(j)),
            resume_ms=int(run["work_start_ms"]),
            progress_ms=int(run["progress_ms"]) + int(run["unsaved_ms"]),
            speed_milli=int(run["speed_milli"]),
            moved=moved,
        )

    def _name(self, j: int) -> str:
        return self._engine.jobs.index.ids[j]
