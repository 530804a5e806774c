"""The vocabulary of the orchestrator: priorities, states, specifications, decisions.

Fields up to the marked line of each dataclass are the interface's; the ones below it are
extensions with working defaults. Every specification validates itself when it is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

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
    "is_unicode",
]


_FLAGS = ("elastic", "preemptible", "gang_schedule", "topology_aware")
_COUNTS = {
    "num_workers": 1,
    "gpus_per_worker": 0,
    "checkpoint_interval_steps": 0,
    "min_workers": 1,
    "max_workers": 1,
}
_NOT_NEGATIVE = (
    "memory_per_worker_gb",
    "cpus_per_worker",
    "checkpoint_seconds",
    "restart_seconds",
    "regroup_seconds",
    "checkpoint_gb",
    "gpu_memory_gb",
    "network_gbps",
)
_OPTIONAL = ("duration_hours", "deadline_hours")
_POSITIVE = ("max_duration_hours", "gpu_fraction", "step_seconds", *_OPTIONAL)
_NUMBERS = frozenset({int, float})
_FAST_LINKS = ("nv", "xgmi", "infinity fabric")  # between GPUs, past the host
_NO_LINKS = ("", "none")


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


def _put(spec: object, field: str, value: object) -> None:
    """Store a field in its plain Python form: specifications are written to logs as text."""
    # The dataclasses are frozen for their users; this is the one place that completes them.
    object.__setattr__(spec, field, value)


def _require_number(
    spec: object, subject: str, field: str, minimum: float, *, above: bool = False
) -> None:
    """Demand a finite number, perhaps NumPy's, of at least (``above``: more than) ``minimum``."""
    value = getattr(spec, field)
    fine = minimum < value or (value == minimum and not above) if type(value) in _NUMBERS else False
    if fine and value < math.inf:
        return  # as nearly always: messages are only worded where somebody reads them
    if isinstance(value, np.integer | np.floating):
        value = value.item()
    _require(
        subject,
        field,
        isinstance(value, int | float) and not isinstance(value, bool),
        f"is {value!r}, not a number",
        "give a number",
    )
    finite = isinstance(value, int) or math.isfinite(value)
    _require(subject, field, finite, f"is {value}", "give a finite number")
    bound = "greater than" if above else "at least"
    ok = value > minimum if above else value >= minimum
    _require(subject, field, ok, f"is {value}", f"it must be {bound} {minimum:g}")
    _put(spec, field, value)


def _require_count(spec: object, subject: str, field: str, minimum: int) -> None:
    """Demand an integer, perhaps NumPy's, that is at least ``minimum``."""
    value = getattr(spec, field)
    if type(value) is int and value >= minimum:
        return
    _require(
        subject,
        field,
        isinstance(value, int | np.integer) and not isinstance(value, bool),
        f"is {value!r}, not an integer",
        "give an integer",
    )
    _require(subject, field, value >= minimum, f"is {value}", f"it must be at least {minimum}")
    _put(spec, field, int(value))


def _require_flag(spec: object, subject: str, field: str) -> None:
    """Demand True or False; neither text nor None nor a number says which is meant."""
    value = getattr(spec, field)
    if type(value) is bool:
        return
    ok = isinstance(value, bool | np.bool_)
    _require(subject, field, ok, f"is {value!r}, not a flag", "give True or False")
    _put(spec, field, bool(value))


def _require_member(spec: object, subject: str, field: str, kind: type[IntEnum]) -> None:
    """Demand a member of an enumeration, or its number."""
    value = getattr(spec, field)
    if type(value) is kind:
        return
    numbers = isinstance(value, int | np.integer) and not isinstance(value, bool)
    ok = numbers and int(value) in [int(member) for member in kind]
    names = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
    _require(subject, field, ok, f"is {value!r}", f"use one of {names}")
    _put(spec, field, kind(int(value)))


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_text(spec: object, subject: str, field: str) -> None:
    """Demand text."""
    value = getattr(spec, field)
    if type(value) is str and value.isascii():
        return
    _require(subject, field, isinstance(value, str), f"is {value!r}, not text", "give text")
    encodes = is_unicode(str(value))
    _require(subject, field, encodes, f"is {value!r}, which UTF-8 cannot hold", "give other text")
    _put(spec, field, str(value))


def _require_texts(spec: object, subject: str, field: str) -> None:
    """Demand a tuple or list of texts that are not empty; one text is not a list of letters."""
    value = getattr(spec, field)
    if type(value) is tuple and not value:
        return
    ok = isinstance(value, tuple | list) and all(
        isinstance(one, str) and one and is_unicode(one) for one in value
    )
    _require(subject, field, ok, f"is {value!r}", "give a tuple of names")
    _put(spec, field, tuple(str(one) for one in value))


def _passes_exec(text: object) -> bool:
    """Whether a process can be given a text as an argument, a variable or a folder."""
    return isinstance(text, str) and is_unicode(text) and "\0" not in text


def _is_plain_command(value: object) -> bool:
    """Whether it is a vector of such texts as nearly all are."""
    if type(value) is not tuple:
        return False
    for part in value:
        if type(part) is not str or not part.isascii() or "\0" in part:
            return False
    return not value or bool(value[0])


def _require_command(spec: JobSpec, subject: str) -> None:
    """Demand an argument vector and a folder; one text is a shell's, not a vector."""
    value = spec.command
    if _is_plain_command(value) and type(spec.working_dir) is str and not spec.working_dir:
        return
    ok = isinstance(value, tuple | list) and all(_passes_exec(part) for part in value)
    remedy = "give a tuple of texts without NUL, the program first; wrap a shell's line in "
    remedy += "('sh', '-c', line)"
    _require(subject, "command", ok, f"is {value!r}", remedy)
    _require(subject, "command", not value or bool(value[0]), "begins with ''", remedy)
    _put(spec, "command", tuple(str(part) for part in value))
    _require_text(spec, subject, "working_dir")
    ok = _passes_exec(spec.working_dir)
    _require(subject, "working_dir", ok, f"is {spec.working_dir!r}", "give a path without NUL")


def _require_environment(spec: JobSpec, subject: str) -> None:
    """Demand names and values, as a mapping or as pairs; sorted, each name once."""
    value = spec.environment
    if type(value) is tuple and not value:
        return
    pairs = tuple(value.items()) if isinstance(value, Mapping) else value
    ok = isinstance(pairs, tuple | list) and all(
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(_passes_exec(part) for part in pair)
        and pair[0]
        and "=" not in pair[0]
        for pair in pairs
    )
    remedy = "give names and values as texts without NUL; no '=' in names"
    _require(subject, "environment", ok, f"is {value!r}", remedy)
    named = dict(pairs)
    twice = len(named) < len(pairs)
    _require(subject, "environment", not twice, f"is {value!r}", "give each name once")
    _put(spec, "environment", tuple(sorted((str(k), str(v)) for k, v in named.items())))


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
        The user's estimate of the run time, hours, at the speed of ``num_workers``; what schedulers
        may know of it, and how long the job may run: see
        :class:`orchestrator.live.limits.TimeLimits`.
    checkpoint_interval_steps : int
        Training steps between checkpoints; 0 means that the job is never checkpointed
        periodically (a planned preemption still saves it).
    elastic, min_workers, max_workers : bool, int, int
        Whether, and between which bounds, the number of workers may change while the job runs.
    preemptible : bool
        Whether the job may be preempted.
    gang_schedule : bool
        All workers start together or none does. False: the job starts with the workers that find
        room, at least one (an elastic one: at least ``min_workers``), and is so much slower; the
        others join it as they find room.
    topology_aware : bool
        Whether placement should keep the workers close together, where the policy leaves that open
        (:class:`orchestrator.messages.PlaceJob`): in the narrowest domain that has room for all of
        them, and several GPUs of a worker on a node whose GPUs have the best links. It is a
        preference, which no job ever waits for.
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
    command : tuple of str
        What each worker runs, an argument vector: no shell reads it. Empty: nothing, which only
        simulated runtimes can.
    working_dir : str
        Folder that it runs in; empty: one of the job's own, in which a relative one lies.
    environment : tuple of (str, str)
        Variables that it gets besides those of the runtime; may be given as a mapping.
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
    command: tuple[str, ...] = ()
    working_dir: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Validate every field; raise :class:`ValidationError` naming the first bad one."""
        me = f"JobSpec {str(self.job_id)!r}"
        for field in ("job_id", "name", "tenant"):
            _require_text(self, me, field)
        _require(me, "job_id", bool(self.job_id), "is empty", "give the job an identity")
        if not isinstance(self.priority, JobPriority):
            names = [priority.name for priority in JobPriority]
            _require(me, "priority", False, f"is {self.priority!r}", f"use one of {names}")
        for field in _FLAGS:
            _require_flag(self, me, field)
        _require_member(self, me, "topology", Topology)
        _require_member(self, me, "kind", JobKind)
        _require_texts(self, me, "gpu_models")
        for field, least in _COUNTS.items():
            _require_count(self, me, field, least)
        for field in _NOT_NEGATIVE:
            _require_number(self, me, field, 0.0)
        for field in _POSITIVE:
            if getattr(self, field) is not None or field not in _OPTIONAL:
                _require_number(self, me, field, 0.0, above=True)
        _require_command(self, me)
        _require_environment(self, me)
        self._check_together(me)

    def _check_together(self, me: str) -> None:
        """Refuse fields that are well each by itself, and make no sense together."""
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
        _require(
            me, "gpu_fraction", self.gpu_fraction <= 1.0, f"is {self.gpu_fraction}", "at most 1"
        )
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
        How its GPUs are connected: ``"NVLink"``, ``"PCIe"``, ..., in any case; see
        :attr:`link_rank`. The GPUs of a node with NVLink are one island unless ``island_gpus``
        says otherwise.
    available : bool
        False registers the node as down.
    gpu_model : str
        GPU model; jobs may be constrained to models.
    rack, spine : int
        Position in the network; a rack belongs to one spine.
    island_gpus : int
        GPUs of one NVLink island, which must divide ``gpus``; 0: all of them where
        ``gpu_topology`` has NVLink, and else the node has no islands.
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
        me = f"NodeSpec {str(self.node_id)!r}"
        for field in ("node_id", "gpu_topology", "gpu_model"):
            _require_text(self, me, field)
        _require(me, "node_id", bool(self.node_id), "is empty", "give the node an identity")
        _require_flag(self, me, "available")
        for field in ("gpus", "cpu_cores", "rack", "spine", "island_gpus"):
            _require_count(self, me, field, 0)
        _require(me, "gpus", self.gpus <= 64, f"is {self.gpus}", "a node has at most 64 GPUs")
        for field in ("gpu_memory_gb", "memory_gb", "network_bandwidth_gbps"):
            _require_number(self, me, field, 0.0)
        _require(
            me,
            "island_gpus",
            self.island_gpus == 0 or (self.gpus > 0 and self.gpus % self.island_gpus == 0),
            f"is {self.island_gpus}, which does not divide the node's {self.gpus} GPUs",
            "give islands of equal size, or 0 for none",
        )

    @property
    def link_rank(self) -> int:
        """How fast its GPUs exchange data, by ``gpu_topology``: 2 NVLink, 1 PCIe, 0 none.

        Names that begin with ``NV`` are of the NVLink family; ones that nobody knows count as PCIe.
        """
        name = self.gpu_topology.strip().lower()
        if name.startswith(_FAST_LINKS):
            return 2
        return 0 if name in _NO_LINKS else 1

    @property
    def island(self) -> int:
        """GPUs of one of its NVLink islands; 0: it has none."""
        if self.island_gpus == 0 and self.link_rank == 2:
            return self.gpus
        return self.island_gpus


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
        me = f"TenantSpec {str(self.name)!r}"
        _require_text(self, me, "name")
        _require(me, "name", bool(self.name), "is empty", "give the tenant a name")
        _require_number(self, me, "weight", 0.0, above=True)
        _require_number(self, me, "quota", 0.0)
        if self.storage_quota_gb is not None:
            _require_number(self, me, "storage_quota_gb", 0.0, above=True)


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
