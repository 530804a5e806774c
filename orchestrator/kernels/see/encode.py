"""What a policy sees at a decision point: the sets in order, the mask, the advice.

The same functions serve the rows of a session and the one row of a live cluster's snapshot. Where
everything is in what they write, :mod:`orchestrator.kernels.see.layout` says.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.decide.legal import can_wait
from orchestrator.kernels.decide.order import job_score
from orchestrator.kernels.decide.rules import rule_action
from orchestrator.kernels.decide.whatif import migration_reason, moves_to_better
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.see.candidates import encode_candidates, encode_choices
from orchestrator.kernels.see.cluster import (
    encode_capacity,
    encode_fleet,
    encode_nodes,
    encode_services,
    encode_tenants,
    survey_tenants,
)
from orchestrator.kernels.see.layout import (
    GLOBAL_NAMES,
    ActionHead,
    QueueColumn,
    ShareColumn,
    Shown,
    SizeChoice,
    number,
)
from orchestrator.kernels.see.queue import Encoding, encode_global, encode_queue, fill_static
from orchestrator.kernels.see.running import (
    encode_elastics,
    encode_sizes,
    encode_victims,
    mask_steps,
    select_elastics,
    select_victims,
)
from orchestrator.kernels.state.access import queue, request
from orchestrator.kernels.state.codes import NODE_CHOICE, Reason, RuleKey

__all__ = ["encode", "forget_looks", "look_anew", "look_at_jobs"]


_GLOBALS = len(GLOBAL_NAMES)


_CHOICES = len(SizeChoice)


@part
def _select_window(row, window, scores):
    """Fill the window with the queue's first jobs under the window order; return their number."""
    size = window.shape[0]
    if row.window_order == RuleKey.FCFS:
        count = min(row.queue_len, size)
        for i in range(count):
            window[i] = queue(row, i).job
        return count
    count = 0
    for q in range(row.queue_len):
        j = queue(row, q).job
        score = job_score(row, j, row.window_order)
        if count == size and score >= scores[size - 1]:
            continue
        k = count if count < size else size - 1
        while k > 0 and scores[k - 1] > score:
            scores[k] = scores[k - 1]
            window[k] = window[k - 1]
            k -= 1
        scores[k] = score
        window[k] = j
        count = min(count + 1, size)
    return count


@small_kernel
def _blank(rows, count, before):
    """Zero the entries of a set that the last encoding filled and this one does not."""
    for i in range(count, before):
        rows[i, :] = np.float32(0.0)


@part
def _encode_placements(row, e, count, view, buffers, bench):
    """Candidates of every job of the window; legal placements."""
    K = view.generators.shape[0]
    mask = buffers.mask[e, view.heads[ActionHead.PLACE] : view.heads[ActionHead.PREEMPT]]
    if view.generators[0] >= NODE_CHOICE:
        legal = encode_choices(
            row,
            e,
            buffers.window[e, :count],
            np.int64(K),
            buffers.nodes,
            mask,
            buffers.candidates[e],
        )
    else:
        legal = encode_candidates(
            row,
            buffers.window[e],
            count,
            view.generators,
            bench.nodes,
            mask,
            buffers.candidates[e],
        )
    before = buffers.shown[e, Shown.JOBS]
    _blank(buffers.candidates[e], count * K, before * K)
    for a in range(count * K, before * K):
        mask[a] = np.int8(0)
    return legal


@part
def _encode_victims(row, e, view, buffers, bench):
    """Jobs that may be preempted, or moved; how many choices that makes."""
    V, at = row.victims, view.heads[ActionHead.PREEMPT]
    victims = select_victims(row, buffers.victim_jobs[e]) if row.done == 0 else 0
    encode_victims(row, buffers.victim_jobs[e], victims, buffers.victims[e])
    _blank(buffers.victims[e], victims, buffers.shown[e, Shown.VICTIMS])
    buffers.shown[e, Shown.VICTIMS] = victims
    choices = victims
    for v in range(V):
        buffers.mask[e, at + v] = np.int8(v < victims)
    if row.migrate != 0:
        at = view.heads[ActionHead.MIGRATE]
        generator = np.int64(view.generators[0])
        for v in range(V):
            moves = False
            if v < victims:
                j = np.int64(buffers.victim_jobs[e, v])
                moves = migration_reason(row, j) == Reason.OK
                moves = moves and moves_to_better(row, j, generator, bench.nodes)
            buffers.mask[e, at + v] = np.int8(moves)
            choices += np.int64(moves)
    return choices


@part
def _encode_elastics(row, e, view, buffers, bench):
    """Elastic jobs, and the sizes that they may be given; how many resizes are legal."""
    heads, jobs = view.heads, buffers.elastic_jobs[e]
    mask = buffers.mask[e, heads[ActionHead.SHRINK] : heads[ActionHead.MIGRATE]]
    mask[:] = np.int8(0)
    before = buffers.shown[e, Shown.ELASTICS]
    count = select_elastics(row, jobs) if row.done == 0 else 0
    encode_elastics(row, jobs, count, buffers.elastics[e])
    _blank(buffers.elastics[e], count, before)
    if heads[ActionHead.RESIZE] < heads[ActionHead.MIGRATE]:
        sizes, out = buffers.resize_to[e], buffers.sizes[e]
        legal = encode_sizes(row, jobs, count, bench.nodes, mask, sizes, out)
        _blank(out, count * _CHOICES, before * _CHOICES)
    else:
        legal = mask_steps(row, jobs, count, bench.nodes, mask)
    buffers.shown[e, Shown.ELASTICS] = count
    return legal


@part
def _encode_scaling(row, e, view, buffers, bench):
    """Services and changes of the fleet; how many changes are legal."""
    heads, legal = view.heads, 0
    if row.capacity_steps > 0:
        mask = buffers.mask[e, heads[ActionHead.SCALE_IN] : heads[ActionHead.FEWER_REPLICAS]]
        legal += encode_capacity(row, heads, mask, buffers.capacity[e])
    if row.services > 0:
        mask = buffers.mask[e, heads[ActionHead.FEWER_REPLICAS] : heads[ActionHead.WAIT]]
        legal += encode_services(row, bench.nodes, mask, buffers.services[e])
    return legal


@part
def _encode_surroundings(row, e, view, buffers, bench):
    """What no action is about, each where it is shown: fleet, tenants, racks, a job's tenant."""
    settings, shares = view.settings[0], bench.tenants
    fleet = buffers.globals[e, _GLOBALS:] if settings.fleet != 0 else buffers.globals[e, :0]
    survey_tenants(row, shares)
    if settings.fleet != 0:
        encode_fleet(row, shares, fleet)
    if buffers.nodes_seen[e] != row.touched:  # some node has changed
        encode_nodes(row, bench.racks, fleet, buffers.racks[e])
        buffers.nodes_seen[e] = row.touched
    if settings.tenants != 0:
        encode_tenants(row, shares, buffers.tenants[e])
    if settings.encoding == Encoding.FULL:
        for i in range(buffers.shown[e, Shown.JOBS]):
            tenant = np.int64(request(row, buffers.window[e, i]).tenant)
            share, entitled = 0.0, 0.0
            if tenant < row.num_tenants:
                share = shares[tenant, ShareColumn.SHARE]
                entitled = shares[tenant, ShareColumn.ENTITLED]
            buffers.queue[e, i, QueueColumn.TENANT_SHARE] = np.float32(share)
            buffers.queue[e, i, QueueColumn.TENANT_EXCESS] = np.float32(share - entitled)


@part
def _advise(row, e, view, buffers, bench):
    """Mark what the advising rule would do here, if that is among the actions shown."""
    last = buffers.advised[e]
    if last >= 0:
        buffers.advice[e, last] = np.float32(0.0)
    buffers.advised[e] = -1
    if row.done != 0:
        return
    action = rule_action(row, view.advisor[0], bench.jobs)
    a = number(row, e, action, view, buffers, bench.nodes)
    if a >= 0 and buffers.mask[e, a] != 0:
        buffers.advised[e] = np.int32(a)
        buffers.advice[e, a] = np.float32(1.0)


@part
def look_anew(row, e, view, buffers):
    """Forget how a row looked: it has become another one, or nobody knows what happened to it."""
    look_at_jobs(row, e, view, buffers, np.int64(0))
    forget_looks(e, buffers)


@part
def look_at_jobs(row, e, view, buffers, first):
    """Work out what is constant of the jobs from ``first`` on."""
    encoding = np.int64(view.settings[0].encoding)
    fill_static(row, encoding, view.maxima, buffers.static[e], first)


@part
def forget_looks(e, buffers):
    """Forget how the nodes of a row looked."""
    buffers.nodes_seen[e] = -1
    buffers.nodes.seen[e, :] = 0


@kernel
def encode(row, e, view, buffers, bench):
    """Describe the decision point of a row, ``e`` in the buffers; how many choices but waiting."""
    settings, heads = view.settings[0], view.heads
    encoding = np.int64(settings.encoding)
    count = 0
    if row.done == 0:
        count = _select_window(row, buffers.window[e], bench.scores)
    encode_queue(
        row,
        encoding,
        buffers.window[e, :count],
        buffers.static[e],
        bench,
        buffers.queue[e],
    )
    encode_global(row, encoding, buffers.globals[e])
    before = buffers.shown[e, Shown.JOBS]
    _blank(buffers.queue[e], count, before)
    if row.commitment != 0:
        # Any job of the window may be chosen: only the difference to the last mask is written.
        at = heads[ActionHead.PLACE]
        for i in range(before, count):
            buffers.mask[e, at + i] = np.int8(1)
        for i in range(count, before):
            buffers.mask[e, at + i] = np.int8(0)
        buffers.shown[e, Shown.JOBS] = count
        if settings.advice != 0:
            _advise(row, e, view, buffers, bench)
        return count
    choices = _encode_placements(row, e, count, view, buffers, bench)
    buffers.shown[e, Shown.JOBS] = count
    if row.victims > 0:
        choices += _encode_victims(row, e, view, buffers, bench)
    if row.elastics > 0:
        choices += _encode_elastics(row, e, view, buffers, bench)
    if row.capacity_steps > 0 or row.services > 0:
        choices += _encode_scaling(row, e, view, buffers, bench)
    if settings.around != 0:
        _encode_surroundings(row, e, view, buffers, bench)
    buffers.mask[e, heads[ActionHead.WAIT]] = np.int8(row.done == 0 and can_wait(row))
    if settings.advice != 0:
        _advise(row, e, view, buffers, bench)
    return choices
