"""What can be asked of a live cluster: status, lists, what has happened, what workers write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.autoscaler.fleet import FleetController
from orchestrator.autoscaler.ticks import Ticks
from orchestrator.clock import LogClock
from orchestrator.engine.engine import Engine
from orchestrator.errors import ConfigurationError
from orchestrator.happenings import ANNOUNCED, Happening, Happenings
from orchestrator.kernels.state.codes import JobCode
from orchestrator.live.cycle import SchedulingCycle
from orchestrator.live.journal import Journal
from orchestrator.live.outbox import Outbox
from orchestrator.live.retry import Inbox, Managers, Persistent, Watch
from orchestrator.live.settings import Settings
from orchestrator.mesh.mesh import ServiceMesh
from orchestrator.mesh.replicas import ReplicaRegistry
from orchestrator.messages import Event
from orchestrator.ports import (
    CheckpointManager,
    NodeHealth,
    Output,
    Readable,
    Runtime,
    ShardManager,
    WorkerOutput,
)
from orchestrator.questions.foresight import Foresight
from orchestrator.questions.listing import JobFilter, job_page, node_list, node_page, queue_page
from orchestrator.resources import ResourceManager
from orchestrator.scheduling.rules import RULES, Rule, placing_rule
from orchestrator.status import Owners, cluster_status, device_status, job_status, or_error
from orchestrator.types import JobSpec, JobState, NodeSpec

__all__ = ["Questions"]


_PART = 65_536  # bytes of what is followed, at once
_WAIT_S = 10.0  # for more of it
_PAUSE_S = 0.1  # between two parts


class Questions(Foresight):
    """The part of :class:`orchestrator.InfrastructureOrchestrator` that changes nothing.

    Whoever is made of it has these; all that is asked is answered from what the log says by now.
    """

    engine: Engine
    runtime: Runtime
    checkpoints: CheckpointManager
    mesh: ServiceMesh
    shards: ShardManager
    _cycle: SchedulingCycle
    _fleet: FleetController
    _health: Inbox[NodeHealth]
    _inbox: Inbox[Event]
    _keeping: Persistent
    _managers: Managers
    _outbox: Outbox
    _happenings: Happenings
    _journal: Journal
    _owners: Owners
    _replicas: ReplicaRegistry
    _settings: Settings
    _ticks: Ticks
    _time: LogClock
    _watch: Watch

    @property
    def jobs(self) -> dict[str, JobSpec]:
        """Jobs that are known, by their ids; to be read only."""
        return self.engine.jobs.specs

    @property
    def nodes(self) -> dict[str, NodeSpec]:
        """Nodes that are known, by their ids; to be read only."""
        return self.engine.nodes.specs

    @property
    def resources(self) -> ResourceManager:
        """What nodes offer and who holds it; to be read only."""
        return ResourceManager(self.engine.state)

    def _rule(self) -> Rule:
        """By what rule jobs are placed; of a policy that is none nobody knows, as by default."""
        return placing_rule(self._cycle.policy) or RULES["priority"]

    def _known_rule(self) -> NDArray[np.void] | None:
        """The rule by which jobs are placed, as kernels take it; None: the policy is none."""
        rule = placing_rule(self._cycle.policy)
        return None if rule is None else rule.to_record()

    def announced(self, kind: str) -> dict[str, Any] | None:
        """What was announced last of a kind, before a restart too; None: nothing."""
        told = self._settings.get(f"{ANNOUNCED}:{kind}")
        return told if isinstance(told, dict) else None

    # --- the cluster ---------------------------------------------------------------------------

    def get_cluster_status(self) -> dict[str, Any]:
        """What is going on: see :func:`orchestrator.status.cluster_status`."""
        self._journal.try_read()
        suspects = self._watch.suspects()
        return {
            **cluster_status(self.engine, self._time.now_ms(), self._owners, self._known_rule()),
            "suspects": [node_id for node_id in suspects if node_id in self.nodes],
            "log_entries": self._journal.applied,
            "leader": self._journal.leader,
            "devices": device_status(self.nodes, self.runtime),
            "services": self._replicas.status(suspects),
            "scaling": or_error(self._fleet.status),
            "errors": self._errors(),
        }

    def _errors(self) -> dict[str, Any]:
        """How often what is injected failed, and what is still to be done because of it."""
        return {
            "policy": self._cycle.policy_errors,
            "last_policy_error": self._cycle.last_policy_error,
            "cycles": self._cycle.errors,
            "runtime": self._outbox.errors,
            "effects_waiting": len(self._outbox),
            "reports": self._inbox.errors + self._health.errors,
            "reports_waiting": len(self._inbox) + len(self._health),
            "checkpoints": self._keeping.errors,
            "detector": self._watch.errors,
            "managers": self._managers.errors,
        }

    def on_cycle(self, told: Callable[[float], object]) -> None:
        """Have somebody told of every scheduling cycle, how many seconds it took."""
        self._cycle.took = told

    # --- services ------------------------------------------------------------------------------

    @property
    def sized_by_policy(self) -> frozenset[str]:
        """Jobs of the services that the policy in charge has sized at the last tick."""
        return self._ticks.sized

    async def discover_service(self, service_name: str) -> list[str]:
        """Addresses of a service's replicas that requests may go to now.

        Raises
        ------
        UnknownServiceError
            If there is no such service.
        """
        self._journal.try_read()
        self._replicas.refresh(self._watch.suspects(), service_name)
        return self.mesh.discover(service_name)

    async def route_request(self, service_name: str, request: Any) -> Any:
        """Get a request answered: see :meth:`orchestrator.mesh.ServiceMesh.route`."""
        self._journal.try_read()
        self._replicas.refresh(self._watch.suspects(), service_name)
        return await self.mesh.route(service_name, request)

    # --- jobs ----------------------------------------------------------------------------------

    def get_job_status(self, job_id: str) -> dict[str, Any]:
        """What is known of a job: see :func:`orchestrator.status.job_status`."""
        self._journal.try_read()
        now_ms, rule = self._time.now_ms(), self._known_rule()
        return job_status(self.engine, now_ms, job_id, self.checkpoints, self.shards, rule)

    def list_jobs(
        self,
        *,
        state: JobState | str | None = None,
        tenant: str | None = None,
        name: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Jobs that are known, the one that was submitted last first.

        Parameters
        ----------
        state : JobState, str or None, optional
            Only those in a state.
        tenant, name : str or None, optional
            Only those of a tenant; of a name.
        limit : int, optional
            How many at most.
        before : str or None, optional
            The cursor of the page before.

        Returns
        -------
        list of dict
            See :func:`orchestrator.questions.listing.job_summary`.
        str or None
            Cursor of the next page, if there is one.

        Raises
        ------
        ValidationError
            If there is no such state, limit or cursor.
        """
        self._journal.try_read()
        return job_page(self.engine, JobFilter(state, tenant, name), limit, before)

    def queue(
        self, limit: int = 100, after: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Jobs that wait, in the order in which the policy in charge serves them.

        Of a policy that is no rule nobody knows in which order it does: then they are in the order
        of submission.

        Parameters
        ----------
        limit : int, optional
            How many at most.
        after : str or None, optional
            The cursor of the page before.

        Returns
        -------
        list of dict
            See :func:`orchestrator.questions.listing.queue_page`.
        str or None
            Cursor of the next page, if there is one.
        """
        self._journal.try_read()
        return queue_page(self.engine, self._time.now_ms(), self._known_rule(), limit, after)

    # --- nodes ---------------------------------------------------------------------------------

    def list_nodes(self) -> list[dict[str, Any]]:
        """All nodes: see :func:`orchestrator.questions.listing.node_page`."""
        self._journal.try_read()
        return node_list(self.engine, self.runtime, self._watch.suspects())

    def node_status(self, node_id: str) -> dict[str, Any]:
        """What is known of a node: see :func:`orchestrator.questions.listing.node_page`."""
        self._journal.try_read()
        return node_page(self.engine, self.runtime, self._watch.suspects(), node_id)

    # --- what workers write --------------------------------------------------------------------

    def _readable(self, job_id: str) -> Readable:
        self._journal.try_read()
        self.engine.jobs.index.find(job_id)
        if not isinstance(self.runtime, Readable):
            raise ConfigurationError(
                f"job '{job_id}': its runtime keeps nothing of what workers write; run the cluster "
                "on a ProcessRuntime"
            )
        return self.runtime

    async def outputs(self, job_id: str, run: int | None = None) -> Sequence[WorkerOutput]:
        """What is kept of what a job's workers have written.

        Parameters
        ----------
        job_id : str
        run : int or None, optional
            Which run of the job; None: the last one that has written something.

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        UnreachableError
            If the nodes do not answer.
        """
        return await self._readable(job_id).outputs(job_id, run)

    async def output(
        self,
        job_id: str,
        worker: int = 0,
        *,
        run: int | None = None,
        offset: int = 0,
        limit: int = 65_536,
        wait_s: float = 0.0,
    ) -> Output:
        """A part of what a worker has written: see :meth:`orchestrator.ports.Readable.output`.

        Parameters
        ----------
        job_id : str
        worker : int, optional
        run : int or None, optional
            Which run of the job; None: the last one.
        offset : int, optional
            Bytes of the worker's whole output; below 0: from its end.
        limit : int, optional
            Bytes at most.
        wait_s : float, optional
            Seconds for which to wait if there is nothing yet.
        """
        how: dict[str, Any] = {"run": run, "offset": offset, "limit": limit, "wait_s": wait_s}
        return await self._readable(job_id).output(job_id, worker, **how)

    async def follow_output(
        self, job_id: str, worker: int = 0, *, run: int | None = None, offset: int = 0
    ) -> AsyncIterator[Output]:
        """What a worker writes, as it comes; at most ten parts a second, unless there is much.

        It ends with the run, or, if none is named, with the job: one that waits is waited for, and
        one that is started again is followed on, from the beginning of its next run.

        Parameters
        ----------
        job_id, worker, run, offset
            See :meth:`output`.
        """
        number = run if run is not None else await self._next_run(job_id, self._first_run(job_id))
        while number is not None:
            part = await self.output(job_id, worker, run=number, offset=offset, wait_s=_WAIT_S)
            offset = part.next_offset
            if part.data:
                yield part
            if part.ended and run is not None:
                return
            if part.ended:
                number, offset = await self._next_run(job_id, number + 1), 0
            elif len(part.data) < _PART:
                await asyncio.sleep(_PAUSE_S)

    def _first_run(self, job_id: str) -> int:
        """The run that a job is in, or was in last; or the one that it is to begin."""
        self._readable(job_id)
        return self.engine.run_of(job_id) + (self.engine.runs_of(job_id) == 0)

    async def _next_run(self, job_id: str, number: int) -> int | None:
        """Wait until a run of a job has begun; None: it ends before, or is forgotten."""
        while True:
            self._journal.try_read()
            if job_id not in self.engine.jobs.index:
                return None
            if self.engine.run_of(job_id) >= number:
                return self.engine.run_of(job_id)
            if self.engine.jobs.code(job_id) in (JobCode.COMPLETED, JobCode.FAILED):
                return None
            await asyncio.sleep(_PAUSE_S)

    # --- what has happened ---------------------------------------------------------------------

    def happenings(
        self, since: str | None = None, limit: int = 100
    ) -> tuple[list[Happening], bool]:
        """What has happened: to jobs, nodes and services, and what was decided.

        Parameters
        ----------
        since : str or None, optional
            A cursor: what came after it, the oldest first; None: the last ones.
        limit : int, optional
            How many at most.

        Returns
        -------
        list of Happening
            In order; ask with the ``cursor`` of the last one for more.
        bool
            Whether there is a gap: something between the cursor and them is not kept any more.
        """
        self._journal.try_read()
        return self._happenings.since(since, limit)

    def follow(self, since: str | None = None) -> AsyncIterator[Happening]:
        """What happens after a cursor, as it happens; None: from now on.

        See :meth:`orchestrator.happenings.Happenings.follow`. It ends when this orchestrator stops.
        One that does not lead hears of what others have logged when it is asked for something.
        """
        self._journal.try_read()
        return self._happenings.follow(since)
