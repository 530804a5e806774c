"""Quartermaster's orchestrator: it runs AI workloads on clusters.

The names below are loaded when they are first used, so that importing a part, the kernels for
example, does not import the whole.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.clock import VirtualClock, WallClock
    from orchestrator.engine.engine import Engine
    from orchestrator.foundations import in_memory
    from orchestrator.kernels.state.row import ClusterShape
    from orchestrator.orchestrator import InfrastructureOrchestrator
    from orchestrator.runtimes import SimulatedRuntime
    from orchestrator.semantics import Semantics
    from orchestrator.types import (
        JobPriority,
        JobSpec,
        JobState,
        NodeSpec,
        ScalingDecision,
        ScalingDirection,
        TenantSpec,
    )

__all__ = [
    "ClusterShape",
    "Engine",
    "InfrastructureOrchestrator",
    "JobPriority",
    "JobSpec",
    "JobState",
    "NodeSpec",
    "ScalingDecision",
    "ScalingDirection",
    "Semantics",
    "SimulatedRuntime",
    "TenantSpec",
    "VirtualClock",
    "WallClock",
    "in_memory",
]

_HOMES = {
    "ClusterShape": "orchestrator.kernels.state.row",
    "Engine": "orchestrator.engine.engine",
    "InfrastructureOrchestrator": "orchestrator.orchestrator",
    "JobPriority": "orchestrator.types",
    "JobSpec": "orchestrator.types",
    "JobState": "orchestrator.types",
    "NodeSpec": "orchestrator.types",
    "ScalingDecision": "orchestrator.types",
    "ScalingDirection": "orchestrator.types",
    "Semantics": "orchestrator.semantics",
    "SimulatedRuntime": "orchestrator.runtimes",
    "TenantSpec": "orchestrator.types",
    "VirtualClock": "orchestrator.clock",
    "WallClock": "orchestrator.clock",
    "in_memory": "orchestrator.foundations",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)
