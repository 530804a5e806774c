"""Ticks of services and a fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.kernels.state.codes import NO_CHANGE_MS
from orchestrator.messages import FleetSeen, ServiceSeen, Sizing, Tick
from tests.engine.builders import node

__all__ = ["fleet", "seen", "sizing", "tick"]


def sizing(**fields: Any) -> Sizing:
    """From one to four units of ten each, without steps and windows."""
    return replace(Sizing(10.0, 0.7, 0.1, 1, 4, 0, 0, 0, 0), **fields)


def seen(**fields: Any) -> ServiceSeen:
    """A service ``chat`` that got five requests a second and has two replicas."""
    one = ServiceSeen("chat", 1, 100.0, 1000.0, sizing(), 5.0, 5.0, 120.0, 0.0, 0.0, 2, 0)
    return replace(one, **fields)


def fleet(**fields: Any) -> FleetSeen:
    """Two nodes can be ordered, and one given up."""
    found = FleetSeen(node("rented"), 0, 2, 1, sizing(unit_capacity=4000.0), NO_CHANGE_MS, 0)
    return replace(found, **fields)


def tick(**fields: Any) -> Tick:
    """A tick of a minute."""
    return replace(Tick(60_000, (seen(),), fleet()), **fields)
