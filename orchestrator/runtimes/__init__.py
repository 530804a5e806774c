"""Runtimes carry out the engine's effects; provisioners deliver nodes."""

from __future__ import annotations

from orchestrator.runtimes.provisioner import SimulatedProvisioner
from orchestrator.runtimes.simulated import SimulatedRuntime

__all__ = ["SimulatedProvisioner", "SimulatedRuntime"]
