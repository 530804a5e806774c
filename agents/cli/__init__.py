"""The console script `quartermaster`."""

from __future__ import annotations

from agents.cli.program import main

__all__ = ["main"]
