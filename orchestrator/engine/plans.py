"""Carry out a plan on a row of cluster state: all of it, or nothing.

The one way for it: the live engine does it, and so does a rollout that evaluates a policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.rows import settle, wait
from orchestrator.kernels.state.codes import Reason, Status
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.messages import Action, Plan, Wait, to_code

__all__ = ["MOST_REFUSALS", "PlanExecutor"]


MOST_REFUSALS = 3
"""Plans that a policy may have refused at one decision point; after one more it is made to wait."""


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

    Attributes
    ----------
    status : Status
        ``DECISION`` if there was something to decide when the row was settled last.
    """

    def __init__(self, state: ClusterState, e: int, find: Callable[[str], int]) -> None:
        self.status = Status.DONE
        self._state, self._e, self._find = state, e, find
        self._scratch = np.empty(state.shape.workers, np.int32)
        self._rehearsal: ClusterState | None = None

    def settle(self) -> None:
        """Serve a commitment, and see whether there is something to decide."""
        self.status = self._settle(self._state.rows, self._e)

    def act(self, action: Action) -> Reason:
        """Carry out one action, or nothing; a ``Reason``."""
        return self._act(self._state.rows, self._e, action)

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
        rows = self._rehearsal.rows
        entry.copy_row(self._state.rows, self._e, rows, 0)
        for action in actions:
            reason = self._act(rows, 0, action)
            if reason != Reason.OK:
                return reason
            self._settle(rows, 0)
        return Reason.OK

    def _act(self, rows: NDArray[np.void], e: int, action: Action) -> Reason:
        if isinstance(action, Wait):  # legal even where nothing is left to wait for
            wait(rows, e)
            return Reason.OK
        kind, j, value = to_code(action, self._find)
        return Reason(entry.commit(rows, e, int(kind), j, value, self._scratch))

    def _settle(self, rows: NDArray[np.void], e: int) -> Status:
        return Status(settle(rows, e, self._scratch))
