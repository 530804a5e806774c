"""What must hold of cluster state after every transition, checked without the kernels.

Everything is recomputed from first principles, in plain NumPy and Python: who holds what, who
waits, who runs. It is slow and meant to be: switch it on in tests and when hunting a bug.
"""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.invariants.holdings import (
    assert_links,
    check_capacity,
    check_holdings,
    check_orders,
    check_tenants,
)
from orchestrator.invariants.jobs import (
    check_counters,
    check_effects,
    check_jobs,
    check_progress,
    check_services,
)
from orchestrator.invariants.queues import check_heap, check_queue, check_queue_sums, check_running
from orchestrator.invariants.view import PLACED, view_of
from orchestrator.kernels.state.row import ClusterState

__all__ = ["assert_invariants"]


def assert_invariants(state: ClusterState, e: int, excused: Collection[int] = ()) -> None:
    """Check everything that must hold of a row between two transitions.

    Parameters
    ----------
    state : ClusterState
        Cluster state.
    e : int
        Row.
    excused : collection of int, optional
        Tenants that may hold more than their hard quotas: these were lowered meanwhile.

    Raises
    ------
    InvariantError
        Saying what is wrong, of which entity, what it is and what it should be.
    """
    view = view_of(state, e)
    check_jobs(view)
    check_holdings(view)
    assert_links(state, e, view.jobs_in(PLACED))
    check_capacity(view)
    check_tenants(view, excused)
    check_orders(view)
    check_queue(view)
    check_queue_sums(view)
    check_running(view)
    check_heap(view)
    check_progress(view)
    check_counters(view)
    check_services(view)
    check_effects(view)
