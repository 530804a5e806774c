"""Gymnasium environments over the orchestrator's engine.

Importing this package registers ``quartermaster/JobOrdering-v0``, ``quartermaster/Cluster-v0``,
``quartermaster/Placement-v0`` and ``quartermaster/Autoscaling-v0``.
"""

from __future__ import annotations

import gymnasium

from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
from envs.reward import RewardConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.single import SchedulingEnv
from envs.vector import SchedulingVectorEnv

__all__ = [
    "AUTOSCALING",
    "CLUSTER",
    "JOB_ORDERING",
    "PLACEMENT",
    "EnvConfig",
    "RewardConfig",
    "Scenario",
    "SchedulingEnv",
    "SchedulingVectorEnv",
    "Session",
]

for _name, _entry in (
    ("JobOrdering", "job_ordering"),
    ("Cluster", "cluster"),
    ("Placement", "placement"),
    ("Autoscaling", "autoscaling"),
):
    gymnasium.register(
        id=f"quartermaster/{_name}-v0",
        entry_point=f"envs.single:{_entry}_env",
        vector_entry_point=f"envs.vector:{_entry}_vector_env",
        # The checker copies and compares every observation; tests run it explicitly.
        disable_env_checker=True,
    )
