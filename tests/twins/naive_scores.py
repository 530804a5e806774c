"""Scores of nodes, written down as in the papers: the twin of scores and fragmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

from orchestrator.kernels.state.codes import Placement
from tests.twins.naive_placement import Host, room, slots

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


def place(
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
