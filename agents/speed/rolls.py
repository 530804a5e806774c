"""Rolls: a full cluster played to its end under a rule, as lookahead and what-ifs play it.

What a rule that preempts costs is read against one that does not, on the same jobs in the same run:
it does more for each of them, and should do no more for all that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from envs.workloads import gpu_cluster
from envs.workloads.enrich import enrich
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.kernels.state.records import NODE_DTYPE
from orchestrator.kernels.state.row import ClusterShape, allocate
from orchestrator.scheduling.rules import rule_named
from orchestrator.semantics import Semantics

__all__ = ["FullCluster"]


_GPUS = 8


_NODES_PER_RACK = 8


_RACKS_PER_SPINE = 8


class FullCluster:
    """Jobs like Philly's, all submitted at once to a cluster that holds a fraction of them.

    Parameters
    ----------
    nodes, jobs : int
        Nodes of 8 GPUs, and jobs.
    now : callable
        The clock, seconds.
    """

    def __init__(self, nodes: int, jobs: int, now: Callable[[], float]) -> None:
        self._now = now
        requests = enrich(gpu_cluster(jobs, 1, nodes=nodes, load=2.0)).requests[:jobs].copy()
        requests["submit_ms"] = 0
        self._requests, self._nodes = requests, _nodes(nodes)
        workers = int(max(requests["workers"].max(), requests["max_workers"].max()))
        shape = ClusterShape(envs=1, jobs=jobs, workers=workers, nodes=nodes, devices=_GPUS)
        self._state = allocate(shape)
        Semantics().write(self._state.rows)
        self._buffer = np.zeros(workers, np.int32)
        self._scratch = np.zeros(max(jobs, workers), np.int32)
        self.decisions = 0

    def seconds(self, name: str) -> float:
        """Time that the rule of a name takes until the last job has ended."""
        rows, record = self._state.rows, rule_named(name).to_record()
        entry.begin_episode(rows, 0, 1, self._nodes, self._requests)
        begun = self._now()
        self.decisions = entry.replay(rows, 0, record, self._buffer, self._scratch)
        return self._now() - begun

    def compare(self, names: Sequence[str], repeats: int) -> dict[str, list[float]]:
        """Seconds of several rules, one after the other in each of so many rounds."""
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:
                found[name].append(self.seconds(name))
        return found


def _nodes(count: int) -> NDArray[np.void]:
    nodes = np.zeros(count, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = _GPUS, NodeCode.UP
    nodes["cpu_cap_milli"], nodes["memory_cap_mib"] = 96_000, 512 << 10
    nodes["gpu_memory_mib"] = 80 << 10
    nodes["rack"] = np.arange(count) // _NODES_PER_RACK
    nodes["spine"] = np.arange(count) // (_NODES_PER_RACK * _RACKS_PER_SPINE)
    return nodes
