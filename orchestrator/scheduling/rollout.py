"""Play a policy on a row of cluster state, without the orchestrator around it: for evaluation.

The decision points, snapshots and legality are the engine's, and so are the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.engine.plans import MOST_REFUSALS, PlanExecutor
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import IllegalActionError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NO_JOB, Reason, Status
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.messages import Plan, Wait
from orchestrator.ports import Policy, WakefulPolicy

__all__ = ["Rollout", "rollout", "snapshot_of"]


_MOST_PLANS = 1_000_000


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
    copy = allocate(replace(state.shape, envs=1, log=0, effects=0))
    entry.copy_row(state.rows, e, copy.rows, 0)
    row = state.rows[e]
    jobs = tuple(job_ids or (f"job-{j}" for j in range(int(row["num_jobs"]))))
    nodes = tuple(node_ids or (f"node-{n}" for n in range(int(row["num_nodes"]))))
    return Snapshot(copy, jobs, nodes)


def rollout(state: ClusterState, policy: Policy, e: int = 0) -> Rollout:
    """Play row ``e``, just begun, to its end under a policy.

    A plan is carried out whole or, if any part of it is refused, not at all; a policy whose plans
    are refused four times at one point is made to wait there, as in the orchestrator. One that
    keeps :class:`orchestrator.ports.WakefulPolicy` is asked again when it wants to be.

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
    jobs = tuple(f"job-{j}" for j in range(int(state.rows[e]["num_jobs"])))
    index = {name: j for j, name in enumerate(jobs)}
    executor = PlanExecutor(state, e, lambda name: index.get(name, NO_JOB))
    nodes = np.empty(state.shape.workers, np.int32)
    plans = actions = refused = here = 0
    refused_at = -1
    while entry.advance(state.rows, e, nodes) == Status.DECISION:
        point = int(state.rows[e]["point"])
        plan = policy.decide(snapshot_of(state, e, jobs))
        plans += 1
        if plans > _MOST_PLANS:
            raise IllegalActionError("rollout: the policy decides without end; let it Wait")
        if executor.carry_out(plan) == Reason.OK:
            actions += max(len(plan.actions), 1)
            if not state.rows[e]["point_open"] and isinstance(policy, WakefulPolicy):
                _wake(state, policy, e)
            continue
        refused += 1
        here = here + 1 if refused_at == point else 1
        refused_at = point
        if here > MOST_REFUSALS:
            executor.carry_out(Plan((Wait(),)))
            actions += 1
    return Rollout(plans, actions, refused)


def _wake(state: ClusterState, policy: WakefulPolicy, e: int) -> None:
    """Ask a policy that waits once more, if it wants so and nothing happens before."""
    if policy.wake_ms is not None and not state.rows[e]["commitment"]:
        entry.wake(state.rows, e, policy.wake_ms)
