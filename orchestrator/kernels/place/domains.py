"""Gangs that must stay close together, or whose traffic needs bandwidth when they spread.

A domain is a run of the nodes in the order of (spine, rack): a node, a rack, a spine or all of
them. A gang that spans nodes needs bandwidth for each of its workers on its node; one that spans
racks needs it on its racks' uplinks, too. A node or rack without a stated bandwidth has no limit.

How many workers fit into a domain is found exactly by filling it in any order: each node and each
rack within a domain has a limit of its own. What a node holds is read where it is remembered
(``place.memo``): records of nodes are large, and those of a large cluster are in no cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.place.memo import find_kind, slots_at
from orchestrator.kernels.place.score import NO_KEY, node_key
from orchestrator.kernels.place.slots import (
    free_share,
    island_slots,
    most_on_a_node,
    put_workers,
    worker_share,
    worker_slots_when_empty,
    workers_on,
)
from orchestrator.kernels.state.access import node, order, request, uplink
from orchestrator.kernels.state.codes import NodeCode, Placement, Topology

__all__ = ["domain_room", "is_bound", "place_in_domains"]


_UNLIMITED = np.int64(1 << 40)


@small_kernel
def is_bound(row, j):
    """Whether it matters for job ``j`` how its nodes are connected."""
    ask = request(row, j)
    if ask.topology == Topology.ISLAND:
        return True
    return ask.workers > 1 and (ask.topology != Topology.ANY or ask.bandwidth_mbps > 0)


class _Gang(NamedTuple):
    """Who is looked for room for."""

    j: int
    kind: int  # what is remembered of the nodes, see place.memo; 0: nothing
    traffic: int  # Mbit/s that a worker sends to the others
    empty: bool  # whether the cluster is supposed to be empty


@small_kernel
def _gang(row, j, traffic, empty):
    known = np.int64(0) if empty else find_kind(row, j)
    return _Gang(np.int64(j), known, np.int64(traffic), empty)


@kernel
def _slots(row, gang, n, limit, level):
    """Workers that node ``n`` holds as a part of a domain of a level."""
    j, traffic, empty = gang.j, gang.traffic, gang.empty
    if level == Topology.ISLAND:
        return island_slots(row, j, n, limit, empty)
    if empty:
        slots = worker_slots_when_empty(row, j, n, limit)
    else:
        slots = slots_at(row, j, gang.kind, n, limit)
    if traffic > 0 and level < Topology.NODE and node(row, n).bandwidth_mbps > 0:
        free = np.int64(node(row, n).bandwidth_mbps) if empty else node(row, n).bandwidth_free_mbps
        slots = min(slots, free // traffic)
    return slots


@small_kernel
def _ignores_uplinks(gang, level):
    """Whether no uplink matters: nothing is sent between racks."""
    return gang.traffic == 0 or level >= Topology.RACK


@small_kernel
def _uplink_slots(row, gang, rack, level):
    """Workers whose traffic a rack's uplink carries, in a domain of several racks."""
    if _ignores_uplinks(gang, level) or rack >= row.num_uplinks:
        return _UNLIMITED
    link = uplink(row, rack)
    if link.capacity_mbps == 0:
        return _UNLIMITED
    return (link.capacity_mbps if gang.empty else link.free_mbps) // gang.traffic


@small_kernel
def _are_together(row, k, start, level):
    """Whether the node at position ``k`` of the order is in the domain of that at ``start``."""
    first, other = node(row, order(row, start).node), node(row, order(row, k).node)
    return other.spine == first.spine and (level != Topology.RACK or other.rack == first.rack)


@kernel
def _domain_end(row, start, level):
    """Where the domain of a level that begins at a position of the order ends."""
    if level >= Topology.NODE:
        return start + 1
    if level == Topology.ANY:
        return np.int64(row.num_nodes)
    # Larger and larger steps, and then back: few of its nodes are looked at.
    end, step = start + 1, np.int64(1)  # all before ``end`` belong to it
    while end - 1 + step < row.num_nodes and _are_together(row, end - 1 + step, start, level):
        end += step
        step *= 2
    beyond = min(end - 1 + step, np.int64(row.num_nodes))
    while end < beyond:
        middle = (end + beyond) >> 1
        if _are_together(row, middle, start, level):
            end = middle + 1
        else:
            beyond = middle
    return end


class _Domain(NamedTuple):
    """A run of nodes that are close together."""

    start: int  # its first position in the order of nodes
    end: int  # and the one after its last
    level: int  # Topology


@kernel
def _room(row, gang, domain, want):
    """Workers, at most ``want``, that a domain holds."""
    total = np.int64(0)
    k, level = domain.start, domain.level
    if _ignores_uplinks(gang, level):
        while k < domain.end and total < want:
            total += _slots(row, gang, order(row, k).node, want - total, level)
            k += 1
        return total
    while k < domain.end and total < want:
        rack = node(row, order(row, k).node).rack
        here = np.int64(0)
        while k < domain.end and node(row, order(row, k).node).rack == rack:
            if here < want:
                here += _slots(row, gang, order(row, k).node, want - here, level)
            k += 1
        total += min(here, _uplink_slots(row, gang, rack, level))
    return min(total, want)


@small_kernel
def _narrowest(row, j, traffic, generator):
    """The narrowest level worth trying: the required one, unless being closer saves bandwidth."""
    wanted = np.int64(request(row, j).topology)
    if generator == Placement.TIGHTEST or traffic > 0:
        return max(wanted, np.int64(Topology.NODE))
    return wanted


@kernel
def domain_room(row, j, want, traffic, empty):
    """Workers of job ``j``, at most ``want``, that some domain that it may use holds.

    A worker needs ``traffic`` Mbit/s; 0 leaves bandwidth out of it. With ``empty`` the cluster is
    supposed to be empty.
    """
    return _best_room(row, _gang(row, j, traffic, empty), want)


@kernel
def _best_room(row, gang, want):
    best = np.int64(0)
    level = _narrowest(row, gang.j, gang.traffic, np.int64(Placement.BEST_FIT))
    while level >= np.int64(request(row, gang.j).topology):
        start = np.int64(0)
        while start < row.num_nodes:
            end = _domain_end(row, start, level)
            best = max(best, _room(row, gang, _Domain(start, end, level), want))
            if best >= want:
                return best
            start = end
        level -= 1
    return best


@part
def _choose_domain(row, gang, want, level, generator, offset):
    """The domain of a level, holding ``want`` workers, that suits a generator: (start, end)."""
    best_start, best_end, best_cost = np.int64(-1), np.int64(-1), np.int64(0)
    spreads = generator == Placement.SPREAD or generator == Placement.WORST_FIT
    start = np.int64(0)
    if level >= Topology.NODE and want > most_on_a_node(row, gang.j):
        start = np.int64(row.num_nodes)  # no need to look
    while start < row.num_nodes:
        end = _domain_end(row, start, level)
        if _room(row, gang, _Domain(start, end, level), want) >= want:
            cost = np.int64(0)
            if generator == Placement.RANDOM or generator == Placement.UNIFORM:
                cost = np.int64((start - offset) % row.num_nodes)
            elif generator == Placement.FIRST_FIT:
                cost = np.int64(start)
            else:
                k = start
                while k < end and (spreads or best_start < 0 or cost < best_cost):
                    if node(row, order(row, k).node).state == NodeCode.UP:
                        cost += free_share(row, order(row, k).node)
                    k += 1
                if spreads:
                    cost = -cost
            if best_start < 0 or cost < best_cost:
                best_start, best_end, best_cost = start, end, cost
        start = end
    return best_start, best_end


@kernel
def _fill_domain(row, gang, domain, want, generator, nodes):
    """Fill a domain node by node (SPREAD: worker by worker), the highest key first."""
    each, level = worker_share(row, gang.j), domain.level
    placed = np.int64(0)
    while placed < want:
        best, best_key, best_count = np.int64(-1), NO_KEY, np.int64(0)
        for k in range(domain.start, domain.end):
            n = order(row, k).node
            taken, in_rack = workers_on(nodes, placed, n), np.int64(0)
            for w in range(placed):
                in_rack += node(row, nodes[w]).rack == node(row, n).rack
            if taken > 0 and generator != Placement.SPREAD:
                continue
            step = np.int64(1) if generator == Placement.SPREAD else want - placed
            count = _slots(row, gang, n, taken + step, level) - taken
            link = _uplink_slots(row, gang, node(row, n).rack, level)
            count = min(count, link - in_rack)
            if count <= 0:
                continue
            key = node_key(row, gang.j, n, count, generator)
            key -= taken * each
            if best < 0 or key > best_key or (key == best_key and n < best):
                best, best_key, best_count = n, key, count
        if best < 0:
            break
        placed = put_workers(nodes, placed, best, best_count)
    return placed


@kernel
def place_in_domains(row, j, workers, generator, offset, nodes):
    """Place a gang as close together as bandwidth and required domain take; workers placed.

    The whole gang is placed, on ``nodes``, if any domain holds it; else, if it is elastic, as many
    of its workers as possible. Narrow domains are tried first; SPREAD begins with wide ones, and
    RANDOM at ``offset``.
    """
    ask = request(row, j)
    traffic = np.int64(ask.bandwidth_mbps)
    if workers == 1:
        traffic = np.int64(0)
    gang = _gang(row, j, traffic, False)
    want = _best_room(row, gang, workers)
    if want == 0:
        return want
    narrow = _narrowest(row, j, traffic, generator)
    wide = np.int64(ask.topology)
    inner = generator
    if generator == Placement.TIGHTEST:
        inner = np.int64(Placement.BEST_FIT)
    for step in range(narrow - wide + 1):
        level = wide + step if generator == Placement.SPREAD else narrow - step
        start, end = _choose_domain(row, gang, want, level, generator, offset)
        if start >= 0:
            return _fill_domain(row, gang, _Domain(start, end, level), want, inner, nodes)
    return np.int64(0)
