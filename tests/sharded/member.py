"""A member of a sharded cluster as a process: it is asked by lines of JSON, and answers by others.

python -m tests.sharded.member BACKEND PLACE NAME
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from orchestrator import ClusterShape, InfrastructureOrchestrator, WallClock
from orchestrator.errors import NotOwnerError, QuartermasterError
from orchestrator.foundations import HeartbeatFaultDetector, InMemoryCheckpoints
from orchestrator.foundations.shards import LeasedShards
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.sharded.orchestrator import OpenShard, ShardedOrchestrator
from tests.engine.builders import job, node
from tests.sharded.backends import BACKENDS, Backend

SHARDS = tuple(f"shard-{number}" for number in range(4))
SHAPE = ClusterShape(envs=1, jobs=256, workers=2, nodes=8, devices=8)
TTL_MS = 1500
JOB_S = 1.0


def opener(shards: LeasedShards, backend: Backend, clock: WallClock) -> OpenShard:
    """How a shard is opened: its log, and workers that are simulated in this process."""

    @asynccontextmanager
    async def opened(shard: str) -> AsyncIterator[InfrastructureOrchestrator]:
        async with backend.log(shard) as log:
            runtime = SimulatedRuntime(clock)
            try:
                yield InfrastructureOrchestrator(
                    log,
                    shards,
                    HeartbeatFaultDetector(clock),
                    InMemoryCheckpoints(),
                    runtime=runtime,
                    clock=clock,
                    shape=SHAPE,
                    schedule_on_events=True,
                    time_limit_grace_s=None,
                )
            finally:
                runtime.close()

    return opened


async def _answer(cluster: ShardedOrchestrator, asked: dict[str, Any]) -> Any:
    match asked["do"]:
        case "register":
            return await cluster.register_node(node(asked["key"], gpus=8))
        case "submit":
            fields = {"max_duration_hours": JOB_S / 3600, "restart_seconds": 0.1}
            return await cluster.submit_job(job(asked["key"], **fields))
        case "job":
            return cluster.get_job_status(asked["key"])["state"]
        case "status":
            status = cluster.get_cluster_status()
            return {"led": cluster.led, "owners": status["shards"], "jobs": status["jobs"]}
    raise ValueError(asked)


async def _say(cluster: ShardedOrchestrator, asked: dict[str, Any]) -> None:
    answer: dict[str, Any] = {"number": asked["number"]}
    try:
        answer["result"] = await _answer(cluster, asked)
    except NotOwnerError as error:
        answer |= {"error": str(error), "owner": error.leader, "address": error.address}
    except QuartermasterError as error:
        answer["error"] = str(error)
    print(json.dumps(answer), flush=True)


async def main(backend_name: str, place: str, name: str) -> None:
    clock, backend = WallClock(), BACKENDS[backend_name](place)
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with backend.leases(clock) as leases:
        shards = LeasedShards(leases, clock, name, SHARDS, ttl_ms=TTL_MS, address=f"pipe-{name}")
        cluster = ShardedOrchestrator(shards, opener(shards, backend, clock), clock=clock)
        await cluster.start()
        print(json.dumps({"number": 0, "result": "ready"}), flush=True)
        async with asyncio.TaskGroup() as saying:
            while line := await reader.readline():  # until whoever asks has gone
                saying.create_task(_say(cluster, json.loads(line)))
        await cluster.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
