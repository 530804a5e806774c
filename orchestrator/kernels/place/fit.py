"""Whether a gang fits: now, ever, and if not, why."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.place.domains import domain_room, is_bound
from orchestrator.kernels.place.memo import find_kind
from orchestrator.kernels.place.slots import units_of, worker_slots, worker_slots_when_empty
from orchestrator.kernels.state.access import kind, request
from orchestrator.kernels.state.codes import Reason

__all__ = ["can_ever_fit", "fits", "least_units", "least_workers", "why_not"]


@small_kernel
def least_workers(row, j):
    """Workers without which job ``j`` does not start: all of them, or an elastic job's minimum."""
    ask = request(row, j)
    return np.int64(max(ask.min_workers, 1) if ask.elastic != 0 else ask.workers)


@small_kernel
def least_units(row, j):
    """Capacity without which job ``j`` cannot start, whatever it holds now."""
    return units_of(row, j, least_workers(row, j))


@small_kernel
def _traffic(row, j):
    """Bandwidth that a worker needs if the gang spans nodes, Mbit/s."""
    ask = request(row, j)
    return np.int64(ask.bandwidth_mbps) if ask.workers > 1 else np.int64(0)


@kernel
def _workers_fit(row, j):
    """Whether the workers fit, each on its own."""
    missing = least_workers(row, j)
    k = find_kind(row, j)
    if k > 0:
        return kind(row, k).total >= missing
    for n in range(row.num_nodes):
        missing -= worker_slots(row, j, n, missing)
        if missing <= 0:
            return True
    return False


@kernel
def _gang_fits(row, j):
    if not is_bound(row, j):
        return _workers_fit(row, j)
    k = find_kind(row, j)
    if k > 0 and kind(row, k).total < least_workers(row, j):
        return False  # wherever they are
    least = least_workers(row, j)
    return domain_room(row, j, least, _traffic(row, j), False) >= least


@kernel
def fits(row, j):
    """Whether the whole gang of job ``j`` could start now."""
    if least_units(row, j) > row.free_units:
        return False
    return _gang_fits(row, j)


@kernel
def can_ever_fit(row, j):
    """Whether the whole gang of job ``j`` would fit into the cluster if it were empty."""
    missing = least_workers(row, j)
    if is_bound(row, j):
        return domain_room(row, j, missing, _traffic(row, j), True) >= missing
    for n in range(row.num_nodes):
        missing -= worker_slots_when_empty(row, j, n, missing)
        if missing <= 0:
            return True
    return False


@kernel
def why_not(row, j):
    """Why the gang of job ``j`` could not start now, for people; a ``Reason``, OK if it could.

    NO_CAPACITY if not enough is free; FRAGMENTED if enough is free, but not where whole workers
    need it; TOPOLOGY if its workers would fit, but not into one domain as it requires; BANDWIDTH if
    they would but for their traffic.
    """
    if least_units(row, j) > row.free_units:
        return np.int64(Reason.NO_CAPACITY)
    if not _workers_fit(row, j):
        return np.int64(Reason.FRAGMENTED)
    if _gang_fits(row, j):
        return np.int64(Reason.OK)
    least = least_workers(row, j)
    if domain_room(row, j, least, np.int64(0), False) >= least:
        return np.int64(Reason.BANDWIDTH)
    return np.int64(Reason.TOPOLOGY)
