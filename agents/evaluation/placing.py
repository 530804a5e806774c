"""Play an order of arrivals under a policy that chooses nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agents.task import BatchPolicy
from envs.config import EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import FOREVER_MS, JobCode

__all__ = ["place_by_policy"]


def place_by_policy(
    policy: BatchPolicy, config: EnvConfig, trace: Trace, arrivals: NDArray[np.void]
) -> NDArray[np.bool_]:
    """Let pods arrive one after the other, and a policy choose a node for each; nobody leaves.

    Parameters
    ----------
    policy : BatchPolicy
    config : EnvConfig
        The environment that it sees; one that chooses nodes.
    trace : Trace
        The cluster, and the pods that are typical of it.
    arrivals : REQUEST_DTYPE [pods]

    Returns
    -------
    bool [pods]
        Who found a node.

    Raises
    ------
    ConfigurationError
        If the environment leaves no choice of nodes.
    IllegalActionError
        If the policy chooses an action that its mask forbids.
    """
    if not (config.choose_node and config.turn_away):
        raise ConfigurationError(
            "placing: the environment needs 'choose_node' and 'turn_away'; give one like Placement"
        )
    requests = arrivals.copy()
    requests["duration_ms"] = requests["requested_ms"] = FOREVER_MS
    order = replace(trace, requests=requests)
    config = replace(config, episode_jobs=len(requests), step_limit=0)
    scenario = Scenario(pods=trace.requests)
    session = Session(order, config, 1, np.zeros(1, np.int64), scenario=scenario)
    session.reset()
    while not session.buffers.terminated[0]:
        seen = session.observation()
        session.step(policy.actions(seen, seen["action_mask"].astype(np.bool_)))
        session.require_legal()
    placed: NDArray[np.bool_] = session.state.job[0]["state"] == JobCode.RUNNING
    return placed
