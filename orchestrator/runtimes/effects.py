"""What the event log's new records ask of a runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.kernels.codes import JobCode, LogKind, NodeCode
from orchestrator.kernels.state import ClusterState
from orchestrator.messages import (
    Effect,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    WorkerPlacement,
)
from orchestrator.resources.tables import JobTable, NodeTable

__all__ = ["EffectReader"]


class EffectReader:
    """Turns records that were written since it last looked into effects, in their order.

    A job starts, or its workers change, at most once between two looks, and it stops at most once
    before that, so the state after the last record still says everything about each of them.

    Parameters
    ----------
    state : ClusterState
        State of one cluster, with its log kept.
    jobs, nodes : JobTable, NodeTable
        Who is in it.

    Attributes
    ----------
    runs : int64 [jobs]
        How often each job has started.
    held : bool [jobs]
        Whether its workers are, or are about to be, in the runtime's hands.
    """

    def __init__(self, state: ClusterState, jobs: JobTable, nodes: NodeTable) -> None:
        self._state = state
        self._jobs = jobs
        self._nodes = nodes
        self._seen = int(state.rows[0]["log_count"])
        self._lost_ms = np.zeros(state.shape.jobs, np.int64)  # so far, by job
        self._migrations = np.zeros(state.shape.jobs, np.int64)  # so far, by job
        self._scaling = np.zeros(state.shape.jobs, np.bool_)  # the next placement is no start
        self.runs = np.zeros(state.shape.jobs, np.int64)
        self.held = np.zeros(state.shape.jobs, np.bool_)

    def read(self) -> tuple[Effect, ...]:
        """The effects of what was recorded since the last call."""
        effects: list[Effect] = []
        count = int(self._state.rows[0]["log_count"])
        for position in range(self._seen, count):
            record = self._state.log[0, position % self._state.shape.log]
            effect = self._effect(record)
            if effect is not None:
                effects.append(effect)
        self._seen = count
        return tuple(effects)

    def _effect(self, record: Any) -> Effect | None:
        kind, subject, value = int(record["kind"]), int(record["subject"]), int(record["value"])
        if kind == LogKind.PLACEMENT:
            return self._regroup(subject) if self._scaling[subject] else self._start(subject)
        if kind == LogKind.NODE_STATE:
            left = value == NodeCode.ABSENT
            return ReleaseNode(self._nodes.slots.ids[subject]) if left else None
        return self._state_change(subject, JobCode(value))

    def _state_change(self, j: int, code: JobCode) -> Effect | None:
        run: Any = self._state.job[0, j]
        cost_ms = int(self._state.request[0, j]["checkpoint_ms"])
        if code == JobCode.CHECKPOINTING and cost_ms > 0:
            progress_ms = int(run["progress_ms"]) + int(run["unsaved_ms"])
            return SaveCheckpoint(self._jobs.slots.ids[j], int(self.runs[j]), cost_ms, progress_ms)
        if code == JobCode.PREEMPTED:
            return self._stop(j, "preempted", save=cost_ms <= 0)
        if code == JobCode.PENDING and self.held[j]:
            return self._stop(j, "interrupted", save=False)
        if code == JobCode.PENDING:
            self.runs[j] = 0  # a new job, perhaps in the row of one that is forgotten
            self._lost_ms[j] = 0
            self._migrations[j] = 0
        elif code == JobCode.SCALING:
            self._scaling[j] = True
        elif code == JobCode.COMPLETED:
            self.held[j] = False
        return None

    def _stop(self, j: int, reason: str, *, save: bool) -> StopJob:
        self.held[j] = False
        run: Any = self._state.job[0, j]
        lost_ms = int(run["lost_ms"] - self._lost_ms[j])
        self._lost_ms[j] = run["lost_ms"]
        return StopJob(
            job_id=self._jobs.slots.ids[j],
            run=int(self.runs[j]),
            reason=reason,
            progress_ms=int(run["progress_ms"]),
            lost_ms=lost_ms,
            save=save,
        )

    def _start(self, j: int) -> StartJob:
        self.runs[j] += 1
        self.held[j] = True
        run: Any = self._state.job[0, j]
        job_id = self._jobs.slots.ids[j]
        return StartJob(
            job_id=job_id,
            run=int(self.runs[j]),
            spec=self._jobs.specs[job_id],
            workers=self.workers(j),
            start_ms=int(run["start_ms"]),
            restart_ms=int(run["work_start_ms"]) - int(run["start_ms"]),
            progress_ms=int(run["progress_ms"]),
            speed_milli=int(run["speed_milli"]),
        )

    def _regroup(self, j: int) -> RegroupJob:
        self._scaling[j] = False
        run: Any = self._state.job[0, j]
        job_id = self._jobs.slots.ids[j]
        moved = bool(run["migrations"] > self._migrations[j])
        self._migrations[j] = run["migrations"]
        return RegroupJob(
            job_id=job_id,
            run=int(self.runs[j]),
            spec=self._jobs.specs[job_id],
            workers=self.workers(j),
            resume_ms=int(run["work_start_ms"]),
            progress_ms=int(run["progress_ms"]) + int(run["unsaved_ms"]),
            speed_milli=int(run["speed_milli"]),
            moved=moved,
        )

    def workers(self, j: int) -> tuple[WorkerPlacement, ...]:
        """Where the workers of a job are."""
        count = int(self._state.job[0, j]["workers_now"])
        return tuple(self._worker(j, w) for w in range(count))

    def _worker(self, j: int, w: int) -> WorkerPlacement:
        place: Any = self._state.worker[0, j, w]
        mask = int(place["devices"])
        gpus = tuple(g for g in range(mask.bit_length()) if mask >> g & 1)
        return WorkerPlacement(self._nodes.slots.ids[int(place["node"])], gpus)
