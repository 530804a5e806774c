"""A sharded cluster of two processes, one of which is killed: until all its shards are led again.

python -m agents.speed.live.shards FOLDER TTL_MS NAME    # the one that is killed
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.clock import WallClock
from orchestrator.foundations import HeartbeatFaultDetector, InMemoryCheckpoints
from orchestrator.foundations.leases import SQLiteLeases
from orchestrator.foundations.shards import LeasedShards
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.sharded.orchestrator import ShardedOrchestrator
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["SharedCluster"]


_GPUS = 8


_PATIENCE_S = 120.0


_LOOK_S = 0.002


class SharedCluster:
    """Eight shards of a cluster, in files.

    Parameters
    ----------
    folder : Path
        Where the files are.
    ttl_ms : int
        How long leases last.
    jobs : int
        Jobs that wait in all shards together.
    """

    def __init__(self, folder: Path, ttl_ms: int, jobs: int) -> None:
        self._folder, self._ttl_ms, self._jobs = folder, ttl_ms, jobs
        self._shape = ClusterShape(envs=1, jobs=4096, workers=1, nodes=64, devices=_GPUS)

    @asynccontextmanager
    async def member(self, name: str) -> AsyncIterator[ShardedOrchestrator]:
        """A member of the cluster in this process."""
        clock = WallClock()
        leases = SQLiteLeases(self._folder / "leases", clock)
        shards = LeasedShards(leases, clock, name, ttl_ms=self._ttl_ms)

        @asynccontextmanager
        async def opened(shard: str) -> AsyncIterator[InfrastructureOrchestrator]:
            runtime = SimulatedRuntime(clock)
            detector, checkpoints = HeartbeatFaultDetector(clock), InMemoryCheckpoints()
            with SQLiteLog(self._folder / shard) as log:
                yield InfrastructureOrchestrator(
                    log,
                    shards,
                    detector,
                    checkpoints,
                    runtime=runtime,
                    clock=clock,
                    shape=self._shape,
                )
            runtime.close()

        member = ShardedOrchestrator(shards, opened, clock=clock)
        try:
            await member.start()
            yield member
        finally:
            await member.stop()
            leases.close()

    def led_again(self, repeats: int) -> list[float]:
        """From the kill of who leads half of the shards until all are led again, in leases."""
        return asyncio.run(self._led_again(repeats))

    async def _led_again(self, repeats: int) -> list[float]:
        found, rng = [], random.Random(repeats)
        async with self.member("survivor") as survivor:
            await survivor.settled(_PATIENCE_S)
            await self._fill(survivor)
            for repeat in range(repeats):
                command = [sys.executable, "-m", "agents.speed.live.shards"]
                arguments = [str(self._folder), str(self._ttl_ms), f"victim-{repeat}"]
                victim = await asyncio.create_subprocess_exec(*command, *arguments)
                try:
                    await self._until_led(survivor, len(survivor.shards.shards) // 2)
                    await asyncio.sleep(self._ttl_ms / 1000 * rng.uniform(1.0, 2.0))
                finally:
                    victim.kill()
                    begun_s = time.perf_counter()
                    await victim.wait()
                await self._until_led(survivor, len(survivor.shards.shards))
                found.append(1000 * (time.perf_counter() - begun_s) / self._ttl_ms)
        return found

    async def _fill(self, member: ShardedOrchestrator) -> None:
        for k in range(64):
            spec = NodeSpec(f"node-{k}", _GPUS, 80.0, 96, 1024.0, 100.0, "NVLink")
            await member.register_node(spec)
        for k in range(self._jobs):
            job = JobSpec(f"job-{k}", f"job-{k}", JobPriority.BATCH, 1, 1, 8.0, 1.0, 600)
            await member.submit_job(job)

    async def _until_led(self, member: ShardedOrchestrator, count: int) -> None:
        until_s = time.monotonic() + _PATIENCE_S
        while len(member.led) != count:
            if time.monotonic() > until_s:
                raise TimeoutError(f"{len(member.led)} shards are led, not {count}")
            await asyncio.sleep(_LOOK_S)


async def _be_killed(folder: str, ttl_ms: str, name: str) -> None:
    async with SharedCluster(Path(folder), int(ttl_ms), 0).member(name):
        await asyncio.sleep(_PATIENCE_S)


if __name__ == "__main__":
    asyncio.run(_be_killed(*sys.argv[1:4]))
