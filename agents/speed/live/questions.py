"""The live orchestrator on large clusters: its scheduling cycle, and what asking it costs.

Everything is included: the log (in memory), a simulated runtime that is told of every start, the
metrics. Real logs and runtimes come on top.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from orchestrator.clock import VirtualClock
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import WorkerExited
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.rules import RULES, rule_named
from orchestrator.twin.aside import Inquiry, TwinProcess
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.scene.cast import Cast
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["AskedCluster", "Beside", "LiveCluster"]


_GPUS = 8


_SIZES = (1, 1, 1, 2, 2, 4, 8, 8)


_GANGS = (1, 1, 2, 4, 8)  # workers of 8 GPUs


_SPARE_NODES = 64


_RULE = "priority"  # the default: it decides while the twin is asked
_FEW_FUTURES = TwinConfig(futures=2)
_BLOCK = 25  # decisions beside questions, then as many without, and again
_PAUSE_S = 0.002  # between decisions: what waits in the event loop has its turn
_T = TypeVar("_T")


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


# --- its twin -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """How long decisions took, ms: while questions were thought over, and while none was."""

    asked: list[float]
    quiet: list[float]


class AskedCluster:
    """A live cluster that is full, with jobs that wait, and its twin.

    Parameters
    ----------
    nodes, jobs : int
    """

    def __init__(self, nodes: int, jobs: int) -> None:
        self._cluster = LiveCluster(nodes, jobs, _RULE, time.perf_counter)
        self._cluster.cycle()
        self._orchestrator = self._cluster.orchestrator
        self._last, self._numbers = f"job-{jobs - 1}", itertools.count(jobs)

    def answers_s(self, config: TwinConfig, repeats: int) -> tuple[list[float], int]:
        """Seconds that "when does the last job start?" took, and futures that were played."""

        async def ask() -> tuple[list[float], int]:
            question, found, futures = partial(Twin.when, job_id=self._last), list[float](), 0
            twin = TwinProcess()
            try:
                await twin.ask(self._inquiry(question, _FEW_FUTURES))  # it loads its kernels
                for _ in range(repeats):
                    begun = time.perf_counter()
                    told = await twin.ask(self._inquiry(question, config))
                    found.append(time.perf_counter() - begun)
                    futures = told.sources.futures
            finally:
                await twin.close()
            return found, futures

        return asyncio.run(ask())

    def _inquiry(self, question: Callable[[Twin], _T], config: TwinConfig) -> Inquiry[_T]:
        image, cast = self._orchestrator.engine.image([]), Cast(RULES[_RULE])
        return Inquiry(image, cast, self._orchestrator.clock.now_ms(), config, question)

    def beside(self, config: TwinConfig, decisions: int) -> Beside:
        """Decisions, each after a job has ended, with and without questions beside them."""

        async def decide() -> float:
            name, run = next(iter(self._orchestrator.engine.placed().items()))
            again = replace(self._orchestrator.jobs[name], job_id=f"job-{next(self._numbers)}")
            await asyncio.sleep(_PAUSE_S)
            begun = time.perf_counter()
            await self._orchestrator._take_report(WorkerExited(name, run))
            await self._orchestrator.schedule()
            spent = 1000 * (time.perf_counter() - begun)
            await self._orchestrator.submit_job(again)  # there are always as many
            return spent

        async def go_on_asking(twin: TwinProcess, enough: asyncio.Event) -> None:
            while not enough.is_set():
                await twin.ask(self._inquiry(Twin.starts, config))

        async def compare() -> Beside:
            found, twin = Beside([], []), TwinProcess()
            await twin.ask(self._inquiry(Twin.starts, _FEW_FUTURES))
            try:
                while len(found.quiet) < decisions:
                    found.quiet.extend([await decide() for _ in range(_BLOCK)])
                    enough = asyncio.Event()
                    asking = asyncio.create_task(go_on_asking(twin, enough))
                    found.asked.extend([await decide() for _ in range(_BLOCK)])
                    enough.set()
                    await asking  # cancelled, it would end the process, and the next one load anew
            finally:
                await twin.close()
            return found

        return asyncio.run(compare())
