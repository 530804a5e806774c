"""How large a fleet or a service should be: the arithmetic of scaling, and nothing else.

The desired size follows the rule of Kubernetes' HorizontalPodAutoscaler, which keeps usage per
unit at a target: ``ceil(demand / (target * capacity of a unit))``, and leaves the size alone while
it is within a tolerance of that and the demand is served. Steps are bounded, and each direction
waits for its own window after the last change. Demand and capacity are in the same unit, whatever
it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.jit import entry, kernel

__all__ = [
    "NO_CHANGE_MS",
    "SCALING_DTYPE",
    "cooldown_left",
    "desired_size",
    "scale_one",
    "scaled_size",
]

SCALING_DTYPE = np.dtype(
    [
        ("unit_capacity", "f8"),  # demand that one node or replica serves at full use
        ("target", "f8"),  # use of a unit to aim for, (0, 1]
        ("tolerance", "f8"),  # relative distance from the desired size that is left alone
        ("up_window_ms", "i8"),  # after a change, before the next way up
        ("down_window_ms", "i8"),  # after a change, before the next way down
        ("min_size", "i4"),
        ("max_size", "i4"),
        ("step_up", "i4"),  # most units added at once; 0: no limit
        ("step_down", "i4"),  # most units removed at once; 0: no limit
    ],
    align=True,
)
"""How one fleet or service is scaled."""

NO_CHANGE_MS = -(1 << 62)
"""Time of the last change, where there has been none."""

_ROUNDING = 1e-9


@kernel
def desired_size(demand, unit_capacity, target, min_size, max_size):
    """Units that bring their use to ``target`` under a demand, within bounds.

    A demand that is not a number, or negative, counts as 0.
    """
    if not demand > 0.0:
        return np.int64(min_size)
    # A demand that is an exact multiple must not need another unit because of rounding.
    units = np.ceil(demand / (unit_capacity * target) * (1.0 - _ROUNDING))
    return np.int64(min(max(units, np.float64(min_size)), np.float64(max_size)))


@entry
def cooldown_left(now_ms: int, last_change_ms: int, window_ms: int) -> int:
    """Time until a change is allowed again, ms; 0 if it is allowed now."""
    return max(0, last_change_ms + window_ms - now_ms)


@kernel
def scaled_size(plan, size, demand, now_ms, last_change_ms):
    """What a fleet or service is to be scaled to now.

    Parameters
    ----------
    plan : SCALING_DTYPE record
    size : int
        Units that are here or on their way.
    demand : float
        What is to be served, in the unit of ``unit_capacity``.
    now_ms, last_change_ms : int
        The last change of size, either way; ``NO_CHANGE_MS`` if there was none.

    Returns
    -------
    size, cooldown_ms : int
        The new size: the old one if nothing is to change, or may not for another ``cooldown_ms``.
        A size outside its bounds is brought back at once, without cooldown or step limits.
    """
    wanted = desired_size(demand, plan.unit_capacity, plan.target, plan.min_size, plan.max_size)
    if size < plan.min_size or size > plan.max_size:
        bound = plan.min_size if size < plan.min_size else plan.max_size
        return np.int64(bound), np.int64(0)
    short = demand > size * plan.unit_capacity
    if not short and abs(wanted - size) <= plan.tolerance * size:
        return np.int64(size), np.int64(0)
    if wanted > size:
        left = cooldown_left(now_ms, last_change_ms, plan.up_window_ms)
        if plan.step_up > 0:
            wanted = min(wanted, np.int64(size + plan.step_up))
    else:
        left = cooldown_left(now_ms, last_change_ms, plan.down_window_ms)
        if plan.step_down > 0:
            wanted = max(wanted, np.int64(size - plan.step_down))
    return (np.int64(size) if left > 0 else wanted), np.int64(left)


@entry
def scale_one(
    plans: NDArray[np.void], k: int, size: int, demand: float, now_ms: int, last_change_ms: int
) -> tuple[int, int]:
    """:func:`scaled_size` of ``plans[k]``, for callers in Python."""
    return scaled_size(
        plans[k], np.int64(size), np.float64(demand), np.int64(now_ms), np.int64(last_change_ms)
    )
