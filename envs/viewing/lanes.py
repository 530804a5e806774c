"""Where runs lie in a picture: lanes of a pool, and devices of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from orchestrator.scheduling.runs import Runs

__all__ = ["BAR_DTYPE", "MOST_LANES", "assign_lanes", "place_bars"]

BAR_DTYPE = np.dtype(
    [
        ("run", "i8"),  # index of the run
        ("node", "i8"),
        ("first", "i8"),  # capacity units below it on its node: milli-GPUs, or milli-cores
        ("size", "i8"),
    ]
)
"""What a run holds of a node, as a bar beside others: device d of a node begins at 1000 d."""

MOST_LANES = 4096
"""Of a pool; more are drawn as so many."""

_WHOLE = 1000


def assign_lanes(
    start: NDArray[np.int64], end: NDArray[np.int64], size: NDArray[np.int64], lanes: int
) -> list[list[tuple[int, int]]]:
    """Give every job lanes of its own for as long as it runs.

    A job gets the smallest gap that holds it whole, else the lowest free lanes.

    Parameters
    ----------
    start, end : int64 [J]
    size : int64 [J]
        Lanes that each job needs.
    lanes : int
        All there are.

    Returns
    -------
    list of list of (int, int)
        For each job its runs of lanes: the first, and how many.
    """
    owner = np.full(lanes, -1, np.int64)
    given: list[list[tuple[int, int]]] = [[] for _ in range(len(start))]
    running: list[tuple[int, int]] = []  # by end
    for j in np.lexsort((-size, start)).tolist():
        while running and running[0][0] <= start[j]:
            for first, count in given[heappop(running)[1]]:
                owner[first : first + count] = -1
        given[j] = _take(_gaps(owner < 0), int(size[j]))
        for first, count in given[j]:
            owner[first : first + count] = j
        heappush(running, (int(end[j]), j))
    return given


def _gaps(free: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], free.view(np.int8), [0]))))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _take(gaps: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    whole = [gap for gap in gaps if gap[1] >= size]
    if whole:
        return [(min(whole, key=lambda gap: gap[1])[0], size)]
    taken = []
    for first, count in gaps:
        part = min(count, size)
        if part > 0:
            taken.append((first, part))
            size -= part
    return taken


def place_bars(
    found: Runs, shares: NDArray[np.int64], capacity: NDArray[np.int64]
) -> NDArray[np.void]:
    """Where runs are on their nodes, as bars that do not cover each other.

    Whole devices are where they are. What shares a device, and what holds processors, which have
    no numbers, is stacked in order of start.

    Parameters
    ----------
    found : Runs
    shares : int64 [R]
        Of each run, what it holds of each of its devices, thousandths; 0: it holds processors.
    capacity : int64 [nodes]
        Capacity units of each node.

    Returns
    -------
    BAR_DTYPE [B]
        By run, node and place.
    """
    runs = found.runs
    each = runs["units"] // np.maximum(runs["workers"], 1)
    whole: dict[tuple[int, int], int] = {}  # devices, by run and node
    shared: dict[tuple[int, int], dict[int, int]] = {}  # by node and device (-1: all of it)
    owner = np.repeat(np.arange(len(runs)), runs["workers"])
    for r, n, mask in zip(
        owner.tolist(), found.nodes.tolist(), found.devices.tolist(), strict=True
    ):
        if shares[r] == _WHOLE:
            whole[r, n] = whole.get((r, n), 0) | mask
        elif shares[r] > 0:
            for device in _bits(mask):
                held = shared.setdefault((n, device), {})
                held[r] = held.get(r, 0) + int(shares[r])
        else:
            held = shared.setdefault((n, -1), {})
            held[r] = held.get(r, 0) + int(each[r])
    bars = [
        (r, n, _WHOLE * first, _WHOLE * count)
        for (r, n), mask in whole.items()
        for first, count in _gaps(np.array([mask >> d & 1 for d in range(64)], np.bool_))
    ]
    for (n, device), held in shared.items():
        room = _WHOLE if device >= 0 else int(capacity[n])
        bars += [
            (r, n, max(device, 0) * _WHOLE + first, size)
            for r, first, size in _stacked(runs, held, room)
        ]
    return np.array(sorted(bars), BAR_DTYPE)


def _bits(mask: int) -> list[int]:
    return [device for device in range(64) if mask >> device & 1]


def _stacked(
    runs: NDArray[np.void], held: dict[int, int], room: int
) -> Sequence[tuple[int, int, int]]:
    """(run, first, size) of runs that share some room, each with what it holds of it."""
    which = np.array([r for r, size in held.items() if size > 0], np.int64)
    if len(which) == 0:
        return []
    sizes = np.array([held[int(r)] for r in which], np.int64)
    unit = max(int(np.gcd.reduce(sizes)), -(-room // MOST_LANES), 1)
    lanes = assign_lanes(
        runs["start_ms"][which], runs["end_ms"][which], -(-sizes // unit), max(room // unit, 1)
    )
    return [
        (int(r), first * unit, count * unit)
        for r, given in zip(which, lanes, strict=True)
        for first, count in given
    ]
