"""The sets that Cluster environments see beside the queue: placement candidates and victims."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NO_JOB, Reason
from orchestrator.kernels.decisions import preemption_reason, start_reason
from orchestrator.kernels.fastlog import fast_log, log_seconds
from orchestrator.kernels.feasibility import fits
from orchestrator.kernels.jit import kernel, part
from orchestrator.kernels.placement import place_gang
from orchestrator.kernels.see.layout import CandidateColumn, VictimColumn
from orchestrator.kernels.slots import free_units, is_new_node, node_units
from orchestrator.kernels.tables import job, node, queue, request, running
from orchestrator.kernels.transition.progress import progress_now, saved_progress
from orchestrator.kernels.victim_plans import lets_in

__all__ = [
    "encode_candidates",
    "encode_victims",
    "select_victims",
]

_F = np.float32


@kernel
def _describe_candidate(row, j, nodes, workers, out):
    """Features, but whether it is a duplicate, of a placement of ``workers`` workers."""
    touched, failures = 0, node(row, nodes[0]).failures
    one_rack = True
    free, capacity = np.int64(0), np.int64(0)
    for w in range(workers):
        n = np.int64(nodes[w])
        failures = max(failures, node(row, n).failures)
        one_rack = one_rack and node(row, n).rack == node(row, nodes[0]).rack
        if not is_new_node(nodes, w):  # spread placements come back to a node
            continue
        touched += 1
        free += free_units(row, n)
        capacity += node_units(row, n)
    out[CandidateColumn.FEASIBLE] = _F(1.0)
    out[CandidateColumn.SPREAD] = _F(touched / workers)
    out[CandidateColumn.CROSSES_RACKS] = _F(0.0 if touched == 1 else (0.5 if one_rack else 1.0))
    units = job(row, j).units // request(row, j).workers * workers
    out[CandidateColumn.ROOM_LEFT] = _F((free - units) / max(capacity, 1))
    out[CandidateColumn.FAILURES] = _F(0.5) * fast_log(_F(1.0 + failures))


@part
def _fill_candidates(row, j, generators, nodes, mask, out):
    """Describe the K candidates of one job: ``mask`` [K], ``out`` [K, C]; how many there are."""
    W = row.max_workers
    found = 0
    room = fits(row, j)
    for k in range(generators.shape[0]):
        mask[k] = 0
        out[k, :] = _F(0.0)
        if not room:
            continue
        mine = nodes[k * W : (k + 1) * W]
        placed = place_gang(row, j, np.int64(generators[k]), mine)
        if placed == 0:
            continue
        mask[k] = 1
        found += 1
        _describe_candidate(row, j, mine, placed, out[k])
        for other in range(k):
            same = mask[other] != 0
            for w in range(placed):
                same = same and nodes[other * W + w] == mine[w]
            if same:
                out[k, CandidateColumn.DUPLICATE] = _F(1.0)
                break
    return found


@kernel
def encode_candidates(row, window, count, generators, nodes, mask, out):
    """Describe the K candidate placements of each job of the window, and which are legal.

    Parameters
    ----------
    row : ROW_DTYPE record
    window : int32 [Q]
        Jobs.
    count : int
        Jobs in it.
    generators : int32 [K]
        ``Placement`` of each candidate.
    nodes : int32 [(K + 1) * workers]
        Scratch.
    mask : int8 [>= Q * K]
        Set for the first ``count * K`` entries.
    out : float32 [Q * K, len(CANDIDATE_NAMES)]
        The first ``count * K`` rows are filled.

    Returns
    -------
    int
        Legal placements.
    """
    K = generators.shape[0]
    legal = 0
    for i in range(count):
        j = np.int64(window[i])
        at = i * K
        if start_reason(row, j) != Reason.OK:
            for k in range(K):
                mask[at + k] = 0
                out[at + k, :] = _F(0.0)
            continue
        legal += _fill_candidates(row, j, generators, nodes, mask[at : at + K], out[at : at + K])
    return legal


@kernel
def select_victims(row, victims):
    """Fill ``victims`` [V] with preemptible running jobs, latest expected end first.

    Returns
    -------
    int
        How many there are; the rest is NO_JOB.
    """
    count = 0
    k = row.running_len - 1
    while k >= 0 and count < victims.shape[0] and row.queue_len > 0:
        j = running(row, k).job
        if preemption_reason(row, j) == Reason.OK:
            victims[count] = np.int32(j)
            count += 1
        k -= 1
    for i in range(count, victims.shape[0]):
        victims[i] = np.int32(NO_JOB)
    return count


@kernel
def encode_victims(row, victims, count, out):
    """Describe the jobs that may be preempted, float32 [V, len(VICTIM_NAMES)]."""
    first = queue(row, 0).job if row.queue_len > 0 else np.int64(NO_JOB)
    waits = first >= 0 and not fits(row, first)
    for i in range(count):
        j = np.int64(victims[i])
        ask = request(row, j)
        progress = progress_now(row, j)
        out[i, VictimColumn.LOG_REMAINING] = log_seconds(ask.requested_ms - progress)
        out[i, VictimColumn.LOG_ELAPSED] = log_seconds(row.now_ms - job(row, j).start_ms)
        out[i, VictimColumn.LOG_UNSAVED] = log_seconds(progress - saved_progress(row, j))
        out[i, VictimColumn.DEMAND_SHARE] = _F(job(row, j).units / max(row.nominal_units, 1))
        out[i, VictimColumn.LOG_PREEMPTIONS] = _F(0.5) * fast_log(_F(1.0 + job(row, j).preemptions))
        out[i, VictimColumn.PRIORITY] = _F(1.0 - ask.priority / 3.0)
        out[i, VictimColumn.LOG_CHECKPOINT_COST] = log_seconds(ask.checkpoint_ms + ask.restart_ms)
        helps = waits and lets_in(row, first, j)
        out[i, VictimColumn.HELPS] = _F(1.0) if helps else _F(0.0)
