"""Carry out a plan on a row of cluster state: all of it, or nothing.

The one way for it: the live engine does it, and so does a rollout that evaluates a policy. Where a
plan leaves the place of a job open, the job's own preference decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.place.slots import WHOLE
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.rows import settle, wait
from orchestrator.kernels.state.codes import (
    NODE_CHOICE,
    ActionKind,
    JobCode,
    NodeCode,
    Placement,
    Reason,
    Status,
    Topology,
)
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.messages import Action, PlaceJob, Plan, ResizeJob, Wait, to_code

__all__ = [
    "MOST_REFUSALS",
    "PlanExecutor",
    "Preference",
    "close_place",
    "late_workers",
    "short_jobs",
]


MOST_REFUSALS = 3
"""Plans that a policy may have refused at one decision point; after one more it is made to wait."""


def _holders(ask: Any, nodes: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which nodes have room for all workers of a job of whole GPUs, bool [nodes]."""
    workers = int(ask["workers"])
    holds = nodes["state"] == NodeCode.UP
    holds &= nodes["whole_free"] >= workers * int(ask["gpus_per_worker"])
    holds &= nodes["cpu_free_milli"] >= workers * int(ask["cpu_milli"])
    holds &= nodes["memory_free_mib"] >= workers * int(ask["memory_mib"])
    holds &= nodes["gpu_memory_mib"] >= int(ask["gpu_memory_mib"])
    mask = int(ask["model_mask"])
    if mask:
        holds &= (mask >> nodes["model"].astype(np.int64)) & 1 == 1
    return np.asarray(holds)


def close_place(state: ClusterState, e: int, j: int, links: NDArray[np.uint8]) -> int:
    """Where a topology-aware job goes: a ``Placement``, or ``NODE_CHOICE`` and a node.

    Into the narrowest domain that holds it. Several whole GPUs go to one node if any holds them
    all, and there to one with the best links between its GPUs, of those to the one with least free.

    Parameters
    ----------
    state : ClusterState
    e, j : int
        Row, and the job's in its table.
    links : ndarray of uint8, shape [>= nodes]
        How good each node's links are: ``NodeSpec.link_rank``.
    """
    ask: Any = state.request[e, j]
    gang = ask["workers"] > 1
    close = int(Placement.TIGHTEST if gang else Placement.BEST_FIT)
    count = int(state.rows[e]["num_nodes"])
    several = ask["workers"] * ask["gpus_per_worker"] > 1 and ask["gpu_milli"] == WHOLE
    if not several or ask["topology"] == Topology.ISLAND or np.ptp(links[:count]) == 0:
        return close
    nodes = state.node[e, :count]
    holders = np.flatnonzero(_holders(ask, nodes))
    if len(holders) == 0:
        return close
    best = holders[links[holders] == links[holders].max()]
    free = (nodes["cpu_free_milli"][best], nodes["gpu_free_milli"][best])
    return NODE_CHOICE + int(best[np.lexsort(free)[0]])


@dataclass(frozen=True)
class Preference:
    """Where jobs go if nobody else minds: the topology-aware ones close together.

    Parameters
    ----------
    aware : ndarray of bool, shape [>= jobs]
        Which jobs are topology-aware.
    links : ndarray of uint8, shape [>= nodes]
        How good each node's links are.
    """

    aware: NDArray[np.bool_]
    links: NDArray[np.uint8]

    def __call__(self, state: ClusterState, e: int, j: int) -> int:
        """A ``Placement``, or ``NODE_CHOICE`` and a node: see :func:`close_place`."""
        if not self.aware[j]:
            return int(Placement.BEST_FIT)
        return close_place(state, e, j, self.links)


def short_jobs(state: ClusterState, count: int) -> NDArray[np.intp]:
    """Running jobs, of the first ``count``, that did not have to start whole, and did not."""
    asks, runs = state.request[0, :count], state.job[0, :count]
    loose = (asks["gang"] == 0) & (asks["elastic"] != 0) & (runs["state"] == JobCode.RUNNING)
    return np.flatnonzero(loose & (runs["workers_now"] < asks["workers"]))


def late_workers(state: ClusterState, ids: Sequence[str]) -> tuple[ResizeJob, ...]:
    """Workers that join running jobs which did not have to start whole, as far as there is room.

    Nobody joins while a more important job waits, or one of its class that came before, or while
    somebody is being saved: that room is for others.

    Parameters
    ----------
    state : ClusterState
        A copy, of one row; it is spoilt.
    ids : sequence of str
        Jobs by their index.
    """
    asks, runs = state.request[0, : len(ids)], state.job[0, : len(ids)]
    short = short_jobs(state, len(ids))
    if len(short) == 0 or np.any(runs["state"] == JobCode.CHECKPOINTING):
        return ()
    waiting = state.queue[0, : int(state.rows[0]["queue_len"])]["job"]
    turns = [(int(asks["priority"][j]), int(asks["submit_ms"][j])) for j in waiting]
    first = min(turns, default=(255, 0))
    scratch, joined = np.empty(state.shape.workers, np.int32), list[ResizeJob]()
    for j in short[np.lexsort((asks["submit_ms"][short], asks["priority"][short]))]:
        if (int(asks["priority"][j]), int(asks["submit_ms"][j])) >= first:
            break
        # All at once: a job that has just changed its size may have to keep it for a while.
        for workers in range(int(asks["workers"][j]), int(runs["workers_now"][j]), -1):
            resize = int(ActionKind.RESIZE), int(j), workers
            if entry.commit(state.rows, 0, *resize, scratch) == Reason.OK:
                joined.append(ResizeJob(ids[j], workers))
                break
    return tuple(joined)


class PlanExecutor:
    """Carries plans out on a row, and settles what follows from each action.

    Parameters
    ----------
    state : ClusterState
        Changed by this.
    e : int
        Row.
    find : callable
        Index of a job in the row's job table, by its name; ``NO_JOB``: there is none of that name.
    prefer : callable or None, optional
        Where a job goes if a plan leaves that open, by state, row and job; see
        :func:`close_place`. None: best fit.

    Attributes
    ----------
    status : Status
        ``DECISION`` if there was something to decide when the row was settled last.
    """

    def __init__(
        self,
        state: ClusterState,
        e: int,
        find: Callable[[str], int],
        prefer: Callable[[ClusterState, int, int], int] | None = None,
    ) -> None:
        self.status = Status.DONE
        self._state, self._e, self._find, self._prefer = state, e, find, prefer
        self._scratch = np.empty(state.shape.workers, np.int32)
        self._rehearsal: ClusterState | None = None

    def settle(self) -> None:
        """Serve a commitment, and see whether there is something to decide."""
        self.status = self._settle(self._state.rows, self._e)

    def act(self, action: Action) -> Reason:
        """Carry out one action, or nothing; a ``Reason``."""
        return self._act(self._state, self._e, action)

    def carry_out(self, plan: Plan, acted: Callable[[], None] | None = None) -> Reason:
        """Carry out a plan, or nothing of it: one of several actions is rehearsed on a copy first.

        Parameters
        ----------
        plan : Plan
        acted : callable or None, optional
            Called after each action.

        Returns
        -------
        Reason
            ``OK``, or why the first action that was refused was.
        """
        actions = plan.actions or (Wait(),)
        if len(actions) > 1:
            reason = self._rehearse(actions)
            if reason != Reason.OK:
                return reason
        for action in actions:
            reason = self.act(action)
            if reason != Reason.OK:
                return reason
            self.settle()
            if acted is not None:
                acted()
        return Reason.OK

    def _rehearse(self, actions: tuple[Action, ...]) -> Reason:
        if self._rehearsal is None:
            self._rehearsal = allocate(replace(self._state.shape, envs=1, log=0, effects=0))
        copy = self._rehearsal
        entry.copy_row(self._state.rows, self._e, copy.rows, 0)
        for action in actions:
            reason = self._act(copy, 0, action)
            if reason != Reason.OK:
                return reason
            self._settle(copy.rows, 0)
        return Reason.OK

    def _act(self, state: ClusterState, e: int, action: Action) -> Reason:
        if isinstance(action, Wait):  # legal even where nothing is left to wait for
            wait(state.rows, e)
            return Reason.OK
        kind, j, value = to_code(action, self._find)
        undecided = isinstance(action, PlaceJob) and action.generator is None
        if undecided and self._prefer is not None and 0 <= j < state.rows[e]["num_jobs"]:
            value = self._prefer(state, e, j)
        return Reason(entry.commit(state.rows, e, int(kind), j, value, self._scratch))

    def _settle(self, rows: NDArray[np.void], e: int) -> Status:
        return Status(settle(rows, e, self._scratch))
