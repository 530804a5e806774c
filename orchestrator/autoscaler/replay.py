"""What a scaler would have done along a demand series, and what it would have cost.

A *reactive scaling event* is a way up that was decided when demand was above capacity already: it
came too late. Nodes are paid for from their order on, for the reactive and the predictive scaler
alike, as in the simulated cluster (``kernels/change/nodes.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from orchestrator.autoscaler.policies import ScalingPlan
from orchestrator.errors import ValidationError
from orchestrator.kernels.decide.scale import TICK_DTYPE, replay_fleet

__all__ = ["FleetAccount", "hold_peak", "replay"]


Array = NDArray[np.float64]


@dataclass(frozen=True)
class FleetAccount:
    """What became of a fleet along a series of T ticks.

    Parameters
    ----------
    reactive_events : int
        Ways up forced by demand above capacity.
    short_ticks : int
        Ticks at which demand was above capacity.
    unserved : float
        Share of the demand that was above capacity.
    node_hours : float
        Hours of nodes, from their order on.
    changes : int
        Changes of size.
    here, paid : int64 [T]
        Nodes that serve at each tick; nodes that are here or ordered after it.
    """

    reactive_events: int
    short_ticks: int
    unserved: float
    node_hours: float
    changes: int
    here: NDArray[np.int64]
    paid: NDArray[np.int64]


def hold_peak(need: Array, ticks: int) -> Array:
    """The highest of the last ``ticks`` entries (at least 1): what a way down may not undercut."""
    if ticks < 1:
        raise ValidationError("hold_peak", "ticks", f"is {ticks}", "at least 1")
    padded = np.concatenate([np.full(ticks - 1, -np.inf), need])
    return np.asarray(sliding_window_view(padded, ticks).max(axis=1))


def replay(
    demand: Array,
    need: Array,
    plan: ScalingPlan,
    *,
    tick_s: int,
    delay: int,
    held: Array | None = None,
) -> FleetAccount:
    """Scale a fleet along a series, once a tick.

    Parameters
    ----------
    demand : float64 [T]
        Demand at each tick.
    need : float64 [T]
        What the scaler plans for at each tick: the demand itself for a reactive one, and no less
        for a predictive one. ``plan.target_utilisation`` applies to it.
    plan : ScalingPlan
        ``hold_s`` keeps the highest need of so much past on the way down.
    tick_s, delay : int
        Seconds of a tick, and provisioning delay in ticks, at least 1.
    held : float64 [T] or None, optional
        What a way down may not undercut, where it is not the highest need of ``plan.hold_s``.

    Returns
    -------
    FleetAccount
    """
    if demand.shape != need.shape or demand.ndim != 1 or len(demand) == 0:
        raise ValidationError(
            "replay", "need", f"is {need.shape}, demand {demand.shape}", "one entry for each tick"
        )
    if delay < 1 or tick_s < 1:
        raise ValidationError("replay", "delay", f"is {delay} ticks of {tick_s} s", "at least 1")
    if held is None:
        held = hold_peak(need, 1 + round(plan.hold_s / tick_s))
    ticks = np.zeros(len(demand), TICK_DTYPE)
    ticks["demand"], ticks["need"], ticks["held"] = demand, need, held
    record = replace(plan, hold_s=0.0).to_record()
    events = replay_fleet(ticks, record, 1000 * tick_s, np.zeros(delay + 1, np.int64))
    here, paid = ticks["here"].copy(), ticks["paid"].copy()
    missing = np.maximum(demand - here * plan.unit_capacity, 0.0)
    return FleetAccount(
        reactive_events=int(events),
        short_ticks=int((missing > 0.0).sum()),
        unserved=float(missing.sum() / max(demand.sum(), np.finfo(np.float64).tiny)),
        node_hours=float(paid.sum()) * tick_s / 3600.0,
        changes=int((np.diff(paid) != 0).sum()),
        here=here,
        paid=paid,
    )
