"""The request path on a wall clock: what routing adds, and how soon a sick replica is shut out."""

from __future__ import annotations

import asyncio
import logging
import time

import numpy as np

from orchestrator.clock import WallClock
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.codes import JobKind
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["ServedCluster"]


_GPUS = 8


_WARM = 200  # requests


_PATIENCE_MS = 30_000.0


class ServedCluster:
    """Services of one size on a cluster that they fill, with default rules and default probing.

    Parameters
    ----------
    services, replicas : int
        How many, and of how many replicas of one GPU each. The first one gets the requests.
    """

    def __init__(self, services: int, replicas: int) -> None:
        if services < 1 or replicas < 2:
            raise ConfigurationError(
                f"ServedCluster: {services} services of {replicas} replicas; give 1 and 2 at least"
            )
        self.services, self.replicas = services, replicas
        self.sick: set[str] = set()

    async def _answer(self, address: str, request: object) -> object:
        if address in self.sick:
            raise ConnectionError(f"{address} is sick")
        return request

    async def _serve(self) -> InfrastructureOrchestrator:
        nodes = -(-self.services * self.replicas // _GPUS)
        shape = ClusterShape(
            envs=1, jobs=self.services, workers=self.replicas, nodes=nodes, devices=_GPUS
        )
        clock = WallClock()
        serving = InfrastructureOrchestrator(
            *in_memory(clock),
            clock=clock,
            shape=shape,
            nodes=[_node(k) for k in range(nodes)],
            transport=self._answer,
        )
        for k in range(self.services):
            await serving.submit_job(_service(k, self.replicas))
        await serving.schedule()
        return serving

    def added_ms(self, requests: int, percentile: float = 99.0) -> float:
        """What routing adds to a request that is answered at once, at a percentile, ms."""
        return asyncio.run(self._added_ms(requests, percentile))

    async def _added_ms(self, requests: int, percentile: float) -> float:
        serving = await self._serve()
        times = np.empty(requests)
        for k in range(-_WARM, requests):
            await asyncio.sleep(0.0002)  # whatever else the loop has to do gets its turn
            begun = time.perf_counter()
            await asyncio.ensure_future(serving.route_request("s0", k))
            times[max(k, 0)] = time.perf_counter() - begun
        return float(1000.0 * np.percentile(times, percentile))

    def shut_out_ms(self, gap_ms: int) -> float:
        """How long a replica fails until it gets no requests, at one request every ``gap_ms``."""
        logging.getLogger("orchestrator.mesh.probes").setLevel(logging.ERROR)
        return asyncio.run(self._shut_out_ms(gap_ms))

    async def _shut_out_ms(self, gap_ms: int) -> float:
        serving = await self._serve()
        asking = asyncio.ensure_future(self._ask(serving, gap_ms))
        await asyncio.sleep(0.3)
        sick = serving.mesh.discover("s0")[0]
        self.sick = {sick}
        begun = time.perf_counter()
        took_ms = 0.0
        while sick in serving.mesh.discover("s0") and took_ms < _PATIENCE_MS:
            await asyncio.sleep(0.001)
            took_ms = 1000.0 * (time.perf_counter() - begun)
        self.sick = set()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return took_ms

    @staticmethod
    async def _ask(serving: InfrastructureOrchestrator, gap_ms: int) -> None:
        while True:
            await serving.route_request("s0", "prompt")
            await asyncio.sleep(gap_ms / 1000.0)


def _node(index: int) -> NodeSpec:
    return NodeSpec(f"n{index}", _GPUS, 80.0, 64, 512.0, 100.0, "NVLink")


def _service(index: int, replicas: int) -> JobSpec:
    return JobSpec(
        job_id=f"s{index}",
        name=f"s{index}",
        priority=JobPriority.PRODUCTION,
        num_workers=replicas,
        gpus_per_worker=1,
        memory_per_worker_gb=1.0,
        max_duration_hours=10_000.0,
        checkpoint_interval_steps=600,
        max_workers=replicas,
        kind=JobKind.SERVICE,
    )
