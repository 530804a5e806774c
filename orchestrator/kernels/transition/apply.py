"""One event, applied: the same function for the simulator's events and for real ones."""

from __future__ import annotations

from orchestrator.kernels.codes import EventKind
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.tables import job
from orchestrator.kernels.transition.capacity import receive_node
from orchestrator.kernels.transition.jobs import (
    admit_job,
    complete_job,
    finish_preemption,
)
from orchestrator.kernels.transition.nodes import (
    drain_node,
    fail_node,
    leave_nodes,
    recover_node,
)
from orchestrator.kernels.transition.services import serve_tick
from orchestrator.kernels.transition.timeline import advance_clock, next_event, pop_event

__all__ = ["apply_event", "step_event"]


@kernel
def apply_event(row, kind, subject):
    """Apply an event that happens now.

    Parameters
    ----------
    row : ROW_DTYPE record
    kind : int
        An ``EventKind``.
    subject : int
        Index of the job or node that it happens to; of a service tick: any.
    """
    if kind == EventKind.ARRIVAL:
        admit_job(row, subject)
    elif kind == EventKind.COMPLETION:
        workers = job(row, subject).workers_now
        complete_job(row, subject)
        leave_nodes(row, subject, workers)
    elif kind == EventKind.CHECKPOINTED:
        workers = job(row, subject).workers_now
        finish_preemption(row, subject)
        leave_nodes(row, subject, workers)
    elif kind == EventKind.NODE_RECOVERY:
        recover_node(row, subject)
    elif kind == EventKind.NODE_FAILURE:
        fail_node(row, subject)
    elif kind == EventKind.NODE_DRAIN:
        drain_node(row, subject)
    elif kind == EventKind.SERVICE_TICK:
        serve_tick(row)
    elif kind == EventKind.NODE_ARRIVAL:
        receive_node(row, subject)


@kernel
def step_event(row):
    """Take the next event of row ``e``'s own timeline and apply it.

    Returns
    -------
    bool
        False if nothing was left to happen.
    """
    time_ms, kind, subject = next_event(row)
    if kind == EventKind.NONE:
        return False
    advance_clock(row, time_ms)
    pop_event(row, kind)
    apply_event(row, kind, subject)
    return True
