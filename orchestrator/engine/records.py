"""Specifications as the records that kernels take, and whether a job could ever fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError
from orchestrator.kernels.change.events import show_fleet
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NO_CHANGE_MS, NodeCode
from orchestrator.kernels.state.records import (
    FLEET_DTYPE,
    NODE_DTYPE,
    REQUEST_DTYPE,
    SCALING_DTYPE,
    SERVICE_DTYPE,
    TENANT_DTYPE,
)
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.messages import ServiceSeen, Sizing, Tick
from orchestrator.types import JobSpec, NodeSpec, TenantSpec

__all__ = [
    "RecordMaker",
    "ShownFleet",
    "check_quotas",
    "check_racks",
    "could_hold",
    "duration_ms",
    "gpu_models",
    "never_fit",
    "node_records",
    "request_record",
    "requested_ms",
    "seen_records",
    "sizing_record",
    "tenant_records",
]


_MIB_PER_GIB = 1024
_MS_PER_HOUR = 3_600_000
_LONGEST_MS = 2**53  # beyond, a float does not hold whole milliseconds
_MOST = int(np.iinfo(np.int32).max)
_SLACK = 1e-6  # of a unit: what arithmetic on fractions may lose, and nobody means


def gpu_models(nodes: Sequence[NodeSpec]) -> tuple[str, ...]:
    """GPU models of a cluster in alphabetical order; a record's ``model`` is an index into it."""
    return tuple(sorted({node.gpu_model for node in nodes}))


def check_racks(nodes: Sequence[NodeSpec]) -> None:
    """Raise :class:`ValidationError` if a rack is under two spines."""
    spines: dict[int, NodeSpec] = {}
    for node in nodes:
        first = spines.setdefault(node.rack, node)
        if first.spine != node.spine:
            raise ValidationError(
                f"NodeSpec '{node.node_id}'",
                "rack",
                f"is {node.rack} under spine {node.spine}, but under spine {first.spine} "
                f"for node '{first.node_id}'",
                "give every rack a number of its own",
            )


def node_records(nodes: Sequence[NodeSpec]) -> NDArray[np.void]:
    """Node specifications as NODE_DTYPE records, [len(nodes)], all capacity free.

    Raises
    ------
    ValidationError
        If a rack is under two spines.
    """
    check_racks(nodes)
    models = gpu_models(nodes)
    records = np.zeros(len(nodes), NODE_DTYPE)
    for record, node in zip(records, nodes, strict=True):
        me = f"NodeSpec '{node.node_id}'"
        for name, (field, value, limit) in _capacities(node).items():
            record[name] = _units(me, field, value, limit)
        record["gpus"] = node.gpus
        record["island"] = node.island
        record["model"] = models.index(node.gpu_model)
        record["state"] = NodeCode.UP if node.available else NodeCode.DOWN
    return records


def _capacities(node: NodeSpec) -> dict[str, tuple[str, float, int]]:
    """Of each capacity of a record: the specification's field, its value, its largest one."""
    return {
        "memory_cap_mib": ("memory_gb", node.memory_gb * _MIB_PER_GIB, _LONGEST_MS),
        "cpu_cap_milli": ("cpu_cores", node.cpu_cores * 1000, _LONGEST_MS),
        "gpu_memory_mib": ("gpu_memory_gb", node.gpu_memory_gb * _MIB_PER_GIB, _LONGEST_MS),
        "bandwidth_mbps": (
            "network_bandwidth_gbps",
            node.network_bandwidth_gbps * 1000,
            _LONGEST_MS,
        ),
        "rack": ("rack", node.rack, _LONGEST_MS),
        "spine": ("spine", node.spine, _LONGEST_MS),
    }


def duration_ms(spec: JobSpec) -> int:
    """True run time of a job, as far as anybody knows; at least 1 ms."""
    return max(1, round(_true_hours(spec) * _MS_PER_HOUR))


def _true_hours(spec: JobSpec) -> float:
    return spec.max_duration_hours if spec.duration_hours is None else spec.duration_hours


def _numbers(spec: JobSpec) -> dict[str, tuple[str, float, int]]:
    """Of each whole number of a record: the specification's field, its value, its largest one."""
    me = f"JobSpec '{spec.job_id}'"
    steps = _whole(me, "checkpoint_interval_steps", spec.checkpoint_interval_steps, _LONGEST_MS)
    interval_ms = steps * spec.step_seconds * 1000
    longest_ms = _true_hours(spec) * _MS_PER_HOUR
    deadline_ms = (spec.deadline_hours or 0.0) * _MS_PER_HOUR
    return {
        "requested_ms": ("max_duration_hours", spec.max_duration_hours * _MS_PER_HOUR, _LONGEST_MS),
        "duration_ms": ("duration_hours", longest_ms, _LONGEST_MS),
        "checkpoint_interval_ms": ("checkpoint_interval_steps", interval_ms, _LONGEST_MS),
        "checkpoint_ms": ("checkpoint_seconds", spec.checkpoint_seconds * 1000, _LONGEST_MS),
        "restart_ms": ("restart_seconds", spec.restart_seconds * 1000, _LONGEST_MS),
        "regroup_ms": ("regroup_seconds", spec.regroup_seconds * 1000, _LONGEST_MS),
        "deadline_ms": ("deadline_hours", deadline_ms, _LONGEST_MS),
        "workers": ("num_workers", spec.num_workers, _MOST),
        "min_workers": ("min_workers", spec.min_workers, _MOST),
        "max_workers": ("max_workers", spec.max_workers, _MOST),
        "gpus_per_worker": ("gpus_per_worker", spec.gpus_per_worker, _MOST),
    }


def _amounts(spec: JobSpec) -> dict[str, tuple[str, float, int]]:
    """Of each share of a capacity: the specification's field, its value, its largest one."""
    return {
        "memory_mib": (
            "memory_per_worker_gb",
            spec.memory_per_worker_gb * _MIB_PER_GIB,
            _LONGEST_MS,
        ),
        "gpu_memory_mib": ("gpu_memory_gb", spec.gpu_memory_gb * _MIB_PER_GIB, _MOST),
        "storage_mib": ("checkpoint_gb", spec.checkpoint_gb * _MIB_PER_GIB, _LONGEST_MS),
        "bandwidth_mbps": ("network_gbps", spec.network_gbps * 1000, _MOST),
        "cpu_milli": ("cpus_per_worker", spec.cpus_per_worker * 1000, _MOST),
        "gpu_milli": ("gpu_fraction", spec.gpu_fraction * 1000, 1000),
    }


def requested_ms(spec: JobSpec) -> int:
    """For how long a job may run: as in its record, which costs much more to make."""
    field, value, limit = _numbers(spec)["requested_ms"]
    return max(_whole(f"JobSpec '{spec.job_id}'", field, value, limit), 1)


def request_record(
    spec: JobSpec, submit_ms: int, tenant: int, models: Sequence[str] = ()
) -> NDArray[np.void]:
    """A job specification as one REQUEST_DTYPE record, [1].

    Parameters
    ----------
    spec : JobSpec
        What the user asks for.
    submit_ms : int
        When.
    tenant : int
        Index of ``spec.tenant``.
    models : sequence of str
        GPU models of the cluster, in the order of their numbers.

    Raises
    ------
    ValidationError
        If a value is too large to be stored, or a GPU model is unknown.
    """
    record = np.zeros(1, REQUEST_DTYPE)
    record[0] = _values(spec)  # all columns at once: one by one they cost three times as much
    return _stamped(record, spec, submit_ms, tenant, models)


def _stamped(
    record: NDArray[np.void], spec: JobSpec, submit_ms: int, tenant: int, models: Sequence[str]
) -> NDArray[np.void]:
    """Say who submits a job, when, and to which nodes."""
    record["submit_ms"] = submit_ms
    record["tenant"] = tenant
    if spec.gpu_models:
        record["model_mask"] = _model_mask(spec, models)
    return record


class RecordMaker:
    """Makes records of specifications, most of each only once.

    A submission is looked at when it is asked about, when it is proposed, when it is applied if
    others came between, and when it is queued. Those that were asked about last, and not dropped,
    are remembered by identity: a specification never changes.

    Parameters
    ----------
    most : int, optional
        Specifications that are remembered, at least 1.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._known: dict[int, tuple[JobSpec, bytes]] = {}

    def record(
        self, spec: JobSpec, submit_ms: int, tenant: int, models: Sequence[str] = ()
    ) -> NDArray[np.void]:
        """A record, as of :func:`request_record`, which the caller may change."""
        known = self._known.get(id(spec))
        if known is not None and known[0] is spec:  # keys of a copy of this are stale
            record = np.frombuffer(bytearray(known[1]), REQUEST_DTYPE)  # copying takes 10 us
            return _stamped(record, spec, submit_ms, tenant, models)
        record = request_record(spec, submit_ms, tenant, models)
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[id(spec)] = spec, record.tobytes()
        return record

    def drop(self, spec: JobSpec) -> None:
        """Nobody asks about it any more."""
        self._known.pop(id(spec), None)


_COLUMNS = REQUEST_DTYPE.names or ()


def _values(spec: JobSpec) -> tuple[int, ...]:
    """What a specification says by itself, by column of a record."""
    me = f"JobSpec '{spec.job_id}'"
    found = dict.fromkeys(_COLUMNS, 0)
    for name, (field, value, limit) in _numbers(spec).items():
        found[name] = _whole(me, field, value, limit)
    for name, (field, value, limit) in _amounts(spec).items():
        found[name] = _units(me, field, value, limit)
    # Rounding never makes something out of nothing, nor nothing out of something.
    saves = min(spec.checkpoint_interval_steps, 1)
    least = {"requested_ms": 1, "duration_ms": 1, "checkpoint_interval_ms": saves}
    for name, most in least.items():
        found[name] = max(found[name], most)
    found["priority"] = spec.priority.value
    found["preemptible"] = spec.preemptible
    found["elastic"] = spec.elastic
    found["gang"] = spec.gang_schedule
    if not (spec.gang_schedule or spec.elastic):
        # Workers that need not start together: any number of them may run, and changing it stops
        # nobody who does.
        found["elastic"] = True
        found["min_workers"], found["max_workers"] = 1, spec.num_workers
        found["regroup_ms"] = 0
    found["topology"] = spec.topology
    found["kind"] = spec.kind
    return tuple(found.values())


def _model_mask(spec: JobSpec, models: Sequence[str]) -> int:
    mask = 0
    for name in spec.gpu_models:
        if name not in models:
            known = ", ".join(models) or "none yet"
            problem, remedy = f"name '{name}', which no node has", f"known models: {known}"
            raise ValidationError(f"JobSpec '{spec.job_id}'", "gpu_models", problem, remedy)
        mask |= 1 << models.index(name)
    return mask


def _whole(subject: str, field: str, value: float, limit: int) -> int:
    """Round a value, in the unit in which it is stored, to an integer that is not too large."""
    if not value <= limit:  # an overflow to infinity is not
        raise ValidationError(subject, field, "is too large to be stored", "give a smaller value")
    return round(value)


def _units(subject: str, field: str, value: float, limit: int) -> int:
    """Round a capacity, or a share of one, down to whole units; at least 1 of what is not 0.

    Both are rounded alike, and down: however a capacity is cut into parts, the parts fit.
    """
    _whole(subject, field, value, limit)
    return max(math.floor(value + _SLACK), 1) if value > 0 else 0


def check_quotas(
    tenants: Sequence[TenantSpec], nodes: Sequence[NodeSpec], *, awaits_order: bool = False
) -> None:
    """Raise if tenants are entitled to more than a cluster has, or one is named twice.

    A cluster without nodes is one that is being built; it may yet have anything. So may one of
    which nodes can be ordered (``awaits_order``).

    Raises
    ------
    ValidationError
        Naming the tenant that goes beyond the capacity.
    """
    names = [tenant.name for tenant in tenants]
    for tenant in tenants:
        if names.count(tenant.name) > 1:
            me = f"TenantSpec '{tenant.name}'"
            raise ValidationError(me, "name", "is given twice", "describe every tenant once")
    gpus = sum(node.gpus for node in nodes)
    capacity = gpus or sum(node.cpu_cores for node in nodes)
    unit = "GPUs" if gpus else "CPU cores"
    total = 0.0
    for tenant in tenants if nodes and not awaits_order else ():
        total += tenant.quota
        if total > capacity * (1.0 + 1e-12):
            problem = f"is {tenant.quota:g}: with those before it {total:g} of {capacity} {unit}"
            remedy = "lower quotas, add nodes, or give a provisioner that orders them"
            raise ValidationError(f"TenantSpec '{tenant.name}'", "quota", problem, remedy)


def tenant_records(tenants: Sequence[TenantSpec]) -> NDArray[np.void]:
    """Entitlements as TENANT_DTYPE records, [len(tenants)], nothing used."""
    records = np.zeros(len(tenants), TENANT_DTYPE)
    for record, tenant in zip(records, tenants, strict=True):
        me = f"TenantSpec '{tenant.name}'"
        stored = (tenant.storage_quota_gb or 0.0) * _MIB_PER_GIB
        record["weight"] = tenant.weight
        record["quota_units"] = _units(me, "quota", tenant.quota * 1000, _LONGEST_MS)
        record["storage_quota_mib"] = _units(me, "storage_quota_gb", stored, _LONGEST_MS)
    return records


def sizing_record(sizing: Sizing) -> NDArray[np.void]:
    """How a fleet or a service is sized as kernels take it, SCALING_DTYPE [1]."""
    record = np.zeros(1, SCALING_DTYPE)
    for name, value in vars(sizing).items():
        record[name] = value
    return record


def seen_records(
    seen: Sequence[ServiceSeen], jobs: Sequence[int], before: Mapping[str, tuple[int, int]]
) -> NDArray[np.void]:
    """Services as they were seen at a tick, SERVICE_DTYPE [services].

    Parameters
    ----------
    seen : sequence of ServiceSeen
    jobs : sequence of int
        Rows of their jobs.
    before : mapping of str to (int, int)
        Of some, by job: when the number of replicas was last changed on purpose, and by how many.
    """
    records = np.zeros(len(seen), SERVICE_DTYPE)
    for record, one, j in zip(records, seen, jobs, strict=True):
        for name in _SEEN:
            record[name] = getattr(one, name)
        record["job"] = j
        record["offered"] = one.backlog  # totals are the mesh's: here only what waits has come
        record["sick"] = one.breaker != BreakerMode.CLOSED and one.ready > 0
        record["breaker_mode"] = one.breaker
        record["scaled_ms"], record["scaled_by"] = before.get(one.job_id, (NO_CHANGE_MS, 0))
    return records


_SEEN = (
    *("slots", "service_ms", "objective_ms", "rate_rps", "ahead_rps"),
    *("latency_ms", "missed_share", "backlog", "ready"),
)


@dataclass(frozen=True)
class ShownFleet:
    """A live cluster's fleet for policies: nodes on order, and those that may be ordered.

    A row of the live cluster holds neither, since nobody but such policies thinks of them.

    Parameters
    ----------
    tick : Tick
        What was seen of it.
    model : int
        Number of the GPU model of what is ordered.
    """

    tick: Tick
    model: int

    def show(self, state: ClusterState) -> None:
        """Show it to a copy of the cluster's row, in which it can then be changed."""
        seen, nodes = self.tick.fleet, state.node[0]
        used = int(state.rows[0]["num_nodes"])
        left = np.flatnonzero(nodes["state"][:used] == NodeCode.ABSENT)
        free = np.concatenate([left, np.arange(used, state.shape.nodes)]).astype(np.int64)
        coming = min(seen.coming, len(free))
        count = coming + min(seen.spare, len(free) - coming)
        at, shown = free[:count], np.zeros(count, NODE_DTYPE)
        if seen.kind is not None and count > 0:
            shown[:] = node_records([replace(seen.kind, available=True)])
            shown["model"] = self.model
        shown["state"] = NodeCode.ABSENT
        shown["state"][:coming] = NodeCode.PROVISIONING
        size = int(np.count_nonzero(nodes["state"][:used] == NodeCode.UP)) + coming
        fleet = np.zeros(1, FLEET_DTYPE)
        fleet["tick_ms"] = self.tick.tick_ms
        fleet["min_nodes"] = max(size - seen.surplus, 0)
        fleet["max_nodes"] = max(size + count - coming, 1)
        fleet["scaled_ms"], fleet["scaled_by"] = seen.scaled_ms, seen.scaled_by
        show_fleet(state.rows, 0, at, shown, fleet)
        state.rows["capacity_steps"] = 1  # as long as a node may be changed the point stays open

    def changed(self, nodes: int, now_ms: int) -> ShownFleet:
        """The same after so many nodes were ordered, or given up if negative."""
        seen = self.tick.fleet
        fleet = replace(
            seen,
            coming=seen.coming + max(nodes, 0),
            spare=seen.spare - max(nodes, 0),
            surplus=max(seen.surplus + min(nodes, 0), 0),
            scaled_ms=now_ms,
            scaled_by=nodes,
        )
        return replace(self, tick=replace(self.tick, fleet=fleet))

    def arrived(self) -> ShownFleet:
        """The same after a node that was on order has come."""
        seen = self.tick.fleet
        fleet = replace(seen, coming=max(seen.coming - 1, 0))
        return replace(self, tick=replace(self.tick, fleet=fleet))


SHAPE_FIELDS = (
    "memory_mib",
    "cpu_milli",
    "workers",
    "min_workers",
    "gpus_per_worker",
    "gpu_milli",
    "gpu_memory_mib",
    "bandwidth_mbps",
    "elastic",
    "topology",
)


def never_fit(requests: NDArray[np.void], nodes: Sequence[NodeSpec]) -> NDArray[np.bool_]:
    """Tell which jobs would not fit even into an empty cluster.

    Parameters
    ----------
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
        The jobs; GPU models are not looked at.
    nodes : sequence of NodeSpec
        The cluster.

    Returns
    -------
    ndarray of bool, shape [jobs]

    Raises
    ------
    ValidationError
        If a rack is under two spines.
    """
    if len(requests) == 0 or len(nodes) == 0:
        return np.ones(len(requests), np.bool_)
    keys = np.stack([requests[name].astype(np.int64) for name in SHAPE_FIELDS], axis=1)
    kinds, which = np.unique(keys, axis=0, return_inverse=True)
    asks = np.zeros(len(kinds), REQUEST_DTYPE)
    for column, name in enumerate(SHAPE_FIELDS):
        asks[name] = kinds[:, column]
    return ~_held(asks, node_records(nodes))[which.ravel()]


def could_hold(ask: NDArray[np.void], nodes: Sequence[NodeSpec], models: Sequence[str]) -> bool:
    """Whether a job fits into so many empty nodes, whatever they hold now.

    Parameters
    ----------
    ask : ndarray of REQUEST_DTYPE, shape [1]
    nodes : sequence of NodeSpec
    models : sequence of str
        GPU models in the order of their numbers, those of the nodes among them.
    """
    if not nodes:
        return False
    records = node_records(nodes)
    records["model"] = [models.index(node.gpu_model) for node in nodes]
    return bool(_held(ask, records)[0])


def _held(asks: NDArray[np.void], nodes: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which requests fit into a cluster of NODE_DTYPE records, each by itself."""
    shape = ClusterShape(
        envs=1,
        jobs=len(asks),
        workers=1,  # nobody is placed
        nodes=len(nodes),
        devices=int(nodes["gpus"].max()),
        kinds=0,
    )
    state = allocate(shape)
    entry.begin_episode(state.rows, 0, 0, nodes, asks)
    held = [entry.can_ever_fit(state.rows, 0, j) for j in range(len(asks))]
    return np.array(held, np.bool_)
