"""Moving a running job: where to, and whether it would be better off there."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import JobCode, JobKind, Reason
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.placement import place_workers
from orchestrator.kernels.slots import distinct_nodes, free_units
from orchestrator.kernels.tables import job, request, worker
from orchestrator.kernels.transition.whatif import lift_gang, restore_gang

__all__ = ["migration_reason", "plan_migration"]


@kernel
def _moves(row, j, nodes, workers):
    """Workers that would not be on a node that the gang is on already."""
    moves = 0
    for w in range(workers):
        here = False
        for other in range(workers):
            here = here or worker(row, j, other).node == nodes[w]
        if not here:
            moves += 1
    return moves


@kernel
def plan_migration(row, j, generator, nodes):
    """Find a better place for a running job: fewer nodes, or as many that are fuller.

    Parameters
    ----------
    row : ROW_DTYPE record
    j : int
        A running job.
    generator : int
        ``Placement`` that proposes the place.
    nodes : int32 [>= workers]
        Filled with the new nodes.

    Returns
    -------
    bool
        Whether there is one. The state is as before. Of two placements on equally many nodes the
        one whose nodes have less room besides is the tighter fit.
    """
    workers = np.int64(job(row, j).workers_now)
    for w in range(workers):
        nodes[w] = np.int32(worker(row, j, w).node)
    before = distinct_nodes(nodes, workers)
    lift_gang(row, j)
    placed = place_workers(row, j, workers, generator, nodes)
    room_here, room_there = np.int64(0), np.int64(0)
    if placed >= workers:
        for w in range(workers):
            room_here += free_units(row, worker(row, j, w).node)
            room_there += free_units(row, np.int64(nodes[w]))
    restore_gang(row, j)
    if placed < workers:
        return False
    after = distinct_nodes(nodes, workers)
    if after == before:  # among the nodes that it is on already, a move would change nothing
        return room_there < room_here and _moves(row, j, nodes, workers) > 0
    return after < before


@kernel
def migration_reason(row, j):
    """Whether running job ``j`` may be moved, a place left out of account: a ``Reason``."""
    if row.migrate == 0:
        return Reason.UNKNOWN_ACTION
    if job(row, j).state != JobCode.RUNNING or request(row, j).kind == JobKind.SERVICE:
        return Reason.NOT_RUNNING
    if request(row, j).preemptible == 0:
        return Reason.NOT_PREEMPTIBLE
    if row.now_ms - job(row, j).resized_ms < row.min_run_ms:
        return Reason.MIN_RUN_TIME
    return Reason.OK
