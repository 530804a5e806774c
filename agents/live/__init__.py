"""A live run of small real jobs on this machine, one agent of which is lost on the way."""

from __future__ import annotations

from agents.live.draw import draw_jobs
from agents.live.script import LiveRun
from agents.live.show import run_live

__all__ = ["LiveRun", "draw_jobs", "run_live"]
