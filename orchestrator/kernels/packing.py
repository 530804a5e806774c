"""Packing replays: jobs arrive one by one, and those that find no place are turned away."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.advance import queue_position
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.placement import place_gang
from orchestrator.kernels.tables import request
from orchestrator.kernels.transition.jobs import admit_job, fail_waiting_job, start_job
from orchestrator.kernels.transition.layout import load_typical as _load_typical
from orchestrator.kernels.transition.layout import load_uplinks as _load_uplinks

__all__ = ["load_typical", "load_uplinks", "pack_arrivals"]

Rows = NDArray[np.void]


@kernel
def load_typical(rows: Rows, e: int, pods: NDArray[np.void]) -> None:
    """Give row ``e`` its typical pods, TYPICAL_DTYPE [n], by which fragmentation is measured."""
    _load_typical(rows[e], pods)


@kernel
def load_uplinks(rows: Rows, e: int, uplinks: NDArray[np.void]) -> None:
    """Give row ``e`` its racks' uplinks, UPLINK_DTYPE [racks]; nobody may run yet."""
    _load_uplinks(rows[e], uplinks)


@kernel
def pack_arrivals(
    rows: Rows, e: int, generator: int, nodes: NDArray[np.int32], asked: NDArray[np.int64]
) -> int:
    """Place the jobs of row ``e``, just begun, one after the other; nobody leaves.

    A job that cannot be placed when it arrives fails. The clock stands still.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    generator : int
        The ``Placement`` to place all of them by.
    nodes : int32 [>= workers]
        Scratch.
    asked : int64 [jobs]
        Filled with the free capacity after each arrival, in capacity units.

    Returns
    -------
    int
        Jobs placed.
    """
    row = rows[e]
    count = 0
    for j in range(row.num_jobs):
        row.point = np.int64(j)
        row.next_arrival = np.int32(j + 1)
        row.now_ms = max(row.now_ms, request(row, j).submit_ms)
        admit_job(row, np.int64(j))
        q = queue_position(row, np.int64(j))
        workers = place_gang(row, np.int64(j), np.int64(generator), nodes)
        if workers > 0 and start_job(row, q, nodes, workers, np.int64(generator)):
            count += 1
        else:
            fail_waiting_job(row, queue_position(row, np.int64(j)))
        asked[j] = row.free_units
    return count
