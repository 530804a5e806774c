"""Fill a gang: a node for every worker, or nothing.

All of them fill ``nodes`` [>= workers], a buffer of the caller's, and return how many workers
found a place: as many as the job asks for, or fewer (not below its minimum) if it is elastic, or
none. They read the state and never write it.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.numbers import random_below
from orchestrator.kernels.place.domains import is_bound, place_in_domains
from orchestrator.kernels.place.fit import least_units, least_workers
from orchestrator.kernels.place.memo import (
    best_node,
    find_kind,
    find_view,
    mask_nodes,
    slots_at,
    sum_up,
    unmask_nodes,
    update_rooms,
    uses_tree,
)
from orchestrator.kernels.place.score import FREE_BITS, MOST_FREE, NO_KEY, node_key
from orchestrator.kernels.place.slots import (
    WHOLE,
    alone_slots,
    device_slots,
    free_share,
    free_units,
    most_on_a_node,
    put_workers,
    worker_share,
    worker_slots,
    workers_on,
)
from orchestrator.kernels.state.access import job, kind, node, request, room, slot, uplink, worker
from orchestrator.kernels.state.codes import NODE_CHOICE, NodeCode, Placement, Stream, Topology

__all__ = [
    "are_alike",
    "chosen_node",
    "close_place",
    "fill_nodes",
    "has_room_for_one",
    "island_of",
    "place_gang",
    "place_more",
    "place_workers",
]


@kernel
def _fill_in_order(row, j, k, workers, offset, nodes):
    """Nodes in order of their index, starting at ``offset``, each filled up."""
    placed, n = np.int64(0), np.int64(offset)
    for _ in range(row.num_nodes):
        placed = put_workers(nodes, placed, n, slots_at(row, j, k, n, workers - placed))
        if placed == workers:
            break
        n += 1
        if n == row.num_nodes:
            n = np.int64(0)
    return placed


@small_kernel
def _left_at(row, j, k, n, limit, nodes, placed):
    """Workers, at most ``limit``, that node ``n`` can hold besides those that are put there."""
    if k > 0:
        return min(np.int64(slot(row, k, n).workers), limit)
    taken = workers_on(nodes, placed, n)
    return worker_slots(row, j, n, taken + limit) - taken


@small_kernel
def _share_left(row, j, k, n, nodes, placed):
    """What stays free on node ``n`` besides those that are put there."""
    if k > 0:
        return room(row, n).share
    return free_share(row, n) - workers_on(nodes, placed, n) * worker_share(row, j)


@small_kernel
def _put(row, j, k, n, count, nodes, placed):
    """Put ``count`` workers on node ``n``; what is remembered holds so many fewer meanwhile."""
    if k > 0:
        slot(row, k, n).workers -= np.int32(count)
        room(row, n).share -= count * worker_share(row, j)
    return put_workers(nodes, placed, n, count)


@small_kernel
def _put_back(row, j, k, nodes, placed):
    """Remember what it was before the workers were put somewhere."""
    if k > 0:
        for w in range(placed):
            slot(row, k, nodes[w]).workers += np.int32(1)
            room(row, nodes[w]).share += worker_share(row, j)


@kernel
def _best_by_key(row, j, k, limit, generator, nodes, placed):
    """The node of the highest key, and the workers, at most ``limit``, that it holds."""
    best, best_slots, best_key = np.int64(-1), np.int64(0), NO_KEY
    for n in range(row.num_nodes):
        slots = _left_at(row, j, k, np.int64(n), limit, nodes, placed)
        if slots > 0:
            key = node_key(row, j, np.int64(n), slots, generator)
            if key > best_key:
                best, best_slots, best_key = np.int64(n), slots, key
    return best, best_slots


@kernel
def _best_by_room(row, k, limit, tightest):
    """The same for best fit (``tightest``) and worst fit, where slots and rooms are remembered."""
    best, best_slots, best_key = np.int64(-1), np.int64(0), NO_KEY
    for n in range(row.num_nodes):
        slots = min(np.int64(slot(row, k, n).workers), limit)
        if slots > 0:
            share = min(room(row, n).share, MOST_FREE)
            key = (slots << FREE_BITS) - share if tightest else share
            if key > best_key:
                best, best_slots, best_key = np.int64(n), slots, key
    return best, best_slots


@kernel
def _fill_by_key(row, j, k, workers, generator, nodes):
    """Fill one node after the other, the one of the highest key first."""
    tightest = generator == Placement.BEST_FIT
    by_room = k > 0 and (tightest or generator == Placement.WORST_FIT)
    placed = np.int64(0)
    while placed < workers:
        left = workers - placed
        if by_room:
            best, slots = _best_by_room(row, k, left, tightest)
        else:
            best, slots = _best_by_key(row, j, k, left, generator, nodes, placed)
        if best < 0:
            break
        placed = _put(row, j, k, best, slots, nodes, placed)
    _put_back(row, j, k, nodes, placed)
    return placed


@kernel
def _spread(row, j, k, workers, nodes):
    """One worker at a time on the node with the most room left."""
    placed = np.int64(0)
    while placed < workers:
        best, best_room = np.int64(-1), np.int64(0)
        for n in range(row.num_nodes):
            if _left_at(row, j, k, np.int64(n), np.int64(1), nodes, placed) <= 0:
                continue
            room_left = _share_left(row, j, k, np.int64(n), nodes, placed)
            if best < 0 or room_left > best_room:
                best, best_room = np.int64(n), room_left
        if best < 0:
            break
        placed = _put(row, j, k, best, np.int64(1), nodes, placed)
    _put_back(row, j, k, nodes, placed)
    return placed


@small_kernel
def _cap(row, j, workers):
    """Workers beyond which no node can tell a difference."""
    return max(min(np.int64(workers), most_on_a_node(row, j)), np.int64(1))


@kernel
def _fill_by_tree(row, j, k, workers, generator, nodes):
    """What :func:`_fill_by_key` does, by a tournament tree of kind ``k``."""
    placed, masked = np.int64(0), np.int64(0)
    by_slots = generator == Placement.BEST_FIT  # the key depends on how many are left
    limit = _cap(row, j, workers) if by_slots else np.int64(0)
    v = find_view(row, j, k, generator, limit)
    while placed < workers:
        left = _cap(row, j, workers - placed)
        if by_slots and left != limit:
            unmask_nodes(row, j, k, v, nodes, masked)
            limit, masked = left, np.int64(0)
            v = find_view(row, j, k, generator, limit)
        mask_nodes(row, v, nodes, masked, placed)
        masked = placed
        n = best_node(row, v)
        if n < 0:
            break
        placed = put_workers(nodes, placed, n, slots_at(row, j, k, n, workers - placed))
    unmask_nodes(row, j, k, v, nodes, masked)
    return placed


@kernel
def _place_one(row, k, generator, nodes):
    """One worker of a remembered kind: first fit, best fit or spread."""
    sum_up(row, k)
    n = kind(row, k).first
    if generator == Placement.BEST_FIT:
        n = kind(row, k).tightest
    elif generator == Placement.SPREAD:
        n = kind(row, k).roomiest
    nodes[0] = np.int32(n)
    return np.int64(n >= 0)


@kernel
def fill_nodes(row, j, k, workers, generator, nodes):
    """Fill ``nodes`` with up to ``workers`` workers of a gang bound to no domain; how many fit.

    ``k`` is the job's kind, 0 if it is not remembered; else slots and rooms are read as they stand.
    """
    if generator == Placement.SPREAD:
        return _spread(row, j, k, workers, nodes)
    if generator == Placement.FIRST_FIT:
        return _fill_in_order(row, j, k, workers, np.int64(0), nodes)
    if generator == Placement.RANDOM:
        offset = random_below(row.seed, Stream.PLACEMENT, row.point, row.num_nodes)
        return _fill_in_order(row, j, k, workers, offset, nodes)
    return _fill_by_key(row, j, k, workers, generator, nodes)


@kernel
def _fill_node(row, j, workers, n, nodes):
    """As many workers as fit on node ``n``."""
    if n >= row.num_nodes:
        return np.int64(0)
    return put_workers(nodes, np.int64(0), n, alone_slots(row, j, n, workers))


@kernel
def place_workers(row, j, workers, generator, nodes):
    """Choose nodes for up to ``workers`` workers of job ``j``; how many found a place.

    Arguments as of :func:`place_gang`.
    """
    if generator >= NODE_CHOICE:
        return _fill_node(row, j, workers, np.int64(generator - NODE_CHOICE), nodes)
    offset = np.int64(0)
    if generator == Placement.RANDOM or generator == Placement.UNIFORM:
        offset = random_below(row.seed, Stream.PLACEMENT, row.point, row.num_nodes)
    if is_bound(row, j) or (generator == Placement.TIGHTEST and workers > 1):
        return place_in_domains(row, j, workers, generator, offset, nodes)
    key = np.int64(generator)
    if generator == Placement.TIGHTEST:
        key = np.int64(Placement.BEST_FIT)
    k = find_kind(row, j)
    if k > 0:
        if uses_tree(row, key):
            return _fill_by_tree(row, j, k, workers, key, nodes)
        update_rooms(row)
        if workers == 1 and key <= Placement.SPREAD:
            return _place_one(row, k, key, nodes)
    return fill_nodes(row, j, k, workers, key, nodes)


@kernel
def place_gang(row, j, generator, nodes):
    """Choose a node for each worker of job ``j``; workers placed, 0 if fewer than the job needs.

    ``nodes`` is filled for them, and meaningless beyond. ``generator`` may be ``NODE_CHOICE + n``
    for node ``n``.
    """
    if least_units(row, j) > row.free_units:
        return np.int64(0)
    placed = place_workers(row, j, np.int64(request(row, j).workers), generator, nodes)
    return placed if placed >= least_workers(row, j) else np.int64(0)


@kernel
def chosen_node(row, j, generator, nodes):
    """The node on which a generator places the whole gang of job ``j``, or -1; see place_gang."""
    placed = place_gang(row, j, generator, nodes)
    for w in range(1, placed):
        if nodes[w] != nodes[0]:
            return np.int64(-1)
    return np.int64(nodes[0]) if placed > 0 else np.int64(-1)


_ONE = np.uint64(1)


@small_kernel
def _stays_close(row, j, n):
    """Whether node ``n`` lies in the topology domain that the gang must not leave."""
    first = worker(row, j, 0).node
    topology = request(row, j).topology
    if topology == Topology.ANY or n == first:
        return True
    if topology == Topology.SPINE:
        return node(row, n).spine == node(row, first).spine
    if topology == Topology.RACK:
        return node(row, n).rack == node(row, first).rack
    return False


@kernel
def island_of(row, j):
    """First device and the end of the island that a gang must stay in; (0, 0) if it need not."""
    if request(row, j).topology != Topology.ISLAND or request(row, j).gpus_per_worker == 0:
        return np.int64(0), np.int64(0)
    size = np.int64(node(row, worker(row, j, 0).node).island)
    devices = worker(row, j, 0).devices
    g = np.int64(0)
    while (devices >> np.uint64(g)) & _ONE == 0:
        g += 1
    first = g // size * size
    return first, first + size


@kernel
def _mates(row, j, n):
    """Workers of the gang that are on node ``n``."""
    count = np.int64(0)
    for w in range(job(row, j).workers_now):
        if worker(row, j, w).node == n:
            count += 1
    return count


@kernel
def _slots(row, j, n, mates, limit):
    """Workers, at most ``limit``, that the gang may add on node ``n``.

    A gang with traffic grows only where it is: on another node, all of its workers would begin to
    need bandwidth.
    """
    ask = request(row, j)
    slots = worker_slots(row, j, n, limit)
    first, last = island_of(row, j)
    if last > 0 and slots > 0:
        slots = device_slots(row, j, n, first, last, slots)
    if ask.bandwidth_mbps == 0 or slots == 0:
        return slots
    if mates == 0:
        return np.int64(0)
    if mates == job(row, j).workers_now:  # on one node no link is used
        return slots
    if node(row, n).bandwidth_mbps > 0:
        slots = min(slots, node(row, n).bandwidth_free_mbps // ask.bandwidth_mbps)
    rack = node(row, n).rack
    if job(row, j).spread < Topology.RACK and rack < row.num_uplinks:
        if uplink(row, rack).capacity_mbps > 0:
            slots = min(slots, uplink(row, rack).free_mbps // ask.bandwidth_mbps)
    return max(slots, np.int64(0))


@kernel
def place_more(row, j, count, nodes):
    """Fill ``nodes`` with ``count`` more workers of a running gang; how many found a place.

    Nodes that hold many of the gang come first, then those that hold most of what is left and have
    least to spare; of equals, the first one.
    """
    placed = np.int64(0)
    while placed < count:
        left = count - placed
        best, best_slots, best_mates, best_free = (
            np.int64(-1),
            np.int64(0),
            np.int64(0),
            np.int64(0),
        )
        for n in range(row.num_nodes):
            if workers_on(nodes, placed, n) > 0 or not _stays_close(row, j, n):
                continue
            mates = _mates(row, j, n)
            slots = _slots(row, j, n, mates, left)
            if slots == 0:
                continue
            free = free_units(row, n)
            better = mates > best_mates
            if mates == best_mates:
                better = slots > best_slots or (slots == best_slots and free < best_free)
            if best < 0 or better:
                best, best_slots, best_mates, best_free = n, slots, mates, free
        if best < 0:
            break
        placed = put_workers(nodes, placed, best, best_slots)
        if request(row, j).bandwidth_mbps > 0:
            break  # what it takes of a shared uplink is not known until it is reserved
    return placed


# --- where a job itself would go -----------------------------------------------------------------


@small_kernel
def _holds_all(row, j, n):
    """Whether node ``n`` has room for all workers of job ``j``, which takes whole GPUs."""
    ask, host = request(row, j), node(row, n)
    if host.state != NodeCode.UP or host.whole_free < ask.workers * ask.gpus_per_worker:
        return False
    if host.cpu_free_milli < ask.workers * ask.cpu_milli:
        return False
    if host.memory_free_mib < ask.workers * ask.memory_mib:
        return False
    if host.gpu_memory_mib < ask.gpu_memory_mib:
        return False
    mask = np.int64(ask.model_mask)
    return mask == 0 or (mask >> np.int64(host.model)) & 1 == 1


@kernel
def are_alike(row, links):
    """Whether the nodes' links are all equally good."""
    for n in range(1, row.num_nodes):
        if links[n] != links[0]:
            return False
    return True


@kernel
def close_place(row, j, links, alike):
    """Where a topology-aware job goes: a ``Placement``, or ``NODE_CHOICE`` and a node.

    Into the narrowest domain that holds it. Several whole GPUs go to one node if any holds them
    all, and there to one with the best links between its GPUs, of those to the one with least free.
    ``links``, uint8 [>= nodes], says how good each node's are, and ``alike`` whether equally.
    """
    ask = request(row, j)
    close = np.int64(Placement.TIGHTEST if ask.workers > 1 else Placement.BEST_FIT)
    several = ask.workers * ask.gpus_per_worker > 1 and ask.gpu_milli == WHOLE
    if alike or not several or ask.topology == Topology.ISLAND:
        return close
    best = np.int64(-1)
    for n in range(row.num_nodes):
        if not _holds_all(row, j, np.int64(n)):
            continue
        better = best < 0 or links[n] > links[best]
        if best >= 0 and links[n] == links[best]:
            free, least = node(row, n).gpu_free_milli, node(row, best).gpu_free_milli
            better = free < least
            if free == least:
                better = node(row, n).cpu_free_milli < node(row, best).cpu_free_milli
        if better:
            best = np.int64(n)
    return close if best < 0 else NODE_CHOICE + best


@kernel
def has_room_for_one(row, j, nodes):
    """Whether one more worker of a running gang has a place; ``nodes``, int32 [>= 1], is scratch.

    Where it is remembered, nobody looks for it.
    """
    ask = request(row, j)
    if job(row, j).kind > 0 and ask.topology == Topology.ANY and ask.bandwidth_mbps == 0:
        return kind(row, find_kind(row, j)).total > 0
    return place_more(row, j, np.int64(1), nodes) == 1
