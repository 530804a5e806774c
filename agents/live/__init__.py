"""Live runs of small real jobs on this machine: one that loses an agent, and one that lasts."""

from __future__ import annotations

from agents.live.script import LiveRun
from agents.live.show import run_live
from agents.live.soak import SoakRun, run_soak

__all__ = ["LiveRun", "SoakRun", "run_live", "run_soak"]
