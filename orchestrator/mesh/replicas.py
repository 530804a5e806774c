"""Replicas of services as endpoints.

The effects that start, resize and stop jobs say which replicas there are. What happens to nodes
comes this way too: a replica whose node fails, or is drained, leaves with its worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobCode, JobKind
from orchestrator.mesh.http import HttpTransport
from orchestrator.mesh.mesh import ServiceCounts, ServiceMesh, Transport
from orchestrator.mesh.probes import HealthCheck, HealthProber
from orchestrator.mesh.specs import ProbeSpec, ServiceSpec
from orchestrator.messages import RegroupJob, SaveCheckpoint, StartJob, StopJob, WorkerPlacement
from orchestrator.ports import Clock, Serving
from orchestrator.types import JobSpec

__all__ = ["ReplicaRegistry", "addresses_of"]


_PATIENT = ProbeSpec(timeout_ms=55)
"""For real replicas, which may be silent for a while: who hangs is shut out within 100 ms still."""


_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


def addresses_of(job_id: str, workers: Sequence[WorkerPlacement]) -> dict[str, str]:
    """Addresses of a job's replicas, ``job@node:index``, and the node of each.

    The index counts the job's replicas on that node, so that those that stay keep their addresses.
    """
    seen: Counter[str] = Counter()
    found = {}
    for place in workers:
        found[f"{job_id}@{place.node_id}:{seen[place.node_id]}"] = place.node_id
        seen[place.node_id] += 1
    return found


@dataclass
class _Replica:
    service: str
    job_id: str
    node_id: str
    ready_ms: int
    well: bool  # what the mesh was told last


@dataclass(frozen=True)
class _Image:
    """Services of jobs (by job), rules of each, whose rules nobody gave, and replicas."""

    jobs: dict[str, str]
    rules: dict[str, ServiceSpec]
    defaults: frozenset[str]
    replicas: tuple[tuple[str, _Replica], ...]


class ReplicaRegistry:
    """Registers the replicas of jobs of kind SERVICE under the job's name.

    Two jobs of one name are one service. A service that nobody described with
    ``mesh.add_service`` gets the defaults, and the job's ``step_seconds`` as its service time. A
    new replica is well once it has started up (``regroup_seconds``).

    Parameters
    ----------
    clock : Clock
        Time.
    mesh : ServiceMesh or None
        Where they are registered; None: one on the same clock.
    transport : callable or None
        What carries that mesh's requests.
    simulated : bool
        Whether replicas exist in simulation only: a mesh without a transport then gets one that
        answers after the service's mean time, and probes that are answered by all who live.
    serving : Serving or None
        Who knows where real replicas answer: a mesh without a transport then gets one that asks
        them by HTTP, and a replica is well once it has said that it is there.

    Raises
    ------
    ConfigurationError
        If both a mesh and a transport are given: a mesh has its own.
    """

    def __init__(
        self,
        clock: Clock,
        mesh: ServiceMesh | None = None,
        transport: Transport | None = None,
        *,
        simulated: bool = False,
        serving: Serving | None = None,
    ) -> None:
        if mesh is not None and transport is not None:
            raise ConfigurationError(
                "InfrastructureOrchestrator: 'transport' is given beside 'mesh', which has its "
                "own; give it to the ServiceMesh"
            )
        self._clock = clock
        if mesh is None:
            real = serving is not None and transport is None
            mesh = ServiceMesh(clock, transport, probing=_PATIENT if real else None)
        if simulated:
            mesh.fall_back(self._answer, self._is_there)
        self._serving = serving if mesh.transport is None else None
        if self._serving is not None:
            carry = HttpTransport(self._locate)
            mesh.fall_back(carry, lambda address: carry(address, HealthCheck()))
        self.mesh = mesh
        self.prober = HealthProber(mesh, clock)
        self._replicas: dict[str, _Replica] = {}
        self._of_job: dict[str, dict[str, _Replica]] = {}
        self._of_service: dict[str, dict[str, _Replica]] = {}
        self._defaults: dict[str, ServiceSpec] = {}  # rules that nobody gave
        self._jobs: dict[str, str] = {}  # service jobs that are known, and their services

    def declare(self, *specs: JobSpec) -> None:
        """Jobs were submitted: their services are known from now on, perhaps without replicas.

        Jobs of another kind are ignored.
        """
        for spec in specs:
            if spec.kind != JobKind.SERVICE or spec.job_id in self._jobs:
                continue
            self._jobs[spec.job_id] = spec.name
            if spec.name not in self.mesh.services:
                rules = ServiceSpec(spec.name, 1000.0 * spec.step_seconds)
                self._defaults[spec.name] = rules
                self.mesh.add_service(rules)

    def image(self) -> object:
        """Services and replicas that there are."""
        names = [name for name in dict.fromkeys(self._jobs.values()) if name in self.mesh.services]
        rules = {name: self.mesh.spec(name) for name in names}
        defaults = frozenset(name for name in names if self.is_default(rules[name]))
        replicas = tuple((address, replace(one)) for address, one in self._replicas.items())
        return _Image(dict(self._jobs), rules, defaults, replicas)

    def load(self, image: _Image) -> None:
        """Have the services and replicas that there were then."""
        self._remove(list(self._replicas))
        self._jobs = dict(image.jobs)
        for name, spec in image.rules.items():
            if name not in self.mesh.services:
                self.mesh.add_service(spec)
                if name in image.defaults:
                    self._defaults[name] = spec
        for address, replica in image.replicas:
            if replica.service in self.mesh.services:
                self._add(address, replace(replica))

    def is_default(self, spec: ServiceSpec) -> bool:
        """Whether these rules are those of a service that nobody described."""
        return self._defaults.get(spec.name) is spec

    def restore(self, spec: ServiceSpec) -> None:
        """Give a service the rules that it had, unless somebody has given it others since."""
        name = spec.name
        if name not in self.mesh.services or self.is_default(self.mesh.spec(name)):
            self.mesh.add_service(spec)

    def note(self, outcome: Outcome, engine: Engine) -> None:
        """Follow what an entry of the log did to service jobs."""
        for effect in outcome.effects:
            if isinstance(effect, StartJob | RegroupJob):
                self._place(effect, engine.now_ms)
            elif isinstance(effect, SaveCheckpoint):
                for address in self._of(effect.job_id):
                    self.mesh.drain(self._replicas[address].service, address)
            elif isinstance(effect, StopJob):
                self._remove(self._of(effect.job_id))
        for job_id in list(self._jobs):
            if job_id not in engine.jobs.specs or engine.jobs.code(job_id) in _ENDED:
                self._remove(self._of(job_id))
                self._retire(self._jobs.pop(job_id))

    def _retire(self, service: str) -> None:
        """A service that nobody described ends with its last job."""
        known = service in self.mesh.services and service not in self._jobs.values()
        if known and self.is_default(self.mesh.spec(service)):
            self.mesh.remove_service(service)
            del self._defaults[service]

    def _place(self, effect: StartJob | RegroupJob, now_ms: int) -> None:
        spec = effect.spec
        if spec.kind != JobKind.SERVICE:
            return
        self.declare(spec)
        there = addresses_of(effect.job_id, effect.workers)
        moved = isinstance(effect, RegroupJob) and effect.moved
        self._remove([a for a in self._of(effect.job_id) if moved or a not in there])
        begin_ms = effect.start_ms + effect.restart_ms if isinstance(effect, StartJob) else now_ms
        ready_ms = begin_ms + round(1000.0 * spec.regroup_seconds)
        for address, node_id in there.items():
            if address not in self._replicas:
                well = self._serving is None and ready_ms <= self._clock.now_ms()
                replica = _Replica(spec.name, effect.job_id, node_id, ready_ms, well)
                self._add(address, replica)

    def _add(self, address: str, replica: _Replica) -> None:
        self._replicas[address] = replica
        self._of_job.setdefault(replica.job_id, {})[address] = replica
        self._of_service.setdefault(replica.service, {})[address] = replica
        self.mesh.register(replica.service, address, healthy=replica.well)

    def _of(self, job_id: str) -> list[str]:
        return list(self._of_job.get(job_id, ()))

    def _remove(self, addresses: list[str]) -> None:
        for address in addresses:
            replica = self._replicas.pop(address)
            for table, key in ((self._of_job, replica.job_id), (self._of_service, replica.service)):
                del table[key][address]
                if not table[key]:
                    del table[key]
            known = replica.service in self.mesh.services  # unless somebody has removed it
            if known and self.mesh.discovery.knows(replica.service, address):
                self.mesh.deregister(replica.service, address)

    def refresh(self, suspects: Collection[str], service: str | None = None) -> None:
        """Tell the mesh which replicas have started up since, or are on suspected nodes.

        What others tell it, a prober for example, stands until one of these changes.

        Parameters
        ----------
        suspects : collection of str
            Nodes that are taken for dead.
        service : str or None, optional
            The service that is asked for, whose replicas alone are looked at, and probed from now
            on; None: all.
        """
        if service is not None and service in self.mesh.services:
            self.prober.attend(service)
        for name in list(self._of_service) if service is None else (service,):
            if name in self.mesh.services:
                self._refresh(name, suspects)

    def _refresh(self, service: str, suspects: Collection[str]) -> None:
        now_ms = self._clock.now_ms()
        there = self._answering(service)
        for address, replica in self._of_service.get(service, {}).items():
            well = replica.ready_ms <= now_ms and replica.node_id not in suspects
            well = well and (there is None or address in there)
            if well != replica.well:
                replica.well = well
                if self.mesh.discovery.knows(service, address):
                    self.mesh.discovery.set_health(service, address, well)

    def _answering(self, service: str) -> dict[str, tuple[str, int]] | None:
        """Where the real replicas of a service answer, by address; None: that is not known."""
        if self._serving is None:
            return None
        jobs = {replica.job_id for replica in self._of_service.get(service, {}).values()}
        return {
            f"{job_id}@{node}:{index}": place
            for job_id in jobs
            for (node, index), place in self._serving.endpoints(job_id).items()
        }

    def _locate(self, address: str) -> tuple[str, int] | None:
        """Where a real replica answers; None: it does not."""
        replica = self._replicas.get(address)
        if replica is None or self._serving is None:
            return None
        index = int(address.rpartition(":")[2])
        return self._serving.endpoints(replica.job_id).get((replica.node_id, index))

    async def _answer(self, address: str, request: Any) -> dict[str, Any]:
        """Simulated replica: it answers after its service's mean time, if it lives so long."""
        replica = self._replicas.get(address)
        if replica is not None:
            took_ms = round(self.mesh.spec(replica.service).service_ms)
            await self._clock.sleep_until(self._clock.now_ms() + took_ms)
        if replica is None or self._replicas.get(address) is not replica:
            raise ConnectionError(f"no replica answers at {address}")
        return {"endpoint": address, "request": request}

    def _is_there(self, address: str) -> None:
        """Probe of a simulated replica."""
        if address not in self._replicas:
            raise ConnectionError(f"no replica answers at {address}")

    def counts(self) -> dict[str, ServiceCounts]:
        """What became of the requests of each service."""
        return {name: self.mesh.counts(name) for name in self.mesh.services}

    def status(self, suspects: Collection[str]) -> dict[str, Any]:
        """Services as plain data: endpoints by state, and what became of their requests."""
        self.refresh(suspects)
        return {name: self._status(name) for name in self.mesh.services}

    def _status(self, service: str) -> dict[str, Any]:
        endpoints = self.mesh.discovery.endpoints(service)
        counts = self.mesh.counts(service)
        return {
            "endpoints": {
                e.address: "draining" if e.draining else "healthy" if e.healthy else "unhealthy"
                for e in endpoints
            },
            "routable": self.mesh.discover(service),
            "urls": {
                address: f"http://{host}:{port}"
                for address, (host, port) in (self._answering(service) or {}).items()
            },
            "offered": counts.offered,
            "served": counts.served,
            "failed": counts.failed,
            "retried": counts.retried,
            "shed": counts.shed,
            "attainment": counts.within / counts.offered if counts.offered else None,
        }
