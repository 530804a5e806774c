"""A live orchestrator with everything that belongs to it, in one process: `quartermaster serve`."""

from __future__ import annotations

from agents.serve.settings import ServeSettings
from agents.serve.whole import Serving, serve, serving

__all__ = ["ServeSettings", "Serving", "serve", "serving"]
