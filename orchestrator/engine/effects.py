"""What a row's effects are called when a runtime is told of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.tables import JobTable, NodeTable
from orchestrator.errors import InvariantError
from orchestrator.kernels.state.codes import EffectKind
from orchestrator.kernels.state.row import ClusterState
from orchestrator.messages import (
    Effect,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
    WorkerPlacement,
)

__all__ = ["EffectReader", "placements"]


_STOPS = {  # why, and whether the job is to be saved first
    EffectKind.STOP: (StopReason.PREEMPTED, False),
    EffectKind.SAVE_AND_STOP: (StopReason.PREEMPTED, True),
    EffectKind.INTERRUPT: (StopReason.INTERRUPTED, False),
}


class EffectReader:
    """Turns the effects of a row that were not read before into messages, in their order.

    Parameters
    ----------
    state : ClusterState
        State of one cluster, with a ring for effects.
    jobs, nodes : JobTable, NodeTable
        Who is in it.
    """

    def __init__(self, state: ClusterState, jobs: JobTable, nodes: NodeTable) -> None:
        self._state = state
        self._jobs = jobs
        self._nodes = nodes
        self._read = int(state.rows[0]["effect_count"])

    @property
    def room(self) -> int:
        """Effects that may still come before one that was not read is lost."""
        return self._state.shape.effects - (self._count() - self._read)

    def read(self) -> tuple[Effect, ...]:
        """The effects that came since the last call."""
        if self.room < 0:
            raise InvariantError(f"{-self.room} effects were overwritten before they were read")
        first, self._read = self._read, self._count()
        ring = self._state.shape.effects
        return tuple(self._message(position % ring) for position in range(first, self._read))

    def _count(self) -> int:
        return int(self._state.rows[0]["effect_count"])

    def _message(self, slot: int) -> Effect:
        record: Any = self._state.effect[0, slot]
        kind, subject = EffectKind(record["kind"]), int(record["subject"])
        if kind == EffectKind.RELEASE:
            return ReleaseNode(self._nodes.index.ids[subject])
        job_id = self._jobs.index.ids[subject]
        run = self._jobs.runs_before(subject) + int(record["run"])
        cost_ms, progress_ms = int(record["cost_ms"]), int(record["progress_ms"])
        if kind == EffectKind.SAVE:
            return SaveCheckpoint(job_id, run, cost_ms, progress_ms)
        if kind in _STOPS:
            reason, save = _STOPS[kind]
            return StopJob(job_id, run, reason, progress_ms, lost_ms=cost_ms, save=save)
        spec, time_ms = self._jobs.specs[job_id], int(record["time_ms"])
        workers = placements(self._state.effect_worker[0, slot, : record["workers"]], self._nodes)
        speed = int(record["speed_milli"])
        if kind == EffectKind.START:
            return StartJob(job_id, run, spec, workers, time_ms, cost_ms, progress_ms, speed)
        resume_ms, moved = time_ms + cost_ms, kind == EffectKind.MOVE
        return RegroupJob(job_id, run, spec, workers, resume_ms, progress_ms, speed, moved)


def placements(workers: NDArray[np.void], nodes: NodeTable) -> tuple[WorkerPlacement, ...]:
    """Where workers (WORKER_DTYPE) are, as runtimes are told."""
    places = []
    for place in workers:
        mask = int(place["devices"])
        gpus = tuple(g for g in range(mask.bit_length()) if mask >> g & 1)
        places.append(WorkerPlacement(nodes.index.ids[int(place["node"])], gpus))
    return tuple(places)
