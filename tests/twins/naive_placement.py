"""Where a gang goes, by search and by sorting: the twin of feasibility and placement."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from types import SimpleNamespace

from orchestrator.kernels.state.codes import Placement


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
