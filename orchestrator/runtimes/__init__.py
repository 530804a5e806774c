"""Runtimes carry out the engine's effects."""

from __future__ import annotations

from orchestrator.runtimes.simulated import SimulatedRuntime

__all__ = ["SimulatedRuntime"]
