"""Live runs of small real jobs on this machine: one that lasts, simulated ones, replays."""

from __future__ import annotations

from agents.live.decisions import ReplayRun, run_replay
from agents.live.draw import draw_jobs
from agents.live.fidelity import FidelityRun, run_fidelity
from agents.live.script import LiveRun
from agents.live.show import run_live
from agents.live.soak import SoakRun, run_soak

__all__ = [
    "FidelityRun",
    "LiveRun",
    "ReplayRun",
    "SoakRun",
    "draw_jobs",
    "run_fidelity",
    "run_live",
    "run_replay",
    "run_soak",
]
