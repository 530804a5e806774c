"""Play every window of a session once, greedily."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.task import BatchPolicy
from envs.session import Session
from orchestrator.errors import IllegalActionError
from orchestrator.kernels.codes import Reason

__all__ = ["bounded_slowdowns", "play_policy"]


def play_policy(policy: BatchPolicy, session: Session) -> None:
    """Play window ``e`` of the session in row ``e``, all to their ends.

    Parameters
    ----------
    policy : BatchPolicy
    session : Session
        With as many rows as windows; its state and buffers hold the outcome.
    """
    session.reset(windows=np.arange(session.envs))
    buffers, rows = session.buffers, session.state.rows
    while True:
        live = np.flatnonzero(rows["done"] == 0)
        if len(live) == 0:
            return
        seen = session.observation()
        actions = np.zeros(session.envs, np.int64)
        picked = {name: part[live] for name, part in seen.items()}
        actions[live] = policy.actions(picked, picked["action_mask"].astype(np.bool_))
        session.step(actions)
        refused = np.flatnonzero((buffers.reason != Reason.OK) & (rows["done"] == 0))
        if len(refused) > 0:
            raise IllegalActionError(f"policy '{policy.name}' chose an action its mask forbids")


def bounded_slowdowns(session: Session) -> NDArray[np.float64]:
    """Mean bounded slowdown of each row's episode, which must be over, [E]."""
    rows = session.state.rows
    mean: NDArray[np.float64] = 1.0 + rows["settled_excess"] / rows["num_jobs"]
    return mean
