"""Small clusters for tests that tell a story."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator import ClusterShape, InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.foundations import Foundations
from orchestrator.messages import Event, WorkerExited
from orchestrator.ports import ConsensusEngine
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.types import JobPriority, JobSpec, NodeSpec

SHAPE = ClusterShape(envs=1, jobs=16, workers=8, nodes=4, devices=8)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


def job(job_id: str, **fields: Any) -> JobSpec:
    """A job of one worker on one GPU for one hour, saved every ten minutes."""
    values: dict[str, Any] = {
        "name": job_id,
        "priority": JobPriority.BATCH,
        "num_workers": 1,
        "gpus_per_worker": 1,
        "memory_per_worker_gb": 1.0,
        "max_duration_hours": 1.0,
        "checkpoint_interval_steps": 600,
        "preemptible": True,
        "checkpoint_seconds": 5.0,
        "restart_seconds": 20.0,
    }
    return JobSpec(job_id=job_id, **(values | fields))


def node(node_id: str, gpus: int = 4, **fields: Any) -> NodeSpec:
    """A node with some GPUs."""
    values: dict[str, Any] = {
        "gpu_memory_gb": 80.0,
        "cpu_cores": 64,
        "memory_gb": 512.0,
        "network_bandwidth_gbps": 100.0,
        "gpu_topology": "NVLink",
    }
    return NodeSpec(node_id=node_id, gpus=gpus, **(values | fields))


@dataclass
class Stage:
    """An orchestrator, and what it stands on."""

    clock: VirtualClock
    runtime: SimulatedRuntime
    foundations: Foundations
    orchestrator: InfrastructureOrchestrator

    async def wait(self, minutes: float) -> None:
        """Let time pass."""
        await self.clock.advance_to(self.clock.now_ms() + round(minutes * MINUTE_MS))

    async def report(self, event: Event) -> None:
        """Have the runtime say something."""
        assert self.runtime._deliver is not None
        await self.runtime._deliver(event)

    async def end(self, job_id: str) -> None:
        """Somebody ends a job that would go on, such as a service."""
        await self.report(WorkerExited(job_id, self.orchestrator.engine.run_of(job_id)))

    def state_of(self, job_id: str) -> str:
        """State of a job."""
        return str(self.orchestrator.get_job_status(job_id)["state"])


def stage(
    *nodes: NodeSpec,
    clock: VirtualClock | None = None,
    log: ConsensusEngine | None = None,
    **options: Any,
) -> Stage:
    """An orchestrator on a virtual clock, with nodes and with its invariants checked."""
    clock = clock or VirtualClock()
    runtime = SimulatedRuntime(clock)
    foundations = in_memory(clock)
    if log is not None:
        foundations = foundations._replace(consensus_engine=log)
    values: dict[str, Any] = {"shape": SHAPE, "check": True, "runtime": runtime}
    orchestrator = InfrastructureOrchestrator(
        *foundations, clock=clock, nodes=nodes, **(values | options)
    )
    return Stage(clock, runtime, foundations, orchestrator)
