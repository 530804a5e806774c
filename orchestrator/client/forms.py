"""What the server takes and says, as typed dictionaries: fields that it adds later do no harm."""

from __future__ import annotations

from typing import Any, Generic, TypedDict, TypeVar

__all__ = [
    "Changed",
    "Ended",
    "Event",
    "JobFields",
    "JobStatus",
    "JobSummary",
    "NodeStatus",
    "Page",
    "QueueItem",
    "Submitted",
    "Version",
]


_Item = TypeVar("_Item")


class Page(TypedDict, Generic[_Item], total=False):
    """A part of a list; with ``next_cursor`` the next part is asked for.

    ``gap``: between the cursor and these is something that is not kept any more.
    """

    items: list[_Item]
    next_cursor: str | None
    gap: bool


class JobFields(TypedDict, total=False):
    """What a job asks for: fields of :class:`orchestrator.JobSpec`, ``name`` above all.

    Priority, topology and kind are given by their names, in any case. Memory is in GiB, times are
    in hours or seconds, as the fields say.
    """

    job_id: str
    name: str
    priority: str
    num_workers: int
    gpus_per_worker: int
    memory_per_worker_gb: float
    max_duration_hours: float
    checkpoint_interval_steps: int
    elastic: bool
    min_workers: int
    max_workers: int
    preemptible: bool
    gang_schedule: bool
    topology_aware: bool
    tenant: str
    cpus_per_worker: float
    gpu_fraction: float
    step_seconds: float
    duration_hours: float | None
    checkpoint_seconds: float
    restart_seconds: float
    regroup_seconds: float
    checkpoint_gb: float
    gpu_memory_gb: float
    gpu_models: list[str]
    network_gbps: float
    topology: str
    kind: str
    deadline_hours: float | None
    command: list[str]
    working_dir: str
    environment: dict[str, str]


class Submitted(TypedDict):
    """A job that was taken."""

    job_id: str
    state: str


class JobSummary(TypedDict, total=False):
    """A job in a list; moments are ms since the epoch."""

    job_id: str
    name: str
    tenant: str
    priority: str
    state: str
    kind: str
    workers: int
    gpus: float
    node_ids: list[str]
    submit_ms: int
    start_ms: int | None
    end_ms: int | None
    queue_position: int | None
    reason: str
    exit_code: int | None


class JobStatus(TypedDict, total=False):
    """All that is told of a job; moments are ms since the epoch."""

    job_id: str
    name: str
    tenant: str
    priority: str
    state: str
    kind: str
    command: list[str]
    node_ids: list[str]
    workers: list[dict[str, Any]]
    resources: dict[str, float]
    submit_ms: int
    first_start_ms: int | None
    start_ms: int | None
    end_ms: int | None
    wait_ms: int
    progress: float
    progress_ms: int
    starts: int
    preemptions: int
    interruptions: int
    lost_ms: int
    checkpoint: dict[str, Any] | None
    unplaceable: bool
    why_not: str | None
    waits_for: dict[str, Any] | None
    queue_position: int | None
    expected_start_ms: int | None
    reason: str
    exit_code: int | None
    preempted_by: str | None
    history: list[dict[str, Any]]


class Ended(JobStatus, total=False):
    """A job's status, and whether it has ended."""

    ended: bool


class Changed(TypedDict, total=False):
    """What became of a request to change a job; ``why`` says why nothing was done."""

    done: bool
    job: JobStatus
    why: str


class NodeStatus(TypedDict, total=False):
    """A node."""

    node_id: str
    state: str
    gpus: int
    gpus_free: float
    cpus: float
    memory_gb: float
    jobs: list[str]
    rack: str
    block: str
    devices: list[dict[str, Any]]


class QueueItem(TypedDict, total=False):
    """A job that waits, why, and until when."""

    position: int
    job_id: str
    name: str
    tenant: str
    priority: str
    workers: int
    gpus: float
    submit_ms: int
    reason: str
    waits_for: dict[str, Any] | str | None
    expected_start_ms: int | None


class Event(TypedDict, total=False):
    """Something that happened. ``gap``: what is older is not kept any more."""

    cursor: str
    time_ms: int
    kind: str
    job_id: str
    node_id: str
    what: str
    reason: str
    gap: bool


class Version(TypedDict, total=False):
    """Which server answers."""

    version: str
    api: int
    python: str
    uptime_s: float
