"""Scheduling cycles of large clusters: what a decision costs as a cluster grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.packing import PackingSuite, run_packing
from envs.workloads import read_openb
from orchestrator.kernels import entry, packing
from orchestrator.kernels.codes import NodeCode, Placement, RuleKey
from orchestrator.kernels.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state import ClusterShape, allocate
from orchestrator.scheduler.rules import Rule

__all__ = ["Cycle", "cycle", "pack_openb", "placed_per_second"]

_GPUS = 8
_WAITING = 1000
_FILLED = 0.7  # running jobs per node, which leave a third of the GPUs free
_SIZES = (1, 1, 1, 2, 2, 4, 8, 8)
_GANGS = (1, 1, 2, 4, 8)  # workers of 8 GPUs
_REPEATS = 3


class Cycle:
    """Gangs that wait on a cluster that is two thirds full.

    Parameters
    ----------
    nodes : int
        Nodes of 8 GPUs.
    now : callable
        The clock, seconds.
    """

    def __init__(self, nodes: int, now: Callable[[], float]) -> None:
        self._now = now
        self._running = round(nodes * _FILLED)
        self._nodes = _nodes(nodes)
        self._requests = _requests(self._running + min(_WAITING, nodes))
        jobs = len(self._requests)
        self._state = allocate(
            ClusterShape(envs=1, jobs=jobs, workers=max(_GANGS), nodes=nodes, devices=_GPUS)
        )
        self._buffer = np.zeros(max(_GANGS), np.int32)
        self._scratch = np.zeros(jobs, np.int32)
        self._free = np.zeros(jobs, np.int64)
        self._rule = Rule("cycle", RuleKey.FCFS, Placement.BEST_FIT).to_record()
        self.placed = 0
        self.seconds()

    def seconds(self) -> float:
        """Fill the cluster, and time what the waiting gangs take until no other one fits."""
        rows, placement = self._state.rows, int(Placement.BEST_FIT)
        entry.begin_episode(rows, 0, 0, self._nodes, self._requests)
        packing.pack_arrivals(rows, 0, self._running, placement, self._buffer, self._free)
        packing.admit_arrivals(rows, 0, len(self._requests))
        begun = self._now()
        self.placed = packing.schedule(rows, 0, self._rule, self._buffer, self._scratch)
        return self._now() - begun


def cycle(nodes: int, now: Callable[[], float]) -> Cycle:
    """Make a cycle, compiled and run once."""
    return Cycle(nodes, now)


def placed_per_second(nodes: int, now: Callable[[], float]) -> float:
    """Placements per second of a cluster of so many nodes, at best of a few."""
    run = Cycle(nodes, now)
    return run.placed / min(run.seconds() for _ in range(_REPEATS))


def _nodes(count: int) -> NDArray[np.void]:
    nodes = np.zeros(count, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = _GPUS, NodeCode.UP
    nodes["cpu_cap_milli"], nodes["memory_cap_mib"] = 96_000, 1 << 20
    nodes["rack"] = np.arange(count) // 32
    nodes["spine"] = np.arange(count) // 512
    return nodes


def _requests(count: int) -> NDArray[np.void]:
    rng = np.random.default_rng(0)
    requests = np.zeros(count, REQUEST_DTYPE)
    gpus = rng.choice(_SIZES, count)
    workers = np.where(gpus == _GPUS, rng.choice(_GANGS, count), 1)
    requests["gpus_per_worker"], requests["gpu_milli"] = gpus, 1000
    for name in ("workers", "min_workers", "max_workers"):
        requests[name] = workers
    requests["cpu_milli"], requests["memory_mib"] = gpus * 8000, gpus * 65_536
    requests["duration_ms"] = requests["requested_ms"] = rng.integers(10**5, 10**8, count)
    return requests


def pack_openb(folder: Path) -> None:
    """Place openb's pods, in one order, by FGD until 130 % of the GPUs are asked for."""
    suite = PackingSuite("openb", {"FGD": "fgd"}, (42,))
    run_packing(suite, read_openb(folder, gpu_nodes_only=True))
