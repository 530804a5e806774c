"""Gymnasium environments over the orchestrator's engine, and the workloads that they play.

Importing this package registers ``quartermaster/JobOrdering-v0``, ``quartermaster/Cluster-v0``,
``quartermaster/Placement-v0`` and ``quartermaster/Autoscaling-v0``; where nothing imports it,
``gymnasium.make("envs:quartermaster/Cluster-v0")`` does. The public names stand in
``__init__.pyi`` and are loaded when they are first used; everything else is private and may move.
"""

import gymnasium
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def register_environments() -> None:
    """Register the environments with Gymnasium, if they are not yet.

    It is what the entry point group ``gymnasium.envs`` names, for whoever still reads that.
    """
    for name, entry in (
        ("JobOrdering", "job_ordering"),
        ("Cluster", "cluster"),
        ("Placement", "placement"),
        ("Autoscaling", "autoscaling"),
    ):
        env_id = f"quartermaster/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point=f"envs.gym.single:{entry}_env",
                vector_entry_point=f"envs.gym.vector:{entry}_vector_env",
                # The checker copies and compares every observation; tests run it explicitly.
                disable_env_checker=True,
            )


register_environments()
