"""What a policy sees at a decision point, and what its answer means: encode and decode.

The same functions serve the rows of a session and the one row of a live cluster's snapshot.
Actions are numbered head by head:

``place`` [Q, K] | ``preempt`` [V] | ``shrink`` [E] | ``grow`` [E] | ``migrate`` [V] |
``scale_in`` [c] | ``scale_out`` [c] | ``fewer_replicas`` [S] | ``more_replicas`` [S] | ``wait``

Heads that an environment does not have are of size 0.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.candidates import (
    encode_candidates,
    encode_victims,
    select_victims,
)
from orchestrator.kernels.codes import (
    NO_JOB,
    NODE_CHOICE,
    ActionKind,
    Placement,
    Reason,
    RuleKey,
)
from orchestrator.kernels.decisions import can_wait
from orchestrator.kernels.elastics import encode_elastics, fewer_workers, select_elastics
from orchestrator.kernels.features import (
    CLUSTER_EXTRA,
    DEFAULT_NAMES,
    GLOBAL_NAMES,
    Encoding,
    encode_global,
    encode_queue,
)
from orchestrator.kernels.jit import kernel, part, small_kernel
from orchestrator.kernels.migration import migration_reason
from orchestrator.kernels.node_choices import encode_choices
from orchestrator.kernels.ordering import job_score
from orchestrator.kernels.placement import chosen_node
from orchestrator.kernels.rules import rule_action
from orchestrator.kernels.surroundings import (
    encode_capacity,
    encode_fleet,
    encode_nodes,
    encode_services,
    encode_tenants,
    survey_tenants,
)
from orchestrator.kernels.tables import job, queue, request, service
from orchestrator.kernels.victim_plans import moves_to_better

__all__ = ["decode", "encode"]

_GLOBALS = len(GLOBAL_NAMES)
_TENANT_AT = len(DEFAULT_NAMES) + len(CLUSTER_EXTRA)


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
def _encode_placements(row, e, count, source, buffers, bench):
    """Candidates of every job of the window; legal placements."""
    K = source.generators.shape[0]
    if source.generators[0] >= NODE_CHOICE:
        legal = encode_choices(
            row,
            e,
            buffers.window[e],
            count,
            np.int64(K),
            buffers.nodes,
            buffers.mask[e],
            buffers.candidates[e],
        )
    else:
        legal = encode_candidates(
            row,
            buffers.window[e],
            count,
            source.generators,
            bench.nodes,
            buffers.mask[e],
            buffers.candidates[e],
        )
    before = buffers.shown[e, 0]
    _blank(buffers.candidates[e], count * K, before * K)
    for a in range(count * K, before * K):
        buffers.mask[e, a] = np.int8(0)
    return legal


@part
def _encode_victims(row, e, source, buffers, bench):
    """Jobs that may be preempted, or moved; how many choices that makes."""
    V, at = row.victims, buffers.queue.shape[1] * source.generators.shape[0]
    victims = select_victims(row, buffers.victim_jobs[e]) if row.done == 0 else 0
    encode_victims(row, buffers.victim_jobs[e], victims, buffers.victims[e])
    _blank(buffers.victims[e], victims, buffers.shown[e, 1])
    buffers.shown[e, 1] = victims
    choices = victims
    for v in range(V):
        buffers.mask[e, at + v] = np.int8(v < victims)
    if row.migrate != 0:
        at += V + 2 * row.elastics
        generator = np.int64(source.generators[0])
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
def _encode_elastics(row, e, source, buffers, bench):
    """Elastic jobs; how many resizes are legal."""
    E = row.elastics
    at = buffers.queue.shape[1] * source.generators.shape[0] + row.victims
    mask = buffers.mask[e, at : at + 2 * E]
    mask[:] = np.int8(0)
    count = select_elastics(row, buffers.elastic_jobs[e]) if row.done == 0 else 0
    legal = encode_elastics(
        row, buffers.elastic_jobs[e], count, bench.nodes, mask, buffers.elastics[e]
    )
    _blank(buffers.elastics[e], count, buffers.shown[e, 2])
    buffers.shown[e, 2] = count
    return legal


@small_kernel
def _scaling_from(row, buffers):
    """Number of the first action that changes nodes or replicas."""
    return np.int64(buffers.mask.shape[1] - 1 - 2 * row.capacity_steps - 2 * row.services)


@part
def _encode_scaling(row, e, buffers, bench):
    """Services and changes of the fleet; how many changes are legal."""
    at, steps, services = _scaling_from(row, buffers), row.capacity_steps, row.services
    legal = 0
    if steps > 0:
        legal += encode_capacity(row, buffers.mask[e, at : at + 2 * steps], buffers.capacity[e])
    at += 2 * steps
    if services > 0:
        mask = buffers.mask[e, at : at + 2 * services]
        legal += encode_services(row, bench.nodes, mask, buffers.services[e])
    return legal


@part
def _encode_surroundings(row, e, source, buffers, bench):
    """What no action is about, each where it is shown: fleet, tenants, racks, a job's tenant."""
    settings, shares = source.settings[0], bench.tenants
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
        for i in range(buffers.shown[e, 0]):
            tenant = np.int64(request(row, buffers.window[e, i]).tenant)
            share, entitled = 0.0, 0.0
            if tenant < row.num_tenants:
                share, entitled = shares[tenant, 0], shares[tenant, 1]
            buffers.queue[e, i, _TENANT_AT] = np.float32(share)
            buffers.queue[e, i, _TENANT_AT + 1] = np.float32(share - entitled)


@small_kernel
def _place_of(jobs, count, j):
    """Where a job is in a set, or -1."""
    for i in range(count):
        if jobs[i] == j:
            return i
    return -1


@part
def _number(row, e, kind, j, value, source, buffers, bench):
    """Flat number of an action, or -1 if the sets that are shown do not hold it."""
    Q, K, V, E = buffers.queue.shape[1], source.generators.shape[0], row.victims, row.elastics
    if kind == ActionKind.WAIT:
        return buffers.mask.shape[1] - 1
    if kind == ActionKind.PLACE:
        i = _place_of(buffers.window[e], buffers.shown[e, 0], j)
        if i >= 0 and source.generators[0] >= NODE_CHOICE:
            n = chosen_node(row, j, value, bench.nodes)
            return i * K + n if n >= 0 else -1
        for k in range(K):
            if i >= 0 and source.generators[k] == value:
                return i * K + k
        return -1
    if kind == ActionKind.PREEMPT:
        i = _place_of(buffers.victim_jobs[e], buffers.shown[e, 1], j)
        return Q * K + i if i >= 0 else -1
    if kind == ActionKind.RESIZE:
        i = _place_of(buffers.elastic_jobs[e], buffers.shown[e, 2], j)
        step = E if value > job(row, j).workers_now else 0
        return Q * K + V + step + i if i >= 0 else -1
    at, steps = _scaling_from(row, buffers), row.capacity_steps
    if kind == ActionKind.CAPACITY and steps > 0:
        # The largest step, if the rule takes a larger one.
        return at + min(abs(value), steps) - 1 + (steps if value > 0 else 0)
    if kind == ActionKind.SERVICE and j < row.services:
        more = value > job(row, service(row, j).job).workers_now
        return at + 2 * steps + j + (row.services if more else 0)
    return -1


@part
def _advise(row, e, source, buffers, bench):
    """Mark what the advising rule would do here, if that is among the actions shown."""
    last = buffers.advised[e]
    if last >= 0:
        buffers.advice[e, last] = np.float32(0.0)
    buffers.advised[e] = -1
    if row.done != 0:
        return
    kind, j, value = rule_action(row, source.advisor[0], bench.jobs)
    a = _number(row, e, kind, j, value, source, buffers, bench)
    if a >= 0 and buffers.mask[e, a] != 0:
        buffers.advised[e] = np.int32(a)
        buffers.advice[e, a] = np.float32(1.0)


@kernel
def encode(row, e, source, buffers, bench):
    """Describe the decision point at which a row stands.

    Parameters
    ----------
    row : ROW_DTYPE record
    e : int
        Where in the buffers it is described.
    source, buffers, bench : Source, Buffers, Bench

    Returns
    -------
    int
        Choices besides waiting.
    """
    count = 0
    if row.done == 0:
        count = _select_window(row, buffers.window[e], bench.scores)
    encode_queue(
        row,
        np.int64(source.settings[0].encoding),
        buffers.window[e],
        count,
        buffers.static[e],
        bench.releases,
        bench.table,
        bench.columns,
        buffers.queue[e],
    )
    encode_global(row, np.int64(source.settings[0].encoding), buffers.globals[e])
    before = buffers.shown[e, 0]
    _blank(buffers.queue[e], count, before)
    if row.commitment != 0:
        # Any job of the window may be chosen: only the difference to the last mask is written.
        for i in range(before, count):
            buffers.mask[e, i] = np.int8(1)
        for i in range(count, before):
            buffers.mask[e, i] = np.int8(0)
        buffers.shown[e, 0] = count
        if source.settings[0].advice != 0:
            _advise(row, e, source, buffers, bench)
        return count
    choices = _encode_placements(row, e, count, source, buffers, bench)
    buffers.shown[e, 0] = count
    if row.victims > 0:
        choices += _encode_victims(row, e, source, buffers, bench)
    if row.elastics > 0:
        choices += _encode_elastics(row, e, source, buffers, bench)
    if row.capacity_steps > 0 or row.services > 0:
        choices += _encode_scaling(row, e, buffers, bench)
    if source.settings[0].around != 0:
        _encode_surroundings(row, e, source, buffers, bench)
    buffers.mask[e, buffers.mask.shape[1] - 1] = np.int8(row.done == 0 and can_wait(row))
    if source.settings[0].advice != 0:
        _advise(row, e, source, buffers, bench)
    return choices


@small_kernel
def _shown(jobs, index, count):
    """The job at a place of a set, or NO_JOB."""
    return np.int64(jobs[index]) if index < count else np.int64(NO_JOB)


@kernel
def decode(row, e, action, source, buffers):
    """(kind, job, value) of a flat action, as ``commit`` takes them.

    An action without an object has job NO_JOB, and one that does not exist has kind -1.
    """
    Q, K, V, E = buffers.queue.shape[1], source.generators.shape[0], row.victims, row.elastics
    value = np.int64(Placement.FIRST_FIT)
    if row.commitment == 0 and action == buffers.mask.shape[1] - 1:
        return np.int64(ActionKind.WAIT), np.int64(0), value
    if action < 0 or action >= buffers.mask.shape[1]:
        return np.int64(-1), np.int64(0), value
    if action < Q * K:
        j = _shown(buffers.window[e], action // K, buffers.shown[e, 0])
        return np.int64(ActionKind.PLACE), j, np.int64(source.generators[action % K])
    action -= Q * K
    if action < V:
        j = _shown(buffers.victim_jobs[e], action, buffers.shown[e, 1])
        return np.int64(ActionKind.PREEMPT), j, value
    action -= V
    if action < 2 * E:
        j = _shown(buffers.elastic_jobs[e], action % E, buffers.shown[e, 2])
        if j >= 0:
            more = np.int64(job(row, j).workers_now) + 1
            value = fewer_workers(row, j) if action < E else more
        return np.int64(ActionKind.RESIZE), j, value
    action -= 2 * E
    if row.migrate != 0 and action < V:
        j = _shown(buffers.victim_jobs[e], action, buffers.shown[e, 1])
        return np.int64(ActionKind.MIGRATE), j, np.int64(source.generators[0])
    action -= V if row.migrate != 0 else 0
    steps, services = row.capacity_steps, row.services
    if action < 2 * steps:
        delta = np.int64(-1 - action) if action < steps else np.int64(action - steps + 1)
        return np.int64(ActionKind.CAPACITY), np.int64(NO_JOB), delta
    action -= 2 * steps
    s = np.int64(action % max(services, 1))
    if s < row.num_services:
        step = np.int64(-1) if action < services else np.int64(1)
        value = np.int64(job(row, service(row, s).job).workers_now) + step
    return np.int64(ActionKind.SERVICE), s, value
