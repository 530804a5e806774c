"""Real jobs on a wall clock: how soon a worker runs, and how many jobs come and go in a second."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from orchestrator.clock import WallClock
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import in_memory
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["Opened", "RealCluster"]


_GPUS = 8


_LOOK_S = 0.002


_PATIENCE_S = 120.0


class Opened(NamedTuple):
    """A cluster that runs."""

    running: InfrastructureOrchestrator
    agents: LocalAgents
    runtime: ProcessRuntime
    folder: Path


class RealCluster:
    """Nodes with agents on this machine, and trivial commands.

    Parameters
    ----------
    agents : int
        How many.
    durable : bool, optional
        Whether its log is in a file, and not in memory.

    Attributes
    ----------
    cpu_ms : list of float
        Processor time of the orchestrator's process for each job, by repeat.
    """

    def __init__(self, agents: int, *, durable: bool = False) -> None:
        if agents < 1:
            raise ConfigurationError(f"RealCluster: {agents} agents; give 1 at least")
        self.agents, self._durable = agents, durable
        self.cpu_ms: list[float] = []

    def first_instruction_ms(self, jobs: int) -> list[float]:
        """From submitting a job to what its worker does first, one after the other, ms."""
        return asyncio.run(self._first_instruction_ms(jobs))

    async def _first_instruction_ms(self, jobs: int) -> list[float]:
        found = []
        async with self.opened() as (running, _, _, folder):
            for k in range(jobs + 1):
                said = folder / f"said-{k}"
                begun_ns = time.time_ns()
                await running.submit_job(_job(f"j{k}", ("sh", "-c", f"date +%s%N > '{said}'")))
                await _ended(running)
                found.append((int(said.read_text()) - begun_ns) / 1e6)
        return found[1:]  # the first one finds nothing in any cache

    def jobs_per_second(self, jobs: int, repeats: int) -> list[float]:
        """Jobs that are submitted at once, started and ended, in a second."""
        return asyncio.run(self._jobs_per_second(jobs, repeats))

    async def _jobs_per_second(self, jobs: int, repeats: int) -> list[float]:
        found = []
        async with self.opened() as (running, _, _, _):
            for repeat in range(repeats):
                begun_s, spent_s = time.perf_counter(), time.process_time()
                specs = [_job(f"{repeat}-{k}", ("true",)) for k in range(jobs)]
                await asyncio.gather(*(running.submit_job(spec) for spec in specs))
                await _ended(running)
                found.append(jobs / (time.perf_counter() - begun_s))
                self.cpu_ms.append(1000 * (time.process_time() - spent_s) / jobs)
        return found

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Opened]:
        """A cluster that runs; nothing is left of it afterwards."""
        clock, cleanup = WallClock(), ExitStack()
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        parts = in_memory(clock)
        if self._durable:
            log = cleanup.enter_context(SQLiteLog(folder / "log"))
            parts = parts._replace(consensus_engine=log)
        runtime = ProcessRuntime(clock, parts.fault_detector, checkpoints=folder / "checkpoints")
        names = [f"n{k}" for k in range(self.agents)]
        running = InfrastructureOrchestrator(
            *parts,
            clock=clock,
            runtime=runtime,
            nodes=[NodeSpec(name, _GPUS, 16.0, 8, 64.0, 10.0, "NVLink") for name in names],
            schedule_on_events=True,
        )
        with cleanup:
            await runtime.open()
            agents = LocalAgents(runtime, names, folder / "agents")
            try:
                await agents.start()
                await running.start()
                yield Opened(running, agents, runtime, folder)
            finally:
                await agents.stop()
                await runtime.close()


def _job(job_id: str, command: tuple[str, ...]) -> JobSpec:
    return JobSpec(job_id, job_id, JobPriority.BATCH, 1, 1, 1.0, 1.0, 0, command=command)


async def _ended(running: InfrastructureOrchestrator) -> None:
    """Wait until no job waits or runs; there is nobody who would say so."""
    end_s = time.monotonic() + _PATIENCE_S
    while running.engine.row["queue_len"] or running.engine.row["running_len"]:
        if time.monotonic() > end_s:
            raise ConfigurationError(f"RealCluster: jobs have not ended in {_PATIENCE_S:.0f} s")
        await asyncio.sleep(_LOOK_S)
