"""InferenceJobManager: services, from their rules to the number of their replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.autoscaler.horizontal import HorizontalScaler, ScalingPlan
from orchestrator.errors import UnknownServiceError, ValidationError
from orchestrator.kernels.codes import JobKind
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.types import JobSpec, ScalingDecision, ScalingDirection

if TYPE_CHECKING:
    from orchestrator.orchestrator import InfrastructureOrchestrator

__all__ = ["InferenceJobManager"]


class InferenceJobManager:
    """Deploys services and scales their replicas.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
        Where they run.
    target_utilisation : float
        Use of a replica to aim for.
    down_window_s : float
        After a change, time before replicas are taken away.
    """

    def __init__(
        self,
        orchestrator: InfrastructureOrchestrator,
        *,
        target_utilisation: float = 0.7,
        down_window_s: float = 300.0,
    ) -> None:
        self._orchestrator = orchestrator
        self._target = target_utilisation
        self._down_window_s = down_window_s
        self._jobs: dict[str, str] = {}
        self._scalers: dict[str, HorizontalScaler] = {}

    async def deploy(self, spec: JobSpec, service: ServiceSpec) -> str:
        """Submit a service whose workers are its replicas; the job's identity.

        Raises
        ------
        ValidationError
            If job and service contradict each other, or the job cannot be submitted.
        """
        me = f"JobSpec '{spec.job_id}'"
        if spec.kind != JobKind.SERVICE:
            problem = f"is {spec.kind.name}"
            raise ValidationError(me, "kind", problem, "give a job of kind SERVICE")
        if spec.name != service.name:
            problem = f"is '{spec.name}', and the service's '{service.name}'"
            raise ValidationError(me, "name", problem, "name the job after its service")
        if spec.num_workers != service.replicas:
            problem = f"is {spec.num_workers}, and the service has {service.replicas} replicas"
            raise ValidationError(me, "num_workers", problem, "make them equal")
        self._orchestrator.engine.jobs.check(spec)  # nothing is known of a job that is refused
        plan = ScalingPlan(
            service.capacity_rps(1),
            target_utilisation=self._target,
            min_size=max(service.min_replicas, spec.min_workers),
            max_size=min(service.max_replicas, spec.max_workers),
            down_window_s=self._down_window_s,
        )
        self._orchestrator.mesh.add_service(service)
        self._jobs[service.name] = await self._orchestrator.submit_job(spec)
        self._scalers[service.name] = HorizontalScaler(plan)
        return spec.job_id

    def replicas(self, service: str) -> int:
        """Replicas that a service has now."""
        return len(self._orchestrator.engine.workers_of(self._job(service)))

    async def scale(self, service: str, replicas: int) -> bool:
        """Give a running service another number of replicas."""
        return await self._orchestrator.scale_job(self._job(service), replicas)

    async def autoscale(self, service: str, rate_rps: float) -> ScalingDecision:
        """Decide on the number of replicas for a demand, requests per second, and set it."""
        job_id = self._job(service)
        now_ms, size = self._orchestrator.clock.now_ms(), self.replicas(service)
        decision = self._scalers[service].decide(now_ms, size, rate_rps)
        if size > 0 and decision.direction != ScalingDirection.NONE:
            await self._orchestrator.scale_job(job_id, decision.target_nodes)
        return decision

    def attainment(self, service: str) -> float | None:
        """Share of a service's requests that were answered in time; None if there were none."""
        counts = self._orchestrator.mesh.counts(service)
        return counts.within / counts.offered if counts.offered else None

    def _job(self, service: str) -> str:
        if service not in self._jobs:
            raise UnknownServiceError(service, list(self._jobs))
        return self._jobs[service]
