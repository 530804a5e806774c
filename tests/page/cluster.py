"""A simulated cluster that lives behind a real server: for looking at the page, and measuring it.

    python tests/page/cluster.py FOLDER [nodes] [jobs]

Writes ``FOLDER/endpoint.json`` when it answers, and goes on until it is ended. Jobs take seconds to
minutes, others follow those that have ended, and a service gets requests that swing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.clock import WallClock
from orchestrator.errors import QuartermasterError
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.codes import JobKind
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.rules import rule_named
from orchestrator.server.app import create_app
from orchestrator.server.guard.gate import Limits
from orchestrator.server.guard.listen import HttpServer, bind
from orchestrator.server.guard.repeats import Repeats
from orchestrator.server.guard.tokens import Role, TokenStore
from orchestrator.server.parts import Parts, Streams
from orchestrator.types import JobPriority, JobSpec, NodeSpec, TenantSpec

_NAMES = (
    *("resnet-50", "llama-7b", "whisper", "bert-large", "diffusion", "evaluation", "tokeniser"),
    *("dlrm", "ranker", "gpt-small", "segment", "captions"),
)
_TENANTS = ("vision", "language", "speech", "robotics")
_RACK = 32


def _nodes(count: int) -> list[NodeSpec]:
    return [
        NodeSpec(
            f"node-{k:0{len(str(count - 1))}}", 8, 80.0, 96, 512.0, 100.0, "NVLink", rack=k // _RACK
        )
        for k in range(count)
    ]


def _job(k: int, draw: random.Random, scale: float) -> JobSpec:
    gpus = draw.choice((1, 1, 1, 2, 4, 8))
    name, hours = draw.choice(_NAMES), draw.uniform(20, 400) * scale / 3600
    return JobSpec(
        job_id=f"{name}-{k:05d}",
        name=name,
        priority=JobPriority(draw.choice((0, 1, 1, 2, 2, 2, 2, 3, 3))),
        num_workers=draw.choice((1, 2, 4)) if gpus == 8 else 1,
        gpus_per_worker=gpus,
        memory_per_worker_gb=16.0,
        max_duration_hours=hours,
        checkpoint_interval_steps=60,
        preemptible=draw.random() < 0.3,
        cpus_per_worker=4.0,
        tenant=draw.choice(_TENANTS),
        checkpoint_seconds=1.0,
        duration_hours=hours * draw.uniform(0.6, 1.0),
    )


class Cluster:
    """Nodes, jobs that come and go, and a service."""

    def __init__(self, nodes: int, jobs: int) -> None:
        self.clock = WallClock()
        self._jobs = jobs
        self.large = nodes >= 100
        self._scale = 4.0 if self.large else 1.0
        self.orchestrator = InfrastructureOrchestrator(
            *in_memory(self.clock),
            clock=self.clock,
            shape=ClusterShape(envs=1, jobs=2 * jobs + 1000, workers=8, nodes=nodes + 8, devices=8),
            nodes=_nodes(nodes),
            tenants=[TenantSpec(name, k + 1.0) for k, name in enumerate(_TENANTS)],
            schedule_on_events=True,
            policy=rule_named("fcfs") if self.large else None,  # it is the page that is looked at
            time_limit_grace_s=None,
            autoscaler=HorizontalScaler(ScalingPlan(8.0, max_size=nodes + 8)),
        )

    async def live(self) -> None:
        """Have jobs come, for ever."""
        draw, k = random.Random(0), self._jobs
        await self.orchestrator.start()
        await self._serve_one()
        for number in range(self._jobs):
            await self.orchestrator.submit_job(_job(number, draw, self._scale))
            await asyncio.sleep(0)  # the server answers meanwhile
        while True:
            await asyncio.sleep(0.4)
            if self.large or self.orchestrator.engine.row["queue_len"] < self._jobs * 0.6:
                await self.orchestrator.submit_job(_job(k, draw, self._scale))
                k += 1

    async def _serve_one(self) -> None:
        self.orchestrator.mesh.add_service(ServiceSpec("chat", service_ms=40.0, objective_ms=200.0))
        spec = JobSpec("chat", "chat", JobPriority.CRITICAL, 3, 1, 8.0, 1e4, 0, True, 1, 8)
        fields = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
        await self.orchestrator.submit_job(JobSpec(**fields | {"kind": JobKind.SERVICE}))

    async def ask(self) -> None:
        """Send requests to the service, more and fewer of them, for ever."""
        draw = random.Random(1)
        asked = set[asyncio.Task[None]]()
        while True:
            load = 20.0 * (1.2 + math.sin(self.clock.now_ms() / 9000)) * draw.uniform(0.9, 1.1)
            task = asyncio.create_task(self._ask())
            asked.add(task)
            task.add_done_callback(asked.discard)
            await asyncio.sleep(1 / load)

    async def _ask(self) -> None:
        with contextlib.suppress(QuartermasterError):
            await self.orchestrator.route_request("chat", {})

    async def scale(self) -> None:
        """Decide on the number of nodes, for ever."""
        while True:
            await asyncio.sleep(2.0)
            await self.orchestrator.auto_scale_cluster()


@asynccontextmanager
async def serving(cluster: Cluster, folder: Path) -> AsyncIterator[str]:
    """A server for a cluster; its address."""
    tokens = TokenStore(None, cluster.clock)
    limits, repeats = Limits(), Repeats(None)
    parts = Parts(cluster.orchestrator, tokens, repeats, Streams(limits.streams, tokens), limits)
    http = HttpServer(create_app(parts), bind("127.0.0.1", 0), limits)
    await http.open()
    url = f"http://127.0.0.1:{http.port}"
    told = {"url": url, "token": tokens.create("operator", Role.OPERATOR)}
    (folder / "endpoint.part").write_text(json.dumps(told), encoding="utf-8")
    (folder / "endpoint.part").replace(folder / "endpoint.json")
    try:
        yield url
    finally:
        parts.streams.close()
        await http.close()
        repeats.close()


async def main(folder: Path, nodes: int, jobs: int) -> None:
    """Serve until told to end."""
    cluster, ended = Cluster(nodes, jobs), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(cluster, folder):
        works = [cluster.live, cluster.ask, *(() if cluster.large else (cluster.scale,))]
        tasks = [asyncio.create_task(work()) for work in works]
        stop = asyncio.create_task(ended.wait())
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in [stop, *tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done - {stop}:
            task.result()
    await cluster.orchestrator.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *(int(given) for given in sys.argv[2:] or (12, 40))))
