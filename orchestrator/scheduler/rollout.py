"""Play a policy on a row of cluster state, without the orchestrator around it: for evaluation.

The decision points, snapshots and legality are the engine's, and so are the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import IllegalActionError
from orchestrator.kernels import entry
from orchestrator.kernels.codes import NO_JOB, ActionKind, Reason, Status
from orchestrator.kernels.state import ClusterState, allocate
from orchestrator.kernels.transition import live
from orchestrator.messages import Action, MigrateJob, PlaceJob, Plan, ResizeJob, Wait
from orchestrator.ports import Policy
from orchestrator.scheduler.snapshot import Snapshot

__all__ = ["Rollout", "rollout", "snapshot_of"]

_MOST_PLANS = 1_000_000
_MOST_REFUSALS = 3


@dataclass(frozen=True)
class Rollout:
    """What came of playing a row to its end.

    Parameters
    ----------
    plans : int
        Times the policy was asked.
    actions : int
        Actions carried out, waiting included.
    refused : int
        Plans that were refused.
    """

    plans: int
    actions: int
    refused: int


def snapshot_of(
    state: ClusterState,
    e: int = 0,
    job_ids: Sequence[str] | None = None,
    node_ids: Sequence[str] | None = None,
) -> Snapshot:
    """A copy of row ``e`` for a policy.

    Parameters
    ----------
    state : ClusterState
    e : int, optional
        Row.
    job_ids, node_ids : sequence of str, optional
        Names; None: ``job-0``, ``job-1``, ... and ``node-0``, ...
    """
    copy = allocate(replace(state.shape, envs=1, log=1))
    entry.copy_row(state.rows, e, copy.rows, 0)
    row = state.rows[e]
    jobs = tuple(job_ids or (f"job-{j}" for j in range(int(row["num_jobs"]))))
    nodes = tuple(node_ids or (f"node-{n}" for n in range(int(row["num_nodes"]))))
    return Snapshot(copy, jobs, nodes)


def rollout(state: ClusterState, policy: Policy, e: int = 0) -> Rollout:
    """Play row ``e``, just begun, to its end under a policy.

    A plan is carried out whole or, if any part of it is refused, not at all; a policy whose plans
    are refused four times at one point is made to wait there, as in the orchestrator.

    Parameters
    ----------
    state : ClusterState
        Changed by this.
    policy : Policy
    e : int, optional
        Row.

    Raises
    ------
    IllegalActionError
        If the policy goes on for a million plans: it decides without end.
    """
    player = _Player(state, e)
    plans = refused = here = 0
    while entry.advance(state.rows, e, player.scratch) == Status.DECISION:
        point = int(state.rows[e]["point"])
        plan = policy.decide(player.snapshot())
        plans += 1
        if plans > _MOST_PLANS:
            raise IllegalActionError("rollout: the policy decides without end; let it Wait")
        if player.carry_out(plan):
            continue
        refused += 1
        here = here + 1 if player.refused_at == point else 1
        player.refused_at = point
        if here > _MOST_REFUSALS:
            player.carry_out(Plan((Wait(),)))
    return Rollout(plans, player.actions, refused)


class _Player:
    """Carries plans out on a row."""

    def __init__(self, state: ClusterState, e: int) -> None:
        self.state, self.e = state, e
        self.scratch: NDArray[np.int32] = np.empty(state.shape.workers, np.int32)
        self.actions = 0
        self.refused_at = -1
        self._rehearsal = allocate(replace(state.shape, envs=1, log=1))
        row: Any = state.rows[e]
        self._jobs = tuple(f"job-{j}" for j in range(int(row["num_jobs"])))
        self._nodes = tuple(f"node-{n}" for n in range(int(row["num_nodes"])))
        self._index = {name: j for j, name in enumerate(self._jobs)}

    def snapshot(self) -> Snapshot:
        """The row as it is."""
        return snapshot_of(self.state, self.e, self._jobs, self._nodes)

    def carry_out(self, plan: Plan) -> bool:
        """Carry a plan out, or nothing of it."""
        actions = plan.actions or (Wait(),)
        if len(actions) > 1:
            entry.copy_row(self.state.rows, self.e, self._rehearsal.rows, 0)
            if not self._play(self._rehearsal.rows, 0, actions):
                return False
        done = self._play(self.state.rows, self.e, actions)
        self.actions += len(actions) if done else 0
        return done

    def _play(self, rows: NDArray[np.void], e: int, actions: Sequence[Action]) -> bool:
        for action in actions:
            if isinstance(action, Wait):
                live.wait(rows, e)  # if there is nothing to wait for, the episode ends
                return True
            kind, j, value = self._code(action)
            if entry.commit(rows, e, int(kind), j, value, self.scratch) != Reason.OK:
                return False
            live.settle(rows, e, self.scratch)
        return True

    def _code(self, action: Action) -> tuple[ActionKind, int, int]:
        """An action as kernels take it."""
        assert not isinstance(action, Wait)
        j = self._index.get(action.job_id, NO_JOB)
        if isinstance(action, PlaceJob):
            return ActionKind.PLACE, j, int(action.generator)
        if isinstance(action, ResizeJob):
            return ActionKind.RESIZE, j, action.workers
        if isinstance(action, MigrateJob):
            return ActionKind.MIGRATE, j, int(action.generator)
        return ActionKind.PREEMPT, j, 0
