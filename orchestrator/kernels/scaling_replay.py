"""One demand series served by one fleet that is scaled every tick: the account of a scaler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.jit import entry
from orchestrator.kernels.scaling import NO_CHANGE_MS, scaled_size

__all__ = ["replay_fleet"]


@entry
def replay_fleet(
    demand: NDArray[np.float64],
    need: NDArray[np.float64],
    held: NDArray[np.float64],
    plans: NDArray[np.void],
    tick_ms: int,
    delay: int,
    ring: NDArray[np.int64],
    here: NDArray[np.int64],
    paid: NDArray[np.int64],
) -> int:
    """Scale a fleet along a series; what is ordered at a tick is here ``delay`` ticks later.

    At a tick, in this order: orders arrive, the demand is seen, the size is decided. On the way
    down orders are cancelled first, the last one first, and nodes leave at once.

    Parameters
    ----------
    demand : float64 [T]
        Demand at each tick.
    need, held : float64 [T]
        Demand to plan for on the way up, and on the way down.
    plans : SCALING_DTYPE [1]
    tick_ms, delay : int
        Length of a tick, ms, and provisioning delay, ticks (at least 1).
    ring : int64 [>= delay + 1]
        Scratch.
    here, paid : int64 [T]
        Filled in: nodes that serve at each tick, and those that are here or ordered after it.

    Returns
    -------
    int
        Reactive scaling events: ways up that were decided when demand was above capacity already.
    """
    plan = plans[0]
    slots = delay + 1
    ring[:] = 0
    last = np.int64(NO_CHANGE_MS)
    # The fleet begins at the size that the first tick asks for.
    up, _ = scaled_size(plan, np.int64(plan.min_size - 1), need[0], np.int64(0), last)
    up, _ = scaled_size(plan, up, need[0], np.int64(0), last)
    coming = np.int64(0)
    events = 0
    for t in range(demand.shape[0]):
        up += ring[t % slots]
        coming -= ring[t % slots]
        ring[t % slots] = 0
        here[t] = up
        now_ms = np.int64(t) * tick_ms
        size = up + coming
        target, _ = scaled_size(plan, size, need[t], now_ms, last)
        if target < size:
            lower, _ = scaled_size(plan, size, held[t], now_ms, last)
            target = min(lower, size)
        if target > size:
            events += demand[t] > up * plan.unit_capacity
            ring[(t + delay) % slots] += target - size
            coming += target - size
        back = delay
        while target < up + coming and back > 0:
            slot = (t + back) % slots
            cancelled = min(ring[slot], up + coming - target)
            ring[slot] -= cancelled
            coming -= cancelled
            back -= 1
        up = min(up, target)
        if target != size:
            last = now_ms
        paid[t] = up + coming
    return events
