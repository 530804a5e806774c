"""What-if futures: other arrivals, and run times as estimated."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import EventKind, JobCode, JobKind
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.tables import heap, job, request, running
from orchestrator.kernels.transition.episode import load_job
from orchestrator.kernels.transition.timeline import cancel_event, push_event

__all__ = ["assume_future"]


@kernel
def _assume_estimates(row):
    """Every job that has not ended lasts as long as estimated; if it has lasted longer, to now."""
    for j in range(row.num_jobs):
        state = job(row, j).state
        if state != JobCode.COMPLETED and state != JobCode.FAILED:
            request(row, j).duration_ms = max(request(row, j).requested_ms, np.int64(1))
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        slot = job(row, j).heap_slot
        if slot < 0 or request(row, j).kind == JobKind.SERVICE:
            continue
        if heap(row, slot).kind == EventKind.COMPLETION:
            end = max(job(row, j).expected_end_ms, row.now_ms + 1)
            cancel_event(row, j)
            push_event(row, end, EventKind.COMPLETION, j)


@kernel
def assume_future(row, arrivals):
    """Replace all that the row knows of the future by ``arrivals`` [n] and by estimates.

    For copies of a row on which a policy thinks ahead: the original of a simulated one holds the
    jobs that will arrive, the incidents that will happen and the true run times.

    Parameters
    ----------
    row : ROW_DTYPE record
        With room for n more jobs.
    arrivals : REQUEST_DTYPE [n]
        By submit time, none before now.
    """
    row.num_incidents = row.next_incident
    row.num_jobs = row.next_arrival
    _assume_estimates(row)
    for i in range(arrivals.shape[0]):
        load_job(row, row.num_jobs, arrivals[i])
        row.num_jobs += 1
