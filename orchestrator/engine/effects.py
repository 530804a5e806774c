"""What a row's effects are called when a runtime is told of them."""

from __future__ import annotations

from functools import lru_cache

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


# By number: looking a member up, for each effect, costs as much as all the rest of it.
_RELEASE, _SAVE, _START, _MOVE, _INTERRUPT = (
    int(EffectKind[name]) for name in ("RELEASE", "SAVE", "START", "MOVE", "INTERRUPT")
)


_STOPS = {  # why, and whether the job is to be saved first
    int(EffectKind.STOP): (StopReason.PREEMPTED, False),
    int(EffectKind.SAVE_AND_STOP): (StopReason.PREEMPTED, True),
    int(EffectKind.INTERRUPT): (StopReason.INTERRUPTED, False),
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

    def until(self, room: int) -> int:
        """Effects that there may be in all while there is still so much room."""
        return self._state.shape.effects + self._read - room

    def read(self, lost: StopReason = StopReason.INTERRUPTED) -> tuple[Effect, ...]:
        """The effects that came since the last call; ``lost``: why workers were, if some were."""
        if self.room < 0:
            raise InvariantError(f"{-self.room} effects were overwritten before they were read")
        first, self._read = self._read, self._count()
        slots = np.arange(first, self._read) % self._state.shape.effects
        told, names = self._state.effect[0, slots], self._state.effect.dtype.names or ()
        workers = self._state.effect_worker[0]
        return tuple(
            self._message(dict(zip(names, values, strict=True)), workers[slot], lost)
            for slot, values in zip(slots.tolist(), told.tolist(), strict=True)
        )

    def _count(self) -> int:
        return int(self._state.rows[0]["effect_count"])

    def _message(
        self, record: dict[str, int], workers: NDArray[np.void], lost: StopReason
    ) -> Effect:
        kind, subject = record["kind"], record["subject"]
        if kind == _RELEASE:
            return ReleaseNode(self._nodes.index.ids[subject])
        job_id = self._jobs.index.ids[subject]
        run = self._jobs.runs_before(subject) + record["run"]
        cost_ms, progress_ms = record["cost_ms"], record["progress_ms"]
        if kind == _SAVE:
            return SaveCheckpoint(job_id, run, cost_ms, progress_ms)
        if kind in _STOPS:
            reason, save = _STOPS[kind] if kind != _INTERRUPT else (lost, False)
            return StopJob(job_id, run, reason, progress_ms, lost_ms=cost_ms, save=save)
        spec, time_ms = self._jobs.specs[job_id], record["time_ms"]
        places = placements(workers[: record["workers"]], self._nodes)
        speed = record["speed_milli"]
        if kind == _START:
            return StartJob(job_id, run, spec, places, time_ms, cost_ms, progress_ms, speed)
        resume_ms, moved = time_ms + cost_ms, kind == _MOVE
        return RegroupJob(job_id, run, spec, places, resume_ms, progress_ms, speed, moved)


@lru_cache(maxsize=4096)
def _gpus(mask: int) -> tuple[int, ...]:
    """Indices of the devices in a mask."""
    return tuple(g for g in range(mask.bit_length()) if mask >> g & 1)


def placements(workers: NDArray[np.void], nodes: NodeTable) -> tuple[WorkerPlacement, ...]:
    """Where workers (WORKER_DTYPE) are, as runtimes are told."""
    ids = nodes.index.ids
    return tuple(WorkerPlacement(ids[node], _gpus(mask)) for mask, node in workers.tolist())
