"""Gymnasium environments over the orchestrator's engine, and the workloads that they play.

Importing this package registers ``quartermaster/JobOrdering-v0``, ``quartermaster/Cluster-v0``,
``quartermaster/Placement-v0`` and ``quartermaster/Autoscaling-v0``. The public names stand in
``__init__.pyi`` and are loaded when they are first used; everything else is private and may move.
"""

import gymnasium
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

for _name, _entry in (
    ("JobOrdering", "job_ordering"),
    ("Cluster", "cluster"),
    ("Placement", "placement"),
    ("Autoscaling", "autoscaling"),
):
    gymnasium.register(
        id=f"quartermaster/{_name}-v0",
        entry_point=f"envs.gym:{_entry}_env",
        vector_entry_point=f"envs.gym:{_entry}_vector_env",
        # The checker copies and compares every observation; tests run it explicitly.
        disable_env_checker=True,
    )
