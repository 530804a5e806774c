"""The vocabulary of the orchestrator: priorities, states, specifications, decisions.

Fields up to the marked line of each dataclass are the interface's; the ones below it are
extensions with working defaults. Every specification validates itself when it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from orchestrator.errors import ValidationError
from orchestrator.kernels.state.codes import JobKind, Topology

__all__ = [
    "JobPriority",
    "JobSpec",
    "JobState",
    "NodeSpec",
    "ScalingDecision",
    "ScalingDirection",
    "TenantSpec",
]


_NOT_NEGATIVE = (
    "checkpoint_seconds",
    "restart_seconds",
    "regroup_seconds",
    "checkpoint_gb",
    "gpu_memory_gb",
    "network_gbps",
)


class JobPriority(Enum):
    """Priority class of a job; the lower value is the more important one."""

    CRITICAL = 0
    PRODUCTION = 1
    BATCH = 2
    BEST_EFFORT = 3


class JobState(Enum):
    """State of a job; it changes only along ``LEGAL_TRANSITIONS`` of the kernels' codes."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    CHECKPOINTING = "checkpointing"
    SCALING = "scaling"
    COMPLETED = "completed"
    FAILED = "failed"
    PREEMPTED = "preempted"


class ScalingDirection(Enum):
    """Which way a cluster or a service is scaled."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


def _require(subject: str, field: str, ok: bool, problem: str, remedy: str) -> None:
    if not ok:
        raise ValidationError(subject, field, problem, remedy)


def _require_number(subject: str, field: str, value: float, minimum: float, *, above: bool) -> None:
    """Demand a finite number that is at least (``above``: greater than) ``minimum``."""
    _require(
        subject,
        field,
        isinstance(value, int | float) and not isinstance(value, bool),
        f"is {value!r}, not a number",
        "give a number",
    )
    _require(subject, field, math.isfinite(value), f"is {value}", "give a finite number")
    bound = "greater than" if above else "at least"
    ok = value > minimum if above else value >= minimum
    _require(subject, field, ok, f"is {value}", f"it must be {bound} {minimum:g}")


def _require_count(subject: str, field: str, value: int, minimum: int) -> None:
    """Demand an integer that is at least ``minimum``."""
    _require(
        subject,
        field,
        isinstance(value, int) and not isinstance(value, bool),
        f"is {value!r}, not an integer",
        "give an integer",
    )
    _require(subject, field, value >= minimum, f"is {value}", f"it must be at least {minimum}")


@dataclass(frozen=True)
class JobSpec:
    """What a user asks for.

    Parameters
    ----------
    job_id, name : str
        Unique identity, and a name for people.
    priority : JobPriority
        Priority class.
    num_workers : int
        Workers to start with, at least 1.
    gpus_per_worker : int
        GPUs of one worker; 0 for a job without GPUs.
    memory_per_worker_gb : float
        Host memory of one worker, GiB.
    max_duration_hours : float
        The user's estimate of the run time, hours; what schedulers may know of it.
    checkpoint_interval_steps : int
        Training steps between checkpoints; 0 means that the job is never checkpointed
        periodically (a planned preemption still saves it).
    elastic, min_workers, max_workers : bool, int, int
        Whether, and between which bounds, the number of workers may change while the job runs.
    preemptible : bool
        Whether the job may be preempted.
    gang_schedule : bool
        All workers start together or none does.
    topology_aware : bool
        Whether placement should keep the workers close together.
    tenant : str
        Who pays.
    cpus_per_worker : float
        CPU cores of one worker.
    gpu_fraction : float
        Share of each of its GPUs that a worker needs, in (0, 1].
    step_seconds : float
        Duration of one training step at nominal speed; turns
        ``checkpoint_interval_steps`` into time.
    duration_hours : float or None
        True run time, known to simulated runtimes only; None: the estimate is exact.
    checkpoint_seconds, restart_seconds : float
        Cost of saving the job before a planned preemption, and of starting it again.
    regroup_seconds : float
        How long work stands still when the number of workers changes; for a service, how long a
        new replica takes to start.
    checkpoint_gb : float
        Size of a checkpoint, GiB; counts against the tenant's storage quota from the first start
        on.
    gpu_memory_gb : float
        Memory needed on each GPU, GiB.
    gpu_models : tuple of str
        GPU models that will do; empty: any.
    network_gbps : float
        Bandwidth of one worker's traffic, reserved where the gang spans nodes, Gbit/s.
    topology : Topology
        The narrowest domain that all workers must share. ``topology_aware`` only prefers.
    kind : JobKind
        Training, batch inference, or a service whose workers are its replicas.
    deadline_hours : float or None
        When a batch job should be done, from its submission.
    """

    job_id: str
    name: str
    priority: JobPriority
    num_workers: int
    gpus_per_worker: int
    memory_per_worker_gb: float
    max_duration_hours: float
    checkpoint_interval_steps: int
    elastic: bool = False
    min_workers: int = 1
    max_workers: int = 64
    preemptible: bool = False
    gang_schedule: bool = True
    topology_aware: bool = True
    # --- extensions of the interface ---
    tenant: str = "default"
    cpus_per_worker: float = 0.0
    gpu_fraction: float = 1.0
    step_seconds: float = 1.0
    duration_hours: float | None = None
    checkpoint_seconds: float = 0.0
    restart_seconds: float = 0.0
    regroup_seconds: float = 0.0
    checkpoint_gb: float = 0.0
    gpu_memory_gb: float = 0.0
    gpu_models: tuple[str, ...] = ()
    network_gbps: float = 0.0
    topology: Topology = Topology.ANY
    kind: JobKind = JobKind.TRAINING
    deadline_hours: float | None = None

    def __post_init__(self) -> None:
        """Validate every field; raise :class:`ValidationError` naming the first bad one."""
        me = f"JobSpec '{self.job_id}'"
        _require(me, "job_id", bool(self.job_id), "is empty", "give the job an identity")
        _require(
            me,
            "priority",
            isinstance(self.priority, JobPriority),
            f"is {self.priority!r}",
            f"use one of {[p.name for p in JobPriority]}",
        )
        _require_count(me, "num_workers", self.num_workers, 1)
        _require_count(me, "gpus_per_worker", self.gpus_per_worker, 0)
        _require_count(me, "checkpoint_interval_steps", self.checkpoint_interval_steps, 0)
        _require_count(me, "min_workers", self.min_workers, 1)
        _require_count(me, "max_workers", self.max_workers, 1)
        _require(
            me,
            "min_workers",
            self.min_workers <= self.max_workers,
            f"is {self.min_workers}, above max_workers ({self.max_workers})",
            "lower min_workers or raise max_workers",
        )
        if self.elastic:
            _require(
                me,
                "num_workers",
                self.min_workers <= self.num_workers <= self.max_workers,
                f"is {self.num_workers}, outside [{self.min_workers}, {self.max_workers}]",
                "an elastic job starts between its bounds",
            )
        _require_number(me, "memory_per_worker_gb", self.memory_per_worker_gb, 0.0, above=False)
        _require_number(me, "max_duration_hours", self.max_duration_hours, 0.0, above=True)
        _require_number(me, "cpus_per_worker", self.cpus_per_worker, 0.0, above=False)
        _require_number(me, "gpu_fraction", self.gpu_fraction, 0.0, above=True)
        _require(
            me, "gpu_fraction", self.gpu_fraction <= 1.0, f"is {self.gpu_fraction}", "at most 1"
        )
        _require_number(me, "step_seconds", self.step_seconds, 0.0, above=True)
        if self.duration_hours is not None:
            _require_number(me, "duration_hours", self.duration_hours, 0.0, above=True)
        for field in _NOT_NEGATIVE:
            _require_number(me, field, getattr(self, field), 0.0, above=False)
        if self.deadline_hours is not None:
            _require_number(me, "deadline_hours", self.deadline_hours, 0.0, above=True)
        _require(
            me,
            "gpu_memory_gb",
            self.gpu_memory_gb == 0 or self.gpus_per_worker > 0,
            f"is {self.gpu_memory_gb}, and the job asks for no GPUs",
            "ask for GPUs, or leave it out",
        )
        _require(
            me,
            "gpus_per_worker",
            self.gpus_per_worker > 0 or self.cpus_per_worker > 0 or self.memory_per_worker_gb > 0,
            "is 0, and the job asks for no CPU and no memory either",
            "ask for at least one resource",
        )


@dataclass(frozen=True)
class NodeSpec:
    """What a machine offers.

    Parameters
    ----------
    node_id : str
        Unique identity.
    gpus : int
        Number of GPUs, at most 64.
    gpu_memory_gb, memory_gb : float
        Memory of one GPU, and of the host, GiB.
    cpu_cores : int
        CPU cores.
    network_bandwidth_gbps : float
        Bandwidth of its uplink, Gbit/s.
    gpu_topology : str
        How its GPUs are connected: ``"NVLink"``, ``"PCIe"``, ...
    available : bool
        False registers the node as down.
    gpu_model : str
        GPU model; jobs may be constrained to models.
    rack, spine : int
        Position in the network; a rack belongs to one spine.
    island_gpus : int
        GPUs of one NVLink island, which must divide ``gpus``; 0: the node has no islands.
    """

    node_id: str
    gpus: int
    gpu_memory_gb: float
    cpu_cores: int
    memory_gb: float
    network_bandwidth_gbps: float
    gpu_topology: str
    available: bool = True
    # --- extensions of the interface ---
    gpu_model: str = "generic"
    rack: int = 0
    spine: int = 0
    island_gpus: int = 0

    def __post_init__(self) -> None:
        """Validate every field; raise :class:`ValidationError` naming the first bad one."""
        me = f"NodeSpec '{self.node_id}'"
        _require(me, "node_id", bool(self.node_id), "is empty", "give the node an identity")
        _require_count(me, "gpus", self.gpus, 0)
        _require(me, "gpus", self.gpus <= 64, f"is {self.gpus}", "a node has at most 64 GPUs")
        _require_count(me, "cpu_cores", self.cpu_cores, 0)
        _require_number(me, "gpu_memory_gb", self.gpu_memory_gb, 0.0, above=False)
        _require_number(me, "memory_gb", self.memory_gb, 0.0, above=False)
        _require_number(me, "network_bandwidth_gbps", self.network_bandwidth_gbps, 0.0, above=False)
        _require_count(me, "rack", self.rack, 0)
        _require_count(me, "spine", self.spine, 0)
        _require_count(me, "island_gpus", self.island_gpus, 0)
        _require(
            me,
            "island_gpus",
            self.island_gpus == 0 or (self.gpus > 0 and self.gpus % self.island_gpus == 0),
            f"is {self.island_gpus}, which does not divide the node's {self.gpus} GPUs",
            "give islands of equal size, or 0 for none",
        )


@dataclass(frozen=True)
class TenantSpec:
    """Who shares a cluster, and what they are entitled to.

    Parameters
    ----------
    name : str
        As in ``JobSpec.tenant``.
    weight : float
        Of its fair share.
    quota : float
        Capacity that it is entitled to: GPUs, or CPU cores in a cluster without GPUs.
    storage_quota_gb : float or None
        Most that the checkpoints of its jobs may take, GiB; None: no limit.
    """

    name: str
    weight: float = 1.0
    quota: float = 0.0
    storage_quota_gb: float | None = None

    def __post_init__(self) -> None:
        """Validate every field; raise :class:`ValidationError` naming the first bad one."""
        me = f"TenantSpec '{self.name}'"
        _require(me, "name", bool(self.name), "is empty", "give the tenant a name")
        _require_number(me, "weight", self.weight, 0.0, above=True)
        _require_number(me, "quota", self.quota, 0.0, above=False)
        if self.storage_quota_gb is not None:
            _require_number(me, "storage_quota_gb", self.storage_quota_gb, 0.0, above=True)


@dataclass(frozen=True)
class ScalingDecision:
    """What the autoscaler decided, and why.

    Parameters
    ----------
    direction : ScalingDirection
        Which way.
    target_nodes : int
        Nodes wanted.
    reason : str
        For people.
    predicted_demand : float
        Forecast demand at the planning horizon, GPUs.
    cooldown_remaining_s : float
        Seconds until the next decision in this direction is allowed.
    """

    direction: ScalingDirection
    target_nodes: int
    reason: str
    predicted_demand: float
    cooldown_remaining_s: float
