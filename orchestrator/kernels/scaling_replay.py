"""One demand series served by one fleet that is scaled every tick: the account of a scaler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.jit import entry, small_kernel
from orchestrator.kernels.scaling import NO_CHANGE_MS, scaled_size

__all__ = ["TICK_DTYPE", "replay_fleet"]

TICK_DTYPE = np.dtype(
    [
        ("demand", "f8"),
        ("need", "f8"),  # demand to plan for on the way up
        ("held", "f8"),  # demand that a way down may not undercut
        ("here", "i8"),  # filled in: nodes that serve
        ("paid", "i8"),  # filled in: nodes that are here or on order after the decision
    ],
    align=True,
)
"""A tick of a series, and of the fleet that served it."""


@small_kernel
def _target_size(plan, tick, size, now_ms, last_ms):
    """The size that a tick asks for: by its need on the way up, by what is held on the way down."""
    target, _ = scaled_size(plan, size, tick.need, now_ms, last_ms)
    if target < size:
        lower, _ = scaled_size(plan, size, tick.held, now_ms, last_ms)
        target = min(lower, size)
    return target


@small_kernel
def _cancel_orders(ring, t, count):
    """Cancel up to ``count`` nodes on order, the last ordered first; how many there were."""
    slots = ring.shape[0]
    left = count
    ahead = slots - 1
    while left > 0 and ahead > 0:
        slot = (t + ahead) % slots
        cancelled = min(ring[slot], left)
        ring[slot] -= cancelled
        left -= cancelled
        ahead -= 1
    return count - left


@entry
def replay_fleet(
    ticks: NDArray[np.void], plans: NDArray[np.void], tick_ms: int, ring: NDArray[np.int64]
) -> int:
    """Scale a fleet along a series; what is ordered at a tick is here some ticks later.

    At a tick, in this order: orders arrive, the demand is seen, the size is decided. On the way
    down orders are cancelled first, the last one first, and nodes leave at once.

    Parameters
    ----------
    ticks : TICK_DTYPE [T]
        The series; ``here`` and ``paid`` are filled in.
    plans : SCALING_DTYPE [1]
    tick_ms : int
        Length of a tick.
    ring : int64 [provisioning delay in ticks + 1]
        Scratch: what arrives at each tick to come.

    Returns
    -------
    int
        Reactive scaling events: ways up that were decided when demand was above capacity already.
    """
    plan = plans[0]
    slots = ring.shape[0]
    ring[:] = 0
    last_ms = np.int64(NO_CHANGE_MS)
    # The fleet begins at the size that the first tick asks for.
    up, _ = scaled_size(plan, np.int64(plan.min_size - 1), ticks[0].need, np.int64(0), last_ms)
    up, _ = scaled_size(plan, up, ticks[0].need, np.int64(0), last_ms)
    coming = np.int64(0)
    events = 0
    for t in range(ticks.shape[0]):
        tick = ticks[t]
        arrived = ring[t % slots]
        ring[t % slots] = 0
        up += arrived
        coming -= arrived
        tick.here = up
        now_ms = np.int64(t) * tick_ms
        size = up + coming
        target = _target_size(plan, tick, size, now_ms, last_ms)
        if target > size:
            events += tick.demand > up * plan.unit_capacity
            ring[(t + slots - 1) % slots] += target - size
            coming += target - size
        elif target < size:
            coming -= _cancel_orders(ring, t, size - target)
            up = min(up, target)
        if target != size:
            last_ms = now_ms
        tick.paid = up + coming
    return events
