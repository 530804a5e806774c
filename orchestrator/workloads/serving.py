"""Inference services and batches of jobs, over the orchestrator's interface."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.autoscaler.policies import HorizontalScaler
from orchestrator.autoscaler.rehearsal import most_workers
from orchestrator.autoscaler.services import service_plan
from orchestrator.errors import (
    IllegalActionError,
    ServiceError,
    UnknownServiceError,
    ValidationError,
)
from orchestrator.kernels.state.codes import JobCode, JobKind
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.messages import Sizing
from orchestrator.ports import Renewing
from orchestrator.types import JobPriority, JobSpec, ScalingDecision

if TYPE_CHECKING:
    from orchestrator.orchestrator import InfrastructureOrchestrator

__all__ = ["BatchProcessor", "InferenceJobManager"]


_HOUR_MS = 3_600_000
_LOOK_MS = 10  # between two looks at what is waited for


_log = logging.getLogger(__name__)


_ENDED = ("completed", "failed")


_ENDED_CODES = (JobCode.COMPLETED, JobCode.FAILED)


class BatchProcessor:
    """Submits batch jobs and watches their deadlines.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
        Where they run.
    priority : JobPriority
        Class of all batch jobs.
    """

    def __init__(
        self,
        orchestrator: InfrastructureOrchestrator,
        priority: JobPriority = JobPriority.BEST_EFFORT,
    ) -> None:
        self._orchestrator = orchestrator
        self._priority = priority
        self._warned: set[str] = set()

    async def submit(self, spec: JobSpec, *, deadline_hours: float | None = None) -> str:
        """Submit a job as a batch job, preemptible and of the processor's class; its identity.

        Parameters
        ----------
        spec : JobSpec
            What to run; its kind, class and preemptibility are replaced.
        deadline_hours : float or None, optional
            When it should be done, from now; None: the job's own.

        Raises
        ------
        ValidationError
            If its estimate alone is beyond its deadline, or it cannot be submitted.
        """
        due_hours = spec.deadline_hours if deadline_hours is None else deadline_hours
        batch = self.admit(replace(spec, kind=JobKind.BATCH, deadline_hours=due_hours))
        return await self._orchestrator.submit_job(batch)

    def admit(self, spec: JobSpec) -> JobSpec:
        """A batch job, preemptible and of the processor's class; others as they are.

        Raises
        ------
        ValidationError
            If its estimate alone is beyond its deadline.
        """
        if spec.kind != JobKind.BATCH:
            return spec
        due = spec.deadline_hours
        if due is not None and spec.max_duration_hours > due:
            problem = f"is {due:g}, and the job takes {spec.max_duration_hours:g} hours"
            remedy = "split the job, or move the deadline"
            raise ValidationError(f"JobSpec '{spec.job_id}'", "deadline_hours", problem, remedy)
        return replace(spec, priority=self._priority, preemptible=True)

    async def review(self) -> None:
        """Warn of jobs that will be late."""
        for job_id in self.at_risk():
            if job_id not in self._warned:
                self._warned.add(job_id)
                _log.warning("batch job '%s' will miss its deadline unless it runs now", job_id)
        self._warned.intersection_update(self._orchestrator.jobs)

    def jobs(self) -> list[str]:
        """Batch jobs that are known, in the order of their submission."""
        specs = self._orchestrator.jobs.values()
        return [spec.job_id for spec in specs if spec.kind == JobKind.BATCH]

    def slack_hours(self, job_id: str) -> float | None:
        """Time that a job can still lose and be done in time, by its estimate at nominal speed.

        None if it has no deadline, or has ended; below 0 if it will be late.
        """
        spec = self._orchestrator.jobs[job_id]
        status = self._orchestrator.get_job_status(job_id)
        if spec.deadline_hours is None or status["state"] in _ENDED:
            return None
        now_ms = self._orchestrator.clock.now_ms()
        due_ms = status["submit_ms"] + spec.deadline_hours * _HOUR_MS
        left_ms = spec.max_duration_hours * _HOUR_MS - status["progress_ms"]
        return float(due_ms - now_ms - max(left_ms, 0.0)) / _HOUR_MS

    def at_risk(self, margin_hours: float = 0.0) -> list[str]:
        """Jobs that will be late unless they run from now on, with a margin; most urgent first."""
        slack = {job_id: self.slack_hours(job_id) for job_id in self.jobs()}
        late = [(left, name) for name, left in slack.items() if left is not None]
        return [name for left, name in sorted(late) if left <= margin_hours]


class InferenceJobManager:
    """Deploys services and scales their replicas.

    What runs is the orchestrator's to know: services that another manager has deployed, before a
    restart for example, are found by their names. They follow the rules that the mesh has.

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
        self._rolling: set[str] = set()  # services whose replicas are being replaced
        self._seen: dict[str, tuple[int, int]] = {}  # by service: when, and requests until then
        self._sizes: dict[str, int] = {}  # by service: replicas at the last review

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it is.

        Raises
        ------
        ValidationError
            If it is a service, and has more or fewer replicas than its rules in the mesh allow.
        """
        mesh = self._orchestrator.mesh
        if spec.kind == JobKind.SERVICE and spec.name in mesh.services:
            rules = mesh.spec(spec.name)
            if not rules.min_replicas <= spec.num_workers <= rules.max_replicas:
                bounds = f"[{rules.min_replicas}, {rules.max_replicas}]"
                problem = f"is {spec.num_workers}, and service '{spec.name}' has {bounds} replicas"
                remedy = "change it, or the service's rules"
                raise ValidationError(f"JobSpec '{spec.job_id}'", "num_workers", problem, remedy)
        return spec

    async def review(self) -> None:
        """Scale every elastic service to the requests that it got since the last review.

        Those that the policy in charge has sized are left to it.
        """
        now_ms = self._orchestrator.clock.now_ms()
        for spec in list(self._orchestrator.jobs.values()):
            if not (self._serves(spec) and spec.elastic) or spec.name in self._rolling:
                continue
            offered = self._orchestrator.mesh.counts(spec.name).offered
            then_ms, before = self._seen.get(spec.name, (now_ms, offered))
            self._seen[spec.name] = now_ms, offered
            if spec.job_id in self._orchestrator.sized_by_policy:
                self._follow(spec.name, now_ms)
                continue
            if now_ms > then_ms and self._job(spec.name) == spec.job_id:
                await self.autoscale(spec.name, 1000.0 * (offered - before) / (now_ms - then_ms))

    def _follow(self, service: str, now_ms: int) -> None:
        """Somebody else sizes a service: what that changes has to show its effect first, too."""
        size = self.replicas(service)
        if self._sizes.get(service, size) != size:
            self._scaler_of(service).cooldown.record(now_ms)
        self._sizes[service] = size

    def sizing_of(self, job_id: str) -> Sizing | None:
        """How the service of a job is sized here, for policies that do it instead.

        One whose replicas are being replaced keeps its size.
        """
        spec = self._orchestrator.jobs.get(job_id)
        if spec is None or not self._serves(spec) or self._job(spec.name) != job_id:
            return None
        sizing, size = self._scaler_of(spec.name).plan.sizing(), self.replicas(spec.name)
        fixed = spec.name in self._rolling and size > 0
        return replace(sizing, min_size=size, max_size=size) if fixed else sizing

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
        self._orchestrator.check_job(spec)  # nothing is known of a job that is refused
        self._orchestrator.mesh.add_service(service)
        self._jobs[service.name] = await self._orchestrator.submit_job(spec)
        self._scalers[service.name] = self._scaler(spec, service)
        return spec.job_id

    def _scaler(self, spec: JobSpec, service: ServiceSpec) -> HorizontalScaler:
        """Scaler of a service within the bounds of both its rules and its job."""
        options = {"target_utilisation": self._target, "down_window_s": self._down_window_s}
        return HorizontalScaler(service_plan(spec, service, **options))

    def _scaler_of(self, service: str) -> HorizontalScaler:
        """Scaler of a service that runs, made anew after a restart."""
        job_id = self._job(service)
        if service not in self._scalers:
            rules = self._orchestrator.mesh.spec(service)
            self._scalers[service] = self._scaler(self._orchestrator.jobs[job_id], rules)
        return self._scalers[service]

    def replicas(self, service: str) -> int:
        """Replicas that a service has now."""
        return len(self._orchestrator.engine.workers_of(self._job(service)))

    async def scale(self, service: str, replicas: int) -> bool:
        """Give a running service another number of replicas."""
        return await self._orchestrator.scale_job(self._job(service), replicas)

    async def replace_replicas(
        self, service: str, *, drain_s: float = 30.0, start_s: float = 300.0
    ) -> int:
        """Replace all replicas of a service, one after the other, while it goes on serving.

        Each gets no new requests, may answer those that it has, ends, and another process begins in
        its place, on the same GPUs. Where there is room (``max_workers``, and GPUs) another replica
        is there meanwhile; a service of one replica needs it.

        Parameters
        ----------
        service : str
        drain_s : float, optional
            For the open requests of a replica; after it they are the replica's to finish within
            its grace.
        start_s : float, optional
            For a new replica to answer.

        Returns
        -------
        int
            How many were replaced.

        Raises
        ------
        IllegalActionError
            If its runtime cannot, it is under way, or its only replica would leave a gap.
        ServiceError
            If a new replica does not answer in time; those that are left are as they were.
        """
        me, runtime = f"service '{service}'", self._orchestrator.runtime
        job_id = self._job(service)
        if not isinstance(runtime, Renewing):
            raise IllegalActionError(f"{me}: its runtime replaces no replicas; scale it instead")
        if service in self._rolling:
            raise IllegalActionError(f"{me}: its replicas are being replaced; wait for that")
        self._rolling.add(service)
        try:
            before = await self._answering(
                runtime, service, job_id, self.replicas(service), start_s
            )
            size = len(before)
            extra = await self._orchestrator.scale_job(job_id, size + 1)
            if not extra and size < 2:
                problem = f"{me}: its only replica cannot be replaced without a gap"
                raise IllegalActionError(f"{problem}; give it room for a second one (max_workers)")
            try:
                if extra:
                    await self._answering(runtime, service, job_id, size + 1, start_s)
                for place in before:
                    await self._replace(runtime, service, job_id, place, (drain_s, start_s))
            finally:
                if extra and self.replicas(service) == size + 1:  # nobody has scaled it meanwhile
                    await self._orchestrator.scale_job(job_id, size)
        finally:
            self._rolling.discard(service)
        return size

    async def _replace(
        self,
        runtime: Renewing,
        service: str,
        job_id: str,
        place: tuple[str, int],
        patience_s: tuple[float, float],
    ) -> None:
        """Replace the replica at a place."""
        mesh, address = self._orchestrator.mesh, f"{job_id}@{place[0]}:{place[1]}"
        drain_s, start_s = patience_s
        port = runtime.endpoints(job_id).get(place)
        if port is None or not mesh.discovery.knows(service, address):
            return  # it is gone, and whoever comes is new
        mesh.drain(service, address)
        try:
            await self._await(lambda: mesh.drained(service, address), drain_s)
            if not runtime.renew(job_id, place):
                raise ServiceError(
                    service, f"'{address}' cannot be replaced now", "try again later"
                )
            there = await self._await(
                lambda: runtime.endpoints(job_id).get(place) not in (None, port), start_s
            )
            if not there:
                problem = f"the new replica '{address}' does not answer within {start_s:g} s"
                raise ServiceError(service, problem, "see its log")
        finally:
            if mesh.discovery.knows(service, address):
                mesh.undrain(service, address)
        await self._orchestrator.discover_service(service)  # it is known to be well from now on

    async def _answering(
        self, runtime: Renewing, service: str, job_id: str, count: int, start_s: float
    ) -> list[tuple[str, int]]:
        """Places of so many replicas, once all of them answer."""
        if not await self._await(lambda: len(runtime.endpoints(job_id)) >= count > 0, start_s):
            there = len(runtime.endpoints(job_id))
            problem = f"{there} of its {count} replicas answer"
            raise ServiceError(service, problem, "see why in their logs, and try again")
        await self._orchestrator.discover_service(service)
        return sorted(runtime.endpoints(job_id))

    async def _await(self, is_so: Callable[[], bool], patience_s: float) -> bool:
        """Wait until something is so; whether it is."""
        clock = self._orchestrator.clock
        until_ms = clock.now_ms() + 1000.0 * patience_s
        while not is_so():
            if clock.now_ms() >= until_ms:
                return False
            await clock.sleep_until(clock.now_ms() + _LOOK_MS)
        return True

    async def autoscale(self, service: str, rate_rps: float) -> ScalingDecision:
        """Decide on the number of replicas for a demand, and set it.

        A service grows by as many replicas as there is room for, and as its tenant may have.

        Parameters
        ----------
        service : str
        rate_rps : float
            Requests per second; NaN: nobody knows, and nothing is changed.

        Returns
        -------
        ScalingDecision
            Its reason says where fewer replicas were started than were decided.
        """
        job_id = self._job(service)
        now_ms, size = self._orchestrator.clock.now_ms(), self.replicas(service)
        scaler = self._scaler_of(service)
        changed_ms = scaler.cooldown.last_change_ms
        decision = scaler.decide(now_ms, size, rate_rps)
        wanted = reached = decision.target_nodes
        if wanted == size:
            return decision
        if wanted > size > 0:
            reached = most_workers(self._orchestrator.engine, now_ms, job_id, wanted)
        changed = size > 0 and reached != size
        if not (changed and await self._orchestrator.scale_job(job_id, reached)):
            reached = size
            scaler.cooldown.take_back(changed_ms)  # nothing has to show its effect first
        if reached == wanted:
            return decision
        why = "it does not run" if size == 0 else "there is no room for more"
        if 0 < wanted < size:
            why = "it cannot shrink now"
        done = f"{abs(reached - size)} of {abs(wanted - size)} replicas: {why}"
        return replace(decision, reason=f"{decision.reason}; {done}")

    def attainment(self, service: str) -> float | None:
        """Share of a service's requests that were answered in time; None if there were none."""
        counts = self._orchestrator.mesh.counts(service)
        return counts.within / counts.offered if counts.offered else None

    def _job(self, service: str) -> str:
        """The job whose workers are a service's replicas: of several, the last that has not ended.

        Raises
        ------
        UnknownServiceError
            If there is none.
        """
        if not self._alive(self._jobs.get(service)):
            specs = self._orchestrator.jobs.values()
            found = {spec.name: spec.job_id for spec in specs if self._serves(spec)}
            if service not in found and service not in self._jobs:
                raise UnknownServiceError(service, list(self._jobs | found))
            if service in found:
                self._jobs[service] = found[service]
                self._scalers.pop(service, None)
        return self._jobs[service]

    def _serves(self, spec: JobSpec) -> bool:
        return spec.kind == JobKind.SERVICE and self._alive(spec.job_id)

    def _alive(self, job_id: str | None) -> bool:
        jobs = self._orchestrator.engine.jobs
        return job_id in jobs.specs and jobs.code(job_id) not in _ENDED_CODES
