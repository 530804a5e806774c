"""The live orchestrator on large clusters: its scheduling cycle, and what asking it costs.

Everything is included: the log (in memory), a simulated runtime that is told of every start, the
metrics. Real logs and runtimes come on top.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from orchestrator.clock import VirtualClock
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import WorkerExited
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.rules import rule_named
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["LiveCluster"]


_GPUS = 8


_SIZES = (1, 1, 1, 2, 2, 4, 8, 8)


_GANGS = (1, 1, 2, 4, 8)  # workers of 8 GPUs


_SPARE_NODES = 64


class LiveCluster:
    """An orchestrator of nodes with 8 GPUs, on which nothing runs yet and jobs wait.

    Parameters
    ----------
    nodes, waiting : int
        Nodes, and jobs in the queue.
    rule : str
        Who decides.
    now : callable
        The clock, seconds.
    """

    def __init__(self, nodes: int, waiting: int, rule: str, now: Callable[[], float]) -> None:
        self._now = now
        shape = ClusterShape(
            envs=1,
            jobs=waiting + 1,
            workers=max(_GANGS),
            nodes=nodes + _SPARE_NODES,
            devices=_GPUS,
        )
        specs = [_node(k) for k in range(nodes)]
        clock = VirtualClock()
        begun = now()
        self.orchestrator = InfrastructureOrchestrator(
            *in_memory(clock),
            clock=clock,
            shape=shape,
            nodes=specs,
            policy=rule_named(rule),
        )
        self.construction_s = now() - begun
        self._joined = nodes
        self._ends: list[WorkerExited] = []
        asyncio.run(self._submit(waiting))

    async def _submit(self, count: int) -> None:
        rng = np.random.default_rng(0)
        for k in range(count):
            gpus = int(rng.choice(_SIZES))
            workers = int(rng.choice(_GANGS)) if gpus == _GPUS else 1
            spec = JobSpec(
                job_id=f"job-{k}",
                name="bench",
                priority=JobPriority(int(rng.integers(len(JobPriority)))),
                num_workers=workers,
                gpus_per_worker=gpus,
                memory_per_worker_gb=64.0,
                max_duration_hours=float(rng.integers(1, 48)),
                checkpoint_interval_steps=600,
                cpus_per_worker=float(gpus),
                tenant=f"tenant-{k % 8}",
            )
            await self.orchestrator.submit_job(spec)

    def cycle(self) -> tuple[float, int]:
        """Run a scheduling cycle: the seconds that it takes, and the jobs that it starts."""
        before = len(self.orchestrator.engine.placed())
        gc.collect()  # what making the jobs has left behind
        begun = self._now()
        asyncio.run(self.orchestrator.schedule())
        spent = self._now() - begun
        return spent, len(self.orchestrator.engine.placed()) - before

    def register(self) -> float:
        """Seconds that registering one more node takes."""
        spec = replace(_node(self._joined), node_id=f"node-{self._joined}")
        self._joined += 1
        begun = self._now()
        asyncio.run(self.orchestrator.register_node(spec))
        return self._now() - begun

    def end(self) -> float:
        """Seconds that it takes when one of its jobs ends."""
        if not self._ends:
            self._ends = [WorkerExited(*run) for run in self.orchestrator.engine.placed().items()]
        event = self._ends.pop()
        begun = self._now()
        asyncio.run(self.orchestrator._take_report(event))
        return self._now() - begun


def _node(k: int) -> NodeSpec:
    return NodeSpec(
        node_id=f"node-{k}",
        gpus=_GPUS,
        gpu_memory_gb=80.0,
        cpu_cores=96,
        memory_gb=1024.0,
        network_bandwidth_gbps=100.0,
        gpu_topology="PCIe",
        rack=k // 32,
        spine=k // 512,
    )
