"""Carry out a plan on a row of cluster state: all of it, or nothing.

The one way for it: the live engine does it, and so does a rollout that evaluates a policy. Where a
plan leaves the place of a job open, the job's own preference decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.records import ShownFleet
from orchestrator.errors import InvariantError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.cycle import OPEN_PLACE, Desk, carry_out, make_desk, wished_place
from orchestrator.kernels.run.rows import settle
from orchestrator.kernels.state.codes import ActionKind, JobCode, Placement, Reason, Status
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.messages import Action, PlaceJob, Plan, ResizeJob, Wait, to_code

__all__ = [
    "MOST_REFUSALS",
    "PlanExecutor",
    "Preference",
    "late_workers",
    "no_preference",
    "short_jobs",
]


MOST_REFUSALS = 3
"""Plans that a policy may have refused at one decision point; after one more it is made to wait."""


@dataclass(frozen=True)
class Preference:
    """Where jobs go if nobody else minds: the topology-aware ones close together.

    Into the narrowest domain that holds them. Several whole GPUs go to one node if any holds them
    all, and there to one with the best links between its GPUs, of those to the one with least free.

    Parameters
    ----------
    aware : ndarray of bool, shape [>= jobs]
        Which jobs are topology-aware.
    links : ndarray of uint8, shape [>= nodes]
        How good each node's links are: ``NodeSpec.link_rank``.
    """

    aware: NDArray[np.bool_]
    links: NDArray[np.uint8]

    def __call__(self, state: ClusterState, e: int, j: int) -> int:
        """A ``Placement``, or ``NODE_CHOICE`` and a node."""
        if not self.aware[j]:
            return int(Placement.BEST_FIT)
        return wished_place(state.rows, e, j, make_desk(self.aware, self.links, 1, 1))

    def copy(self) -> Preference:
        """The same as it is now, whatever changes later."""
        return Preference(self.aware.copy(), self.links.copy())

    def desk(self, shape: ClusterShape) -> Desk:
        """What plans for rows of a shape are made and carried out with."""
        return make_desk(self.aware, self.links, shape.jobs, shape.workers)


def no_preference(shape: ClusterShape) -> Preference:
    """Nobody minds: best fit."""
    return Preference(np.zeros(shape.jobs, np.bool_), np.zeros(shape.nodes, np.uint8))


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
    preference : Preference or None, optional
        Where a job goes if a plan leaves that open. None: best fit.

    Attributes
    ----------
    status : Status
        ``DECISION`` if there was something to decide when the row was settled last.
    fleet : ShownFleet or None
        Of a live cluster, which does not change its nodes itself: of a plan that does, this part is
        only found to be legal. None: the row has the fleet in its own table.
    """

    def __init__(
        self,
        state: ClusterState,
        e: int,
        find: Callable[[str], int],
        preference: Preference | None = None,
    ) -> None:
        self.status = Status.DONE
        self.fleet: ShownFleet | None = None
        self._state, self._e, self._find = state, e, find
        self._desk = (preference or no_preference(state.shape)).desk(state.shape)
        self._rehearsal: ClusterState | None = None

    def settle(self) -> None:
        """Serve a commitment, and see whether there is something to decide."""
        self.status = Status(settle(self._state.rows, self._e, self._desk.nodes))

    def act(self, action: Action) -> Reason:
        """Carry out one action, or nothing, and settle nothing; a ``Reason``."""
        rows, e = self._state.rows, self._e
        ((kind, j, value),) = self._table((action,)).tolist()
        if value == OPEN_PLACE:
            value = wished_place(rows, e, j, self._desk)
        return Reason(entry.commit(rows, e, kind, j, value, self._desk.nodes))

    def carry_out(
        self,
        plan: Plan,
        make_room: Callable[[int], int] | None = None,
        *,
        rehearsed: bool = False,
    ) -> Reason:
        """Carry out a plan, or nothing of it: one of several actions is rehearsed on a copy first.

        Parameters
        ----------
        plan : Plan
        make_room : callable or None, optional
            Told how many actions are done, it reads the row's effects, if need be, and says how
            many there may be in all before it has to be called again; None: nobody reads them.
        rehearsed : bool, optional
            Whether the plan is known to be legal as the row is.

        Returns
        -------
        Reason
            ``OK``, or why the first action that was refused was.
        """
        actions = self._table(plan.actions or (Wait(),))
        changes = actions[:, 0] == ActionKind.CAPACITY
        if self.fleet is not None and changes.any():
            reason = self._rehearse(actions, self.fleet)
            if reason != Reason.OK:
                return reason
            actions, rehearsed = actions[~changes], False
        if len(actions) > 1 and not rehearsed:
            reason = self._rehearse(actions)
            if reason != Reason.OK:
                return reason
        done = 0
        while done < len(actions):
            effects = -1 if make_room is None else make_room(done)
            rows, e = self._state.rows, self._e
            count, code, status = carry_out(rows, e, actions, done, effects, self._desk)
            if count > done:
                self.status = Status(status)
            done = count
            if code != Reason.OK and done > 0:
                raise InvariantError(f"{Reason(code).name} of action {done} of a rehearsed plan")
            if code != Reason.OK:
                return Reason(code)
        return Reason.OK

    def _table(self, actions: Sequence[Action]) -> NDArray[np.int64]:
        """Actions as kernels take them, int64 [n, 3]."""
        rows = []
        for action in actions:
            kind, j, value = to_code(action, self._find)
            if isinstance(action, PlaceJob) and action.generator is None:
                value = OPEN_PLACE
            elif kind == ActionKind.SERVICE:
                j = self._service_of(j)
            rows.append((int(kind), j, value))
        return np.array(rows, np.int64).reshape(-1, 3)

    def _service_of(self, j: int) -> int:
        """Number of the service whose replicas are a job's workers; -1: there is none."""
        count = int(self._state.rows[self._e]["num_services"])
        found = np.flatnonzero(self._state.service[self._e, :count]["job"] == j)
        return int(found[0]) if len(found) else -1

    def _rehearse(self, actions: NDArray[np.int64], fleet: ShownFleet | None = None) -> Reason:
        if self._rehearsal is None:
            self._rehearsal = allocate(replace(self._state.shape, envs=1, log=0, effects=0))
        copy = self._rehearsal
        entry.copy_row(self._state.rows, self._e, copy.rows, 0)
        if fleet is not None:
            fleet.show(copy)
        return Reason(carry_out(copy.rows, 0, actions, 0, -1, self._desk)[1])
