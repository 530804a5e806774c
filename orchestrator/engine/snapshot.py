"""The view of a cluster that a policy gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.engine.plans import Preference
from orchestrator.engine.records import ShownFleet
from orchestrator.kernels.state.codes import ActionKind, JobCode, NodeCode, Placement
from orchestrator.kernels.state.row import ClusterState
from orchestrator.messages import Action, from_code
from orchestrator.types import JobState

__all__ = ["JobView", "NodeView", "Snapshot"]


@dataclass(frozen=True)
class JobView:
    """A waiting or running job.

    Parameters
    ----------
    job_id : str
        Identity.
    state : JobState
        State.
    submit_ms, start_ms : int
        When it was submitted, and last started (-1: never).
    requested_ms, progress_ms : int
        Estimated run time, and work done (running jobs: when this run began).
    workers, gpus : int
        Workers, and GPUs of each.
    gpu_share : float
        Share of each GPU.
    priority : int
        ``JobPriority`` value; lower is more important.
    preemptible : bool
        Whether it may be preempted.
    """

    job_id: str
    state: JobState
    submit_ms: int
    start_ms: int
    requested_ms: int
    progress_ms: int
    workers: int
    gpus: int
    gpu_share: float
    priority: int
    preemptible: bool


@dataclass(frozen=True)
class NodeView:
    """A node in service, and what it has free."""

    node_id: str
    gpus: int
    free_gpus: float
    free_cpus: float
    free_memory_gb: float
    workers: int
    failures: int


@dataclass(frozen=True)
class Snapshot:
    """A cluster as it was at a decision point.

    Parameters
    ----------
    state : ClusterState
        A copy of the cluster's row, for kernels: features, rules, and what-ifs that play forward
        on it. It belongs to whoever holds the snapshot; nothing done to it reaches the cluster.
    job_ids, node_ids : tuple of str
        Identities by index into its job and node tables; an unused index has an empty one.
    prefer : Preference or None, optional
        Where a job goes if a plan leaves that open; None: best fit.
    entry : int, optional
        Entries of the cluster's log before it: with these applied the cluster is as it is here.
        -1: nobody says.
    fleet : ShownFleet or None, optional
        What the row does not say of nodes on order, and of those that may be ordered; None: there
        has been no tick.
    """

    state: ClusterState
    job_ids: tuple[str, ...]
    node_ids: tuple[str, ...]
    prefer: Preference | None = None
    entry: int = -1
    fleet: ShownFleet | None = None

    @property
    def now_ms(self) -> int:
        """Time."""
        return int(self.state.rows[0]["now_ms"])

    @property
    def point(self) -> int:
        """Number of the decision point."""
        return int(self.state.rows[0]["point"])

    def waiting(self) -> tuple[JobView, ...]:
        """Jobs in the queue, in submit order."""
        count = int(self.state.rows[0]["queue_len"])
        return tuple(self._job(int(j)) for j in self.state.queue[0, :count]["job"])

    def running(self) -> tuple[JobView, ...]:
        """Placed jobs, by expected end."""
        count = int(self.state.rows[0]["running_len"])
        return tuple(self._job(int(j)) for j in self.state.running[0, :count]["job"])

    def nodes(self) -> tuple[NodeView, ...]:
        """Nodes that take jobs, in the order of their registration."""
        up = [n for n, node_id in enumerate(self.node_ids) if node_id and self._is_up(n)]
        return tuple(self._node(n) for n in up)

    def preferred_place(self, j: int) -> int:
        """Where the job of an index goes if a plan leaves that open: a ``Placement``, or a node."""
        return int(Placement.BEST_FIT) if self.prefer is None else self.prefer(self.state, 0, j)

    def action(self, kind: int, j: int, value: int) -> Action:
        """An action as kernels put it, (``ActionKind``, job, value), as a policy does.

        Of kind SERVICE it has, instead of the job, the number of the service.
        """
        if kind == ActionKind.SERVICE:
            j = int(self.state.service[0, j]["job"])
        return from_code(kind, self.job_ids[j] if j >= 0 else "", value)

    def show_fleet(self) -> None:
        """Let policies that change nodes see what may be changed, in the state of this snapshot."""
        if self.fleet is not None:
            self.fleet.show(self.state)

    def _is_up(self, n: int) -> bool:
        return bool(self.state.node[0, n]["state"] == NodeCode.UP)

    def _job(self, j: int) -> JobView:
        ask: Any = self.state.request[0, j]
        run: Any = self.state.job[0, j]
        return JobView(
            job_id=self.job_ids[j],
            state=JobState[JobCode(run["state"]).name],
            submit_ms=int(ask["submit_ms"]),
            start_ms=int(run["start_ms"]),
            requested_ms=int(ask["requested_ms"]),
            progress_ms=int(run["progress_ms"]),
            workers=int(ask["workers"]),
            gpus=int(ask["gpus_per_worker"]),
            gpu_share=int(ask["gpu_milli"]) / 1000,
            priority=int(ask["priority"]),
            preemptible=bool(ask["preemptible"]),
        )

    def _node(self, n: int) -> NodeView:
        host: Any = self.state.node[0, n]
        return NodeView(
            node_id=self.node_ids[n],
            gpus=int(host["gpus"]),
            free_gpus=int(host["gpu_free_milli"]) / 1000,
            free_cpus=int(host["cpu_free_milli"]) / 1000,
            free_memory_gb=int(host["memory_free_mib"]) / 1024,
            workers=int(host["workers"]),
            failures=int(host["failures"]),
        )
