"""Where gangs may go, by trying every way to spread them: the twin of domains and bandwidth."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from types import SimpleNamespace

from orchestrator.kernels.state.codes import Topology
from tests.twins.naive_placement import Host, most_workers, slots


@dataclass
class Fabric:
    """How nodes are connected, and what is free on the links."""

    racks: list[int]
    spines: list[int]
    islands: list[int]
    node_capacity: list[int]  # Mbit/s; 0: no limit
    uplink_capacity: list[int]
    node_free: list[int] = field(default_factory=list)
    uplink_free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node_free = self.node_free or list(self.node_capacity)
        self.uplink_free = self.uplink_free or list(self.uplink_capacity)

    def takes(self, ask: SimpleNamespace, counts: tuple[int, ...], sign: int) -> None:
        """Move bandwidth for a gang with so many workers on each node."""
        used = [n for n, count in enumerate(counts) if count]
        racks = {self.racks[n] for n in used}
        for n in used:
            if len(used) > 1 and self.node_capacity[n]:
                self.node_free[n] -= sign * counts[n] * ask.bandwidth_mbps
            limited = self.racks[n] < len(self.uplink_capacity)
            if len(racks) > 1 and limited and self.uplink_capacity[self.racks[n]]:
                self.uplink_free[self.racks[n]] -= sign * counts[n] * ask.bandwidth_mbps

    def carries(self, ask: SimpleNamespace, counts: tuple[int, ...]) -> bool:
        """Whether a gang's traffic finds its bandwidth."""
        if ask.bandwidth_mbps == 0:
            return True
        self.takes(ask, counts, 1)
        enough = min([0, *self.node_free, *self.uplink_free]) >= 0
        self.takes(ask, counts, -1)
        return enough


def _island_slots(ask: SimpleNamespace, host: Host, size: int) -> int:
    if ask.gpus_per_worker == 0:
        return slots(ask, host, ask.workers)
    best = 0
    for first in range(0, len(host.devices) - size + 1, size) if size else ():
        part = slice(first, first + size)
        free = tuple(sorted(zip(host.devices[part], host.memories[part], strict=True)))
        able = most_workers(free, ask.gpus_per_worker, ask.gpu_milli, ask.gpu_memory_mib)
        best = max(best, min(able, slots(ask, host, ask.workers)))
    return best


def in_domain(ask: SimpleNamespace, fabric: Fabric, counts: tuple[int, ...]) -> bool:
    """Whether the nodes used are within one domain of the level that the job requires."""
    used = [n for n, count in enumerate(counts) if count]
    spines = {fabric.spines[n] for n in used}
    racks = {(fabric.spines[n], fabric.racks[n]) for n in used}
    if ask.topology >= Topology.NODE:
        return len(used) == 1
    if ask.topology == Topology.RACK:
        return len(racks) == 1
    return ask.topology == Topology.ANY or len(spines) == 1


def possible(
    ask: SimpleNamespace, hosts: list[Host], fabric: Fabric, counts: tuple[int, ...]
) -> bool:
    """Whether a gang may be spread so."""
    for n, count in enumerate(counts):
        room = slots(ask, hosts[n], ask.workers)
        if ask.topology == Topology.ISLAND and room:
            room = _island_slots(ask, hosts[n], fabric.islands[n])
        if count > room:
            return False
    return in_domain(ask, fabric, counts) and fabric.carries(ask, counts)


def most_placeable(ask: SimpleNamespace, hosts: list[Host], fabric: Fabric) -> int:
    """Workers of a gang, at most as many as it asks for, that can be placed at once."""
    for want in range(ask.workers, 0, -1):
        for counts in product(range(want + 1), repeat=len(hosts)):
            if sum(counts) == want and possible(ask, hosts, fabric, counts):
                return want
    return 0
