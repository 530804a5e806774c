"""Runtimes carry out the engine's effects; provisioners deliver nodes."""

from __future__ import annotations

from orchestrator.runtimes.costs import Conduct, RuntimeCosts
from orchestrator.runtimes.discovery import discover_node
from orchestrator.runtimes.local import LocalAgents
from orchestrator.runtimes.process import ProcessRuntime
from orchestrator.runtimes.provisioner import SimulatedProvisioner
from orchestrator.runtimes.simulated import SimulatedRuntime

__all__ = [
    "Conduct",
    "LocalAgents",
    "ProcessRuntime",
    "RuntimeCosts",
    "SimulatedProvisioner",
    "SimulatedRuntime",
    "discover_node",
]
