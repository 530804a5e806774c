"""Clusters as Gymnasium environments: one at a time, or many in one compiled call per step."""

from envs.gym.making import (
    action_space,
    default_scenario,
    default_trace,
    make_session,
    make_trace,
    observation_space,
    override,
    row_seeds,
)
from envs.gym.single import SchedulingEnv
from envs.gym.states import RowState
from envs.gym.vector import SchedulingVectorEnv

__all__ = [
    "RowState",
    "SchedulingEnv",
    "SchedulingVectorEnv",
    "action_space",
    "default_scenario",
    "default_trace",
    "make_session",
    "make_trace",
    "observation_space",
    "override",
    "row_seeds",
]
