"""Horizontal scaling: how many nodes, or replicas of a service, a demand needs."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.autoscaler.cooldown import CooldownManager
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.scaling import SCALING_DTYPE, scale_one
from orchestrator.types import ScalingDecision, ScalingDirection

__all__ = ["HorizontalScaler", "ScalingPlan"]


@dataclass(frozen=True)
class ScalingPlan:
    """How a fleet or a service is scaled.

    Parameters
    ----------
    unit_capacity : float
        Demand that one node or replica serves at full use, in the unit of the demand: GPUs of a
        node for a cluster, requests per second of a replica for a service.
    target_utilisation : float
        Use of a unit to aim for, in (0, 1].
    min_size, max_size : int
        Bounds of the size.
    tolerance : float
        A size whose relative distance from the desired one is at most this is left alone while
        it serves the demand. 0.1 is the default of Kubernetes' HorizontalPodAutoscaler.
    step_up, step_down : int
        Most units added or removed at once; 0: no limit.
    up_window_s, down_window_s : float
        Cooldown of each direction, seconds after the last change.
    hold_s : float
        On the way down, the highest demand of this past counts, seconds (the stabilisation window
        of the HorizontalPodAutoscaler).

    Raises
    ------
    ConfigurationError
        Naming the first bad field.
    """

    unit_capacity: float
    target_utilisation: float = 0.8
    min_size: int = 1
    max_size: int = 1 << 20
    tolerance: float = 0.1
    step_up: int = 0
    step_down: int = 0
    up_window_s: float = 0.0
    down_window_s: float = 600.0
    hold_s: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        checks = {
            "unit_capacity": (self.unit_capacity > 0.0, "greater than 0"),
            "target_utilisation": (0.0 < self.target_utilisation <= 1.0, "in (0, 1]"),
            "min_size": (self.min_size >= 0, "at least 0"),
            "max_size": (self.max_size >= max(self.min_size, 1), "at least min_size and 1"),
            "tolerance": (0.0 <= self.tolerance < 1.0, "in [0, 1)"),
            "step_up": (self.step_up >= 0, "at least 0"),
            "step_down": (self.step_down >= 0, "at least 0"),
            "up_window_s": (self.up_window_s >= 0.0, "at least 0"),
            "down_window_s": (self.down_window_s >= 0.0, "at least 0"),
            "hold_s": (self.hold_s >= 0.0, "at least 0"),
        }
        for name, (ok, rule) in checks.items():
            value = getattr(self, name)
            if not ok or not math.isfinite(value):
                raise ConfigurationError(f"ScalingPlan: '{name}' is {value}; it must be {rule}")

    def to_record(self) -> NDArray[np.void]:
        """The plan as the kernels take it, SCALING_DTYPE [1]."""
        record: Any = np.zeros(1, SCALING_DTYPE)
        record["unit_capacity"] = self.unit_capacity
        record["target"] = self.target_utilisation
        record["tolerance"] = self.tolerance
        record["up_window_ms"] = round(1000.0 * self.up_window_s)
        record["down_window_ms"] = round(1000.0 * self.down_window_s)
        for name in ("min_size", "max_size", "step_up", "step_down"):
            record[name] = getattr(self, name)
        return np.asarray(record)


class HorizontalScaler:
    """Adds and removes nodes (or replicas) so that demand uses them as planned.

    Parameters
    ----------
    plan : ScalingPlan
        Target, bounds, steps and windows.
    """

    def __init__(self, plan: ScalingPlan) -> None:
        self.plan = plan
        self.cooldown = CooldownManager(plan.up_window_s, plan.down_window_s)
        self._record = plan.to_record()
        self._recent: deque[tuple[int, float]] = deque()

    def decide(
        self, now_ms: int, size: int, demand: float, *, predicted: float | None = None
    ) -> ScalingDecision:
        """What the size should be now; a change is noted for the cooldown.

        Parameters
        ----------
        now_ms : int
            The time; it does not go back from call to call.
        size : int
            Nodes or replicas that are here or on their way.
        demand : float
            Demand now, in the unit of ``unit_capacity``.
        predicted : float or None, optional
            Demand to prepare for, where it is above the present one.

        Returns
        -------
        ScalingDecision
            ``predicted_demand`` is what was planned for; ``cooldown_remaining_s`` is above 0 where
            a change is due and has to wait.
        """
        need = demand if predicted is None else max(demand, predicted)
        held = self._highest_of_late(now_ms, need)
        last = self.cooldown.last_change_ms
        target, left = scale_one(self._record, 0, size, need, now_ms, last)
        if target <= size and left == 0:
            lower, left = scale_one(self._record, 0, size, held, now_ms, last)
            target = min(lower, size) if target < size else target
        if target != size:
            self.cooldown.record(now_ms)
        return ScalingDecision(
            direction=_direction(size, target),
            target_nodes=target,
            reason=self._explain(size, target, demand, need, left),
            predicted_demand=need,
            cooldown_remaining_s=left / 1000.0,
        )

    def _highest_of_late(self, now_ms: int, need: float) -> float:
        """The highest need of the last ``hold_s``; entries that can never be it are dropped."""
        while self._recent and self._recent[-1][1] <= need:
            self._recent.pop()
        self._recent.append((now_ms, need))
        while self._recent[0][0] < now_ms - 1000.0 * self.plan.hold_s:
            self._recent.popleft()
        return self._recent[0][1]

    def _explain(self, size: int, target: int, demand: float, need: float, left: int) -> str:
        capacity = size * self.plan.unit_capacity
        what = f"demand {demand:.6g} of {capacity:.6g}"
        if need > demand:
            what += f", {need:.6g} expected"
        if left > 0:
            return f"{what}; a change is due and waits for the cooldown"
        if target > size and demand > capacity:
            return f"{what}: reactive, demand is above capacity already"
        if target != size:
            return f"{what}; use of {self.plan.target_utilisation:.0%} is the target"
        return f"{what}; no change"


def _direction(size: int, target: int) -> ScalingDirection:
    if target == size:
        return ScalingDirection.NONE
    return ScalingDirection.UP if target > size else ScalingDirection.DOWN
