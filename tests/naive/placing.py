"""Where a gang goes, in plain Python: scores of nodes, placements, domains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, product
from types import SimpleNamespace

from orchestrator.kernels.state.codes import Placement, Topology


@dataclass
class Host:
    """What is free on a node, or what would be."""

    up: bool
    model: int
    cpu: int
    memory: int
    devices: list[int]
    gpu_memory: int = 0
    memories: list[int] = field(default_factory=list)
    """Free memory of each device, as far as anybody asks for it."""

    def __post_init__(self) -> None:
        self.memories = self.memories or [self.gpu_memory] * len(self.devices)


@cache
def most_workers(free: tuple[tuple[int, int], ...], gpus: int, milli: int, memory: int = 0) -> int:
    """Most workers of ``gpus`` distinct devices each, found by trying everything.

    A device is (free share, free memory).
    """
    best = 0
    able = [g for g, (f, m) in enumerate(free) if f >= milli and m >= memory]
    for chosen in combinations(able, gpus):
        left = tuple(
            sorted(
                (f - milli * (g in chosen), m - memory * (g in chosen))
                for g, (f, m) in enumerate(free)
            )
        )
        best = max(best, 1 + most_workers(left, gpus, milli, memory))
    return best


def slots(ask: SimpleNamespace, host: Host, limit: int) -> int:
    """Workers, at most ``limit``, that a node can hold."""
    if not host.up or (ask.model_mask and not (ask.model_mask >> host.model) & 1):
        return 0
    bounds = [limit]
    if ask.cpu_milli:
        bounds.append(host.cpu // ask.cpu_milli)
    if ask.memory_mib:
        bounds.append(host.memory // ask.memory_mib)
    if ask.gpus_per_worker:
        if ask.gpu_memory_mib > host.gpu_memory:
            return 0
        free = tuple(sorted(zip(host.devices, host.memories, strict=True)))
        bounds.append(most_workers(free, ask.gpus_per_worker, ask.gpu_milli, ask.gpu_memory_mib))
    return min(bounds)


def least(ask: SimpleNamespace) -> int:
    """Workers without which a job does not start."""
    return max(ask.min_workers, 1) if ask.elastic else int(ask.workers)


def fits(ask: SimpleNamespace, hosts: list[Host]) -> bool:
    return sum(slots(ask, host, ask.workers) for host in hosts) >= least(ask)


def room(host: Host) -> tuple[int, int]:
    """Free capacity as it is compared: GPUs first, then CPU."""
    return sum(host.devices), host.cpu // 1024


def place(ask: SimpleNamespace, hosts: list[Host], generator: int, offset: int) -> list[int]:
    """A node for each worker: for all of them, or as many as an elastic job needs, or none."""
    chosen = choose(ask, hosts, ask.workers, generator, offset)
    return chosen if len(chosen) >= least(ask) else []


def choose(
    ask: SimpleNamespace, hosts: list[Host], workers: int, generator: int, offset: int
) -> list[int]:
    """Nodes for as many of ``workers`` workers as find a place."""
    if generator == Placement.SPREAD:
        return _spread(ask, hosts, workers)
    chosen: list[int] = []
    left = list(range(len(hosts)))
    if generator != Placement.BEST_FIT:
        left = left[offset:] + left[:offset]
    while left and len(chosen) < workers:
        missing = workers - len(chosen)
        n = left[0]
        if generator == Placement.BEST_FIT:
            n = min(left, key=lambda n: (-slots(ask, hosts[n], missing), *room(hosts[n]), n))
        left.remove(n)
        chosen += [n] * slots(ask, hosts[n], missing)
    return chosen


def _spread(ask: SimpleNamespace, hosts: list[Host], workers: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(workers):

        def room_left(n: int) -> tuple[int, int]:
            there = chosen.count(n)
            gpu, cpu = room(hosts[n])
            gpu -= there * ask.gpus_per_worker * ask.gpu_milli
            return gpu, cpu - there * (ask.cpu_milli // 1024)

        able = [n for n in range(len(hosts)) if slots(ask, hosts[n], workers) > chosen.count(n)]
        if not able:
            break
        chosen.append(max(able, key=lambda n: (*room_left(n), -n)))
    return chosen


def take_devices(ask: SimpleNamespace, host: Host) -> tuple[int, ...] | None:
    """The devices that one worker takes: the tightest, or the roomiest where a gang must pack."""
    taken: list[int] = []
    gang = ask.workers > 1 or ask.elastic
    pack = gang and ask.gpus_per_worker > 1 and ask.gpu_milli < 1000
    for _ in range(ask.gpus_per_worker):
        able = [
            g
            for g, (f, m) in enumerate(zip(host.devices, host.memories, strict=True))
            if g not in taken and f >= ask.gpu_milli and m >= ask.gpu_memory_mib
        ]
        if not able:
            return None

        def order(g: int) -> tuple[int, int, int]:
            shares = host.devices[g] // ask.gpu_milli if pack else 0
            if pack and ask.gpu_memory_mib:
                shares = min(shares, host.memories[g] // ask.gpu_memory_mib)
            return -shares, host.devices[g], g

        taken.append(min(able, key=order))
    return tuple(sorted(taken))


Pod = SimpleNamespace


def fragmentation(host: Host, pods: Sequence[Pod]) -> float:
    """F(n), with the reasons added up one by one."""
    idle = sum(host.devices)
    by_reason = [0.0] * 6
    for pod in pods:
        cpu = host.cpu >= pod.cpu_milli
        able = sum(free >= pod.gpu_milli for free in host.devices) >= pod.gpus
        lost, reason = idle, 0
        if pod.gpus == 0:
            reason = 3 if cpu else 4
        elif pod.model_mask and not pod.model_mask >> host.model & 1:
            reason = 5
        elif able and cpu:
            lost, reason = sum(f for f in host.devices if f < pod.gpu_milli), 1
        elif able:
            reason = 2
        elif cpu:
            reason = 1
        by_reason[reason] += pod.weight * lost
    total = 0.0
    for part in by_reason:
        total += part
    return total


def _after(ask: SimpleNamespace, host: Host, taken: Sequence[int]) -> Host:
    devices = [f - ask.gpu_milli * (g in taken) for g, f in enumerate(host.devices)]
    return Host(True, host.model, host.cpu - ask.cpu_milli, host.memory, devices)


def _fitting(ask: SimpleNamespace, host: Host) -> list[int]:
    """Devices that serve a worker, the least idle first."""
    able = [
        g
        for g, free in enumerate(host.devices)
        if free >= ask.gpu_milli and host.memories[g] >= ask.gpu_memory_mib
    ]
    return sorted(able, key=lambda g: (host.devices[g], g))


def gradient(ask: SimpleNamespace, host: Host, pods: Sequence[Pod]) -> tuple[int, list[int]]:
    """FGD's score, and the devices that it takes."""
    fitting = _fitting(ask, host)
    shared = ask.gpus_per_worker == 1 and ask.gpu_milli < 1000
    tries = [[g] for g in sorted(fitting)] if shared else [fitting[: ask.gpus_per_worker]]
    before = fragmentation(host, pods)
    best: tuple[int, list[int]] = (-1, [])
    for taken in tries:
        drop = (before - fragmentation(_after(ask, host, taken), pods)) / 1000
        score = int(100 / (1 + math.exp(-drop)))
        if score > best[0]:
            best = (score, taken)
    return best


def packing(ask: SimpleNamespace, host: Host) -> int:
    whole = host.devices.count(1000)
    if ask.gpus_per_worker == 0:
        return 0
    if whole == len(host.devices):
        return max(33 - whole, whole)
    taken = [host.devices[g] for g in _fitting(ask, host)[: ask.gpus_per_worker]]
    if 1000 in taken:
        return max(50 - taken.count(1000), 33)
    return max(100 - sum(free * 100 // 1000 for free in taken) // 10, 50)


def clustering(ask: SimpleNamespace, host: Host, kinds: set[int]) -> int:
    if ask.gpus_per_worker == 0:
        return 0
    mine = 0 if ask.gpu_milli < 1000 else ask.gpus_per_worker
    score = 25 * (8000 - sum(host.devices)) // 8000
    if mine in kinds:
        return score + (75 if len(kinds) == 1 else 50)
    return score + (0 if kinds else 25)


def buddy(ask: SimpleNamespace, host: Host) -> int:
    """Size of the smallest free aligned cell that is not part of a larger free one."""
    if ask.gpus_per_worker == 0 or ask.gpu_milli < 1000:
        return 0
    total, size = len(host.devices), 1
    sizes = []
    while size <= total:
        for first in range(0, total - size + 1, size):
            around = first // (2 * size) * 2 * size
            larger = host.devices[around : around + 2 * size]
            part = len(larger) == 2 * size and set(larger) == {1000}
            if set(host.devices[first : first + size]) == {1000} and not part:
                sizes.append(size)
        size *= 2
    return min((size for size in sizes if size >= ask.gpus_per_worker), default=128)


def key(
    ask: SimpleNamespace,
    host: Host,
    count: int,
    generator: int,
    pods: Sequence[Pod],
    kinds: set[int],
) -> tuple[int, ...]:
    """What makes one node better than another; the largest goes first."""
    gpu, cpu = room(host)
    milli = ask.gpus_per_worker * ask.gpu_milli
    if generator == Placement.FGD:
        return (gradient(ask, host, pods)[0],)
    if generator == Placement.BEST_FIT_FGD:
        left = (host.cpu - ask.cpu_milli) / 128_000 * 0.5 + (gpu - milli) / 8000 * 0.5
        return (int((1 - left) * 100),)
    if generator == Placement.DOT_PRODUCT:
        product = host.cpu / 128_000 * (ask.cpu_milli / 128_000) + gpu / 8000 * (milli / 8000)
        return (int(100 * (1 - product / 2)),)
    if generator == Placement.GPU_PACKING:
        return (packing(ask, host),)
    if generator == Placement.GPU_CLUSTERING:
        return (clustering(ask, host, kinds),)
    if generator == Placement.WORST_FIT:
        return gpu, cpu
    if generator == Placement.BUDDY:
        return -buddy(ask, host), -gpu, -cpu
    assert generator in (Placement.BEST_FIT, Placement.TIGHTEST)
    return count, -gpu, -cpu


def place_by_score(
    ask: SimpleNamespace,
    hosts: list[Host],
    generator: int,
    pods: Sequence[Pod],
    kinds: list[set[int]],
) -> list[int]:
    """Fill one node after the other, the best one first."""
    chosen: list[int] = []
    left = list(range(len(hosts)))
    while len(chosen) < ask.workers:
        missing = ask.workers - len(chosen)
        open_nodes = [n for n in left if slots(ask, hosts[n], missing)]
        if not open_nodes:
            return []
        keys = {
            n: key(ask, hosts[n], slots(ask, hosts[n], missing), generator, pods, kinds[n])
            for n in open_nodes
        }
        n = max(open_nodes, key=lambda n: (keys[n], -n))
        left.remove(n)
        chosen += [n] * slots(ask, hosts[n], missing)
    return chosen


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
