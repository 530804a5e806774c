"""The runs of a row's jobs, read off its effects: when, on which workers, and how they ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import EffectKind, JobCode, JobKind
from orchestrator.kernels.state.row import ClusterState
from orchestrator.scheduling.log import RingReader

__all__ = ["RUN_DTYPE", "RunEnd", "RunReader", "Runs"]


class RunEnd(IntEnum):
    """How a stretch of a job's run ended."""

    COMPLETED = 0
    PREEMPTED = 1
    """By a policy, or as its node drained; what it held was free once it was saved."""
    INTERRUPTED = 2
    """A node failed under it."""
    RESIZED = 3
    """It went on at once, in the same run, with more workers or fewer."""
    MOVED = 4
    """It went on at once, in the same run, on other nodes."""
    UNFINISHED = 5
    """It has not ended: the job was still running when this was asked."""


RUN_DTYPE = np.dtype(
    [
        ("job", "i8"),  # its index in the row
        ("run", "i8"),  # from 1 on; a stretch with other workers has the same number
        ("start_ms", "i8"),
        ("end_ms", "i8"),
        ("units", "i8"),  # capacity that it held: milli-GPUs, or milli-cores
        ("workers", "i4"),
        ("end", "u1"),  # RunEnd
    ]
)
"""A stretch of a job's run with the same workers in the same places."""


_BEGINS = (EffectKind.START, EffectKind.REGROUP, EffectKind.MOVE)
_ENDS = np.full(len(EffectKind), -1, np.int64)
_ENDS[EffectKind.REGROUP] = RunEnd.RESIZED
_ENDS[EffectKind.MOVE] = RunEnd.MOVED
_ENDS[EffectKind.STOP] = _ENDS[EffectKind.SAVE_AND_STOP] = RunEnd.PREEMPTED
_ENDS[EffectKind.INTERRUPT] = RunEnd.INTERRUPTED


@dataclass(frozen=True)
class Runs:
    """All runs of a row's jobs.

    Parameters
    ----------
    runs : RUN_DTYPE [R]
        By job and time. What a job held over time is exactly this.
    nodes : int32 [N]
        The node of each worker, run after run: as many of each as it has workers.
    devices : uint64 [N]
        The devices of each, as bits.
    """

    runs: NDArray[np.void]
    nodes: NDArray[np.int32]
    devices: NDArray[np.uint64]

    def places_by_job(self) -> dict[int, list[list[int]]]:
        """The nodes of the workers of each run, by job and time."""
        return {
            job: [nodes.tolist() for nodes, _ in places] for job, places in self.of_job().items()
        }

    def of_job(self) -> dict[int, list[tuple[NDArray[np.int32], NDArray[np.uint64]]]]:
        """The nodes and devices of the workers of each run, by job and time."""
        ends = np.cumsum(self.runs["workers"])[:-1]
        places = zip(np.split(self.nodes, ends), np.split(self.devices, ends), strict=True)
        found: dict[int, list[tuple[NDArray[np.int32], NDArray[np.uint64]]]] = {}
        for job, place in zip(self.runs["job"].tolist(), places, strict=False):
            found.setdefault(job, []).append(place)
        return found


class RunReader:
    """Reads what happens to the jobs of rows that have rings for effects.

    Parameters
    ----------
    envs : int
        Rows.
    services : bool, optional
        Whether services have runs, too, which go on until this is asked.
    """

    def __init__(self, envs: int, *, services: bool = False) -> None:
        self._ring = RingReader(envs, "effect_count")
        self._services = services
        self._parts: list[list[tuple[NDArray[np.void], NDArray[np.void]]]] = [
            [] for _ in range(envs)
        ]

    def keep_up(self, state: ClusterState) -> None:
        """Read the rings that are half full of what is new: whoever steps rows calls this."""
        for e in self._ring.behind(state, state.shape.effects):
            self._take(state, e)

    def look(self, state: ClusterState, e: int) -> Runs | None:
        """The runs of row ``e`` since it began.

        Returns
        -------
        Runs or None
            None if its ring was too small, so that they are not known.
        """
        self._take(state, e)
        if not self._ring.complete(e):
            return None
        records, workers = (np.concatenate(part) for part in zip(*self._parts[e], strict=True))
        return _decoded(state, e, records, workers, self._services)

    def finish(self, state: ClusterState, e: int) -> Runs | None:
        """The same, and begin anew with the row."""
        found = self.look(state, e)
        self.forget(e)
        return found

    def forget(self, e: int) -> None:
        """Begin anew with row ``e``: an episode begins in it."""
        self._ring.forget(e)
        self._parts[e] = []

    def _take(self, state: ClusterState, e: int) -> None:
        slots = self._ring.slots(state, e, state.shape.effects)
        records = state.effect[e, slots]
        begins = np.isin(records["kind"], _BEGINS)
        placed = state.effect_worker[e, slots[begins]]
        held = np.arange(placed.shape[1]) < records["workers"][begins, np.newaxis]
        self._parts[e].append((records, placed[held]))


def _decoded(
    state: ClusterState,
    e: int,
    records: NDArray[np.void],
    workers: NDArray[np.void],
    services: bool,
) -> Runs:
    """Runs by the effects of a row, all of them, and the workers of those that place any."""
    row, kind, job = state.rows[e], records["kind"], records["subject"]
    begins = np.isin(kind, _BEGINS)
    first = np.cumsum(np.where(begins, records["workers"], 0)) - records["workers"]
    told = np.flatnonzero(begins | (_ENDS[kind] >= 0))
    if not services:
        told = told[state.request[e, job[told]]["kind"] != JobKind.SERVICE]
    told = told[np.argsort(job[told], kind="stable")]
    last = np.append(np.diff(job[told]) != 0, True)[: len(told)]
    at = np.flatnonzero(begins[told])  # each begins a stretch, that the job's next effect ends
    here, then = told[at], told[np.minimum(at + 1, len(told) - 1)]
    known = state.job[e, job[here]]
    completed = known["state"] == JobCode.COMPLETED
    over = np.where(completed, known["end_ms"], row["now_ms"])
    runs = np.zeros(len(here), RUN_DTYPE)
    runs["job"], runs["run"] = job[here], records["run"][here]
    runs["start_ms"] = records["time_ms"][here]
    runs["end_ms"] = np.where(last[at], over, records["time_ms"][then])
    runs["workers"] = records["workers"][here]
    ask = state.request[e, job[here]]
    each = ask["gpus_per_worker"] * ask["gpu_milli"] if row["unit"] else ask["cpu_milli"]
    runs["units"] = runs["workers"] * each
    stopped = np.where(completed, int(RunEnd.COMPLETED), int(RunEnd.UNFINISHED))
    runs["end"] = np.where(last[at], stopped, _ENDS[kind[then]])
    placed = workers[_ranges(first[here], runs["workers"].astype(np.int64))]
    return Runs(runs, placed["node"].astype(np.int32), placed["devices"])


def _ranges(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers ``first[k]``, ... of ranges of ``count[k]``, one range after the other."""
    before = np.cumsum(count) - count
    numbers: NDArray[np.int64] = np.arange(int(count.sum())) + np.repeat(first - before, count)
    return numbers
