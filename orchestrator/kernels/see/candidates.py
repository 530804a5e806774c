"""Candidates as features: placements of the jobs shown, or nodes.

What a node's features depend on besides the request is the node alone, but for the last three.
They are kept for each request kind, and nodes that changed since are described anew.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.decide.legal import start_reason
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.lang.numbers import fast_log
from orchestrator.kernels.place.fit import fits, least_workers
from orchestrator.kernels.place.generate import place_gang
from orchestrator.kernels.place.memo import is_far_behind, is_last_touch
from orchestrator.kernels.place.score import fragmentation_after, score_change
from orchestrator.kernels.place.slots import WHOLE, alone_slots, free_units, is_new_node, node_units
from orchestrator.kernels.see.layout import CandidateColumn, NodeColumn
from orchestrator.kernels.state.access import device, job, node, order, request, touch, typical
from orchestrator.kernels.state.codes import NodeCode, Placement, Reason

__all__ = ["MODELS", "encode_candidates", "encode_choices"]

MODELS = 32
"""GPU models that requests can tell apart."""


_F = np.float32


@kernel
def _describe_candidate(row, j, nodes, workers, out):
    """Features, but whether it is a duplicate, of a placement of ``workers`` workers."""
    touched, failures = 0, node(row, nodes[0]).failures
    one_rack = True
    free, capacity = np.int64(0), np.int64(0)
    for w in range(workers):
        n = np.int64(nodes[w])
        if w > 0 and n == nodes[w - 1]:
            continue
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
            w = np.int64(0)
            while mask[other] != 0 and w < placed and nodes[other * W + w] == mine[w]:
                w += 1
            if w == placed:
                out[k, CandidateColumn.DUPLICATE] = _F(1.0)
                break
    return found


@small_kernel
def _is_twin(row, j, other):
    """Whether every generator places both jobs alike: one kind, and gangs of one size and shape."""
    if job(row, j).kind != job(row, other).kind or job(row, j).kind == 0:
        return False
    ask, asked = request(row, j), request(row, other)
    return (
        ask.workers == asked.workers
        and least_workers(row, j) == least_workers(row, other)
        and ask.topology == asked.topology
        and ask.bandwidth_mbps == asked.bandwidth_mbps
    )


@kernel
def _find_twin(row, window, i, K, mask):
    """Place of an earlier job of the window that has the candidates of job ``i``, or -1."""
    for s in range(i):
        if _is_twin(row, np.int64(window[i]), np.int64(window[s])):
            for k in range(s * K, (s + 1) * K):
                if mask[k] != 0:  # otherwise it may have none for another reason
                    return np.int64(s)
    return np.int64(-1)


@kernel
def encode_candidates(row, window, count, generators, nodes, mask, out):
    """Describe the K candidate placements of each job of the window; how many are legal.

    Those of jobs that ask for the same are worked out once.

    ``window``, int32 [Q], holds ``count`` jobs; ``generators`` is int32 [K], ``nodes`` int32
    [(K + 1) * workers]. Filled are the first ``count * K`` entries of ``mask``, int8 [>= Q * K],
    and of ``out``, float32 [Q * K, len(CANDIDATE_NAMES)].
    """
    K = generators.shape[0]
    legal, alike = 0, True
    for k in range(K):
        alike = alike and generators[k] != Placement.UNIFORM  # which draws for each job
    for i in range(count):
        j = np.int64(window[i])
        at = i * K
        if start_reason(row, j) != Reason.OK:
            for k in range(K):
                mask[at + k] = 0
                out[at + k, :] = _F(0.0)
            continue
        twin = _find_twin(row, window, i, K, mask) if alike else np.int64(-1)
        if twin >= 0:
            for k in range(K):
                mask[at + k] = mask[twin * K + k]
                for c in range(out.shape[1]):  # a slice would set memory aside for a copy
                    out[at + k, c] = out[twin * K + k, c]
                legal += mask[at + k]
            continue
        legal += _fill_candidates(row, j, generators, nodes, mask[at : at + K], out[at : at + K])
    return legal


_ONE = np.uint64(1)


# Of each GPU model.
_FREE, _CAPACITY, _DEMAND = 0, 1, 2


@kernel
def _describe(row, j, n, out):
    """The first features of node ``n`` for job ``j``; 0 where not even its least workers fit.

    Devices and fragmentation are those of its first worker.
    """
    out[:] = _F(0.0)
    ask = request(row, j)
    workers = alone_slots(row, j, n, np.int64(ask.workers))
    if workers < least_workers(row, j):
        return
    host = node(row, n)
    after, taken = fragmentation_after(row, j, n)
    fresh, left = np.int64(0), np.int64(0)
    for g in range(host.gpus):
        if (taken >> np.uint64(g)) & _ONE != 0:
            free = device(row, n, g).free_milli
            fresh += free == WHOLE
            left += free - ask.gpu_milli
    if ask.gpu_milli == WHOLE:
        fresh = workers * ask.gpus_per_worker
    gpus = max(host.gpus, 1)
    milli = gpus * 1000.0
    gpu_free = (host.gpu_free_milli - workers * ask.gpus_per_worker * ask.gpu_milli) / milli
    cpu_free = (host.cpu_free_milli - workers * ask.cpu_milli) / max(host.cpu_cap_milli, 1)
    memory_free = host.memory_free_mib - workers * ask.memory_mib
    out[NodeColumn.FEASIBLE] = _F(1.0)
    out[NodeColumn.GPU_FREE_BEFORE] = _F(host.gpu_free_milli / milli)
    out[NodeColumn.GPU_FREE_AFTER] = _F(gpu_free)
    out[NodeColumn.WHOLE_FREE_AFTER] = _F((host.whole_free - fresh) / gpus)
    out[NodeColumn.CPU_FREE_AFTER] = _F(cpu_free)
    out[NodeColumn.MEMORY_FREE_AFTER] = _F(memory_free / max(host.memory_cap_mib, 1))
    out[NodeColumn.IMBALANCE_AFTER] = _F(abs(cpu_free - gpu_free))
    out[NodeColumn.DEVICE_LEFT] = _F(left / 1000.0 / max(ask.gpus_per_worker, 1))
    out[NodeColumn.FRAGMENTATION_BEFORE] = _F(host.fragmentation / milli)
    out[NodeColumn.FRAGMENTATION_CHANGE] = _F((after - host.fragmentation) / 1000.0)
    out[NodeColumn.GRADIENT] = _F(score_change(host.fragmentation, after) / 50.0 - 1.0)
    out[NodeColumn.USED] = _F(1.0 if host.workers > 0 else 0.0)
    out[NodeColumn.SIZE] = _F(host.gpus / 8.0)
    out[NodeColumn.FAILURES] = _F(0.5) * fast_log(_F(1.0 + host.failures))


@kernel
def _recall(row, e, k, j, nodes, memo):
    """Describe anew what changed since a gang like that of job ``j``, of kind ``k``, was here."""
    ask = request(row, j)
    gang = (ask.workers << 32) + (least_workers(row, j) << 8) + ask.topology
    seen = memo.seen[e, k]
    if memo.gang[e, k] != gang or is_far_behind(row, seen):
        for n in range(nodes):
            _describe(row, j, n, memo.features[e, k, n])
    else:
        for number in range(seen, row.touched):
            n = touch(row, number & (row.max_touches - 1)).node
            if n < nodes and is_last_touch(row, n, number):
                _describe(row, j, n, memo.features[e, k, n])
    memo.gang[e, k] = gang
    memo.seen[e, k] = row.touched


@kernel
def _survey_models(row, models):
    """GPUs free and installed of each model, milli-GPUs; and the share of demand bound to it."""
    models[:, :] = 0.0
    for n in range(row.num_nodes):
        host = node(row, n)
        if host.state == NodeCode.UP:
            models[host.model & (MODELS - 1), _FREE] += host.gpu_free_milli
            models[host.model & (MODELS - 1), _CAPACITY] += host.gpus * 1000.0
    total = 0.0
    for t in range(row.num_typical):
        pod = typical(row, t)
        asked = pod.weight * pod.gpus * pod.gpu_milli
        total += asked
        for m in range(MODELS):
            if (np.uint64(pod.model_mask) >> np.uint64(m)) & _ONE != 0:
                models[m, _DEMAND] += asked
    for m in range(MODELS):
        models[m, _FREE] /= max(models[m, _CAPACITY], 1.0)
        models[m, _DEMAND] /= max(total, 1e-9)


@kernel
def _add_models(row, nodes, models, out):
    """The features by GPU model of the nodes that fit."""
    for n in range(nodes):
        if out[n, NodeColumn.FEASIBLE] != 0:
            model = node(row, n).model & (MODELS - 1)
            out[n, NodeColumn.MODEL_FREE] = _F(models[model, _FREE])
            out[n, NodeColumn.MODEL_DEMAND] = _F(models[model, _DEMAND])


@kernel
def _add_racks(row, nodes, out):
    """The free share of each rack: racks are runs of the nodes in order."""
    k = 0
    while k < row.num_nodes:
        first = node(row, order(row, k).node)
        free, gpus = np.int64(0), np.int64(0)
        last = k
        while last < row.num_nodes:
            host = node(row, order(row, last).node)
            if host.rack != first.rack or host.spine != first.spine:
                break
            if host.state == NodeCode.UP:
                free += host.gpu_free_milli
                gpus += host.gpus
            last += 1
        share = _F(free / max(gpus * 1000.0, 1.0))
        for i in range(k, last):
            n = order(row, i).node
            if n < nodes and out[n, NodeColumn.FEASIBLE] != 0:
                out[n, NodeColumn.RACK_FREE] = share
        k = last


@kernel
def encode_choices(row, e, window, candidates, memo, mask, out):
    """Describe every node as a place for each job of the window; how many placements are legal.

    The first ``candidates``, K, nodes are offered; where the row has fewer, the rest is illegal.
    ``memo`` is brought up to date, and ``e`` is where the row is in it. For a window of n
    jobs the first ``n * K`` entries of ``mask``, int8 [>= n * K], and of ``out``, float32
    [>= n * K, len(layout.NODE_NAMES)], are filled.
    """
    nodes = min(candidates, row.num_nodes)
    count, legal = window.shape[0], np.int64(0)
    if count > 0:
        _survey_models(row, memo.models[e])
    for i in range(count):
        j = np.int64(window[i])
        mine, allowed = out[i * candidates : (i + 1) * candidates], mask[i * candidates :]
        allowed[:candidates] = np.int8(0)
        if start_reason(row, j) != Reason.OK:
            mine[:, :] = _F(0.0)
            continue
        mine[nodes:, :] = _F(0.0)
        k = job(row, j).kind
        if 0 < k < memo.seen.shape[1]:
            _recall(row, e, k, j, nodes, memo)
            for n in range(nodes):  # slice by slice numba would set memory aside for a copy
                for c in range(mine.shape[1]):
                    mine[n, c] = memo.features[e, k, n, c]
        else:
            for n in range(nodes):
                _describe(row, j, n, mine[n])
        for n in range(nodes):
            if mine[n, NodeColumn.FEASIBLE] != 0:
                allowed[n] = np.int8(1)
                legal += 1
        _add_models(row, nodes, memo.models[e], mine)
        _add_racks(row, nodes, mine)
    return legal
