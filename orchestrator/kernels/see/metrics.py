"""Metrics of a row as running totals: what rewards and reports are increments of."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from orchestrator.kernels.lang.jit import kernel
from orchestrator.kernels.state.access import job, node, queue, request
from orchestrator.kernels.state.codes import NodeCode

__all__ = [
    "Metric",
    "cost",
    "fragmented_milli",
    "grown_cost",
    "metric_value",
    "read_metrics",
    "total_excess",
]


_MILLI_MS_PER_COST = 3_600_000.0 * 1000.0  # prices are thousandths per hour


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
    SERVICE_VIOLATIONS = 6
    """Requests of services that were not answered within their objective."""
    SERVICE_SHED = 7
    """Requests that rate limiters turned away; they are violations too."""
    NODE_COST = 8
    """Price of all nodes paid for, integrated over time, in units of cost."""
    ALLOCATED_SHARE = 9
    """Allocated share of the capacity now."""
    FRAGMENTED_SHARE = 10
    """Expected share of all GPUs that typical pods could not use now (Weng et al., ATC 2023)."""


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
def fragmented_milli(row):
    """Fragmentation of all nodes that are up, milli-GPUs; 0 if no typical pods are loaded.

    Added up anew each time, so that it is the same whatever led to the state.
    """
    total = 0.0
    if row.num_typical > 0:
        for n in range(row.num_nodes):
            if node(row, n).state == NodeCode.UP:
                total += node(row, n).fragmentation
    return total


@kernel
def metric_value(row, metric):
    """Value of one ``Metric`` of a row."""
    if metric == Metric.SLOWDOWN_EXCESS:
        return total_excess(row)
    if metric == Metric.JOB_SECONDS:
        return row.job_ms / 1000.0
    if metric == Metric.WAIT_SECONDS:
        return row.wait_ms / 1000.0
    if metric == Metric.PREEMPTIONS:
        return np.float64(row.preemptions)
    if metric == Metric.SERVICE_VIOLATIONS:
        return row.request_violations
    if metric == Metric.SERVICE_SHED:
        return row.requests_shed
    if metric == Metric.NODE_COST:
        return row.cost_milli_ms / _MILLI_MS_PER_COST
    if metric == Metric.ALLOCATED_SHARE:
        return (row.capacity_units - row.free_units) / max(row.nominal_units, 1)
    if metric == Metric.FRAGMENTED_SHARE:
        return fragmented_milli(row) / max(row.nominal_gpu_milli, 1)
    share_ms = row.busy_unit_ms if metric == Metric.BUSY_SHARE_SECONDS else row.lost_unit_ms
    return share_ms / 1000.0 / max(row.nominal_units, 1)


@kernel
def read_metrics(row, out):
    """Write the metric vector of a row into ``out`` [len(Metric)], float64."""
    for metric in range(out.shape[0]):
        out[metric] = metric_value(row, metric)


@kernel
def cost(row, weights):
    """Weighted sum of the metrics that cost anything; ``weights`` float64 [len(Metric)]."""
    total = 0.0
    for m in range(weights.shape[0]):
        if weights[m] != 0.0:
            total += weights[m] * metric_value(row, m)
    return total


@kernel
def grown_cost(row, weights, noted):
    """What :func:`cost` has grown by since ``noted`` [len(Metric)], which is brought up to date."""
    total = 0.0
    for m in range(weights.shape[0]):
        if weights[m] != 0.0:
            value = metric_value(row, m)
            total += weights[m] * (value - noted[m])
            noted[m] = value
    return total
