"""Metrics of a row as running totals: what rewards and reports are increments of."""

from __future__ import annotations

from enum import IntEnum

from orchestrator.kernels.jit import kernel
from orchestrator.kernels.tables import job, queue, request

__all__ = ["Metric", "read_metrics", "total_excess"]


class Metric(IntEnum):
    """Columns of a metric vector; each only ever grows, or is a potential of the state."""

    SLOWDOWN_EXCESS = 0
    """Sum over jobs of (bounded slowdown - 1), as if every job ran undisturbed from now on."""
    JOB_SECONDS = 1
    """Jobs in the system, integrated over time: the sum of completion times."""
    WAIT_SECONDS = 2
    """Jobs waiting, integrated over time."""
    BUSY_SHARE_SECONDS = 3
    """Allocated share of the capacity, integrated over time."""
    PREEMPTIONS = 4
    LOST_SHARE_SECONDS = 5
    """Work lost to interruptions and restarts, as seconds of the whole capacity."""


@kernel
def total_excess(row):
    """Sum over jobs of bounded slowdown - 1, projected from now.

    Started jobs are settled. A waiting job's slowdown grows at 1 / max(run, bound) from the onset
    on at which it would exceed 1. The sums kept with the queue take every onset to be past; only
    jobs submitted within the bound can contradict that, and they stand at the queue's end.
    """
    now_s = row.now_ms / 1000.0
    total = row.settled_excess + row.queue_rate * now_s - row.queue_onset
    q = row.queue_len - 1
    while q >= 0:
        j = queue(row, q).job
        ask = request(row, j)
        if ask.submit_ms + row.slowdown_bound_ms < row.now_ms:
            break
        early_ms = job(row, j).onset_ms - row.now_ms
        if early_ms > 0:
            total += early_ms / max(ask.duration_ms, row.slowdown_bound_ms)
        q -= 1
    return total


@kernel
def read_metrics(row, out):
    """Write the metric vector of a row into ``out`` [len(Metric)], float64."""
    out[Metric.SLOWDOWN_EXCESS] = total_excess(row)
    out[Metric.JOB_SECONDS] = row.job_ms / 1000.0
    out[Metric.WAIT_SECONDS] = row.wait_ms / 1000.0
    capacity = max(row.nominal_units, 1)
    out[Metric.BUSY_SHARE_SECONDS] = row.busy_unit_ms / 1000.0 / capacity
    out[Metric.PREEMPTIONS] = row.preemptions
    out[Metric.LOST_SHARE_SECONDS] = row.lost_unit_ms / 1000.0 / capacity
