"""A row: its scalars and semantics, its capacities, and the arrays that hold many of them.

The memo (see ``place.memo``) is derived from the state and never part of it: two rows that differ
in it only decide alike, and whoever blanks it out loses nothing but time. How much is remembered is
settled here and nowhere else.

Each group is a run of neighbouring fields. Kernels see one flat record: ``row.now_ms``.

One row is one cluster. Times are integer milliseconds, CPU is in milli-cores, memory in MiB and
GPU shares in milli-GPUs, so that reserve and release are exact. Record types do not depend on the
:class:`ClusterShape`, hence kernels are compiled once for all shapes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import NO_JOB, Information, JobCode
from orchestrator.kernels.state.records import (
    KEY_DTYPE,
    KIND_FIELDS,
    SLOT_DTYPE,
    TABLES,
    VIEWS,
    WINNER_DTYPE,
)

__all__ = [
    "CAPACITIES",
    "CONFIG_FIELDS",
    "COPIED",
    "GROUPS",
    "MEMO_FIELDS",
    "ROW_DTYPE",
    "RUN_GROUPS",
    "SCANNED_JOBS",
    "SCANNED_NODES",
    "ZEROED",
    "ClusterShape",
    "ClusterState",
    "allocate",
    "count_kinds",
    "memo_described",
    "memo_kinds",
    "memo_sizes",
]


SCANNED_NODES = 256
"""Up to here looking at the slots of all nodes is as fast as a tree, if their keys are cheap."""


SCANNED_JOBS = 8
"""Up to here lining up those who wait anew is as fast as remembering their order."""


_LEAST_NODES = 64  # from here on a memo pays however rarely it is asked


_USUAL_KINDS = 64


_MOST_KINDS = 1024


_BUDGET = 256 << 20  # bytes of all rows together


_MOST_DESCRIBED = 256


_DESCRIBED_BUDGET = 128 << 20


def _leaves(nodes: int) -> int:
    """Leaves of a tournament tree over so many nodes."""
    return 1 << max(nodes - 1, 1).bit_length()


def memo_kinds(nodes: int, rows: int, kinds: int = _USUAL_KINDS, often: bool = False) -> int:
    """How many of a row's request kinds are worth remembering, as ``ClusterShape`` takes it.

    Of ``kinds`` that are expected; ``often``: every step describes many placements.
    """
    if nodes < _LEAST_NODES and not often:
        return 0
    keys = nodes * KEY_DTYPE.itemsize + _leaves(nodes) * WINNER_DTYPE.itemsize
    each = nodes * SLOT_DTYPE.itemsize + VIEWS * keys
    return max(min(kinds, _BUDGET // (each * rows), _MOST_KINDS), 8)


def memo_sizes(nodes: int, kinds: int) -> tuple[int, int, int]:
    """Sizes of a row's memo: nodes, leaves of a tree, and entries of the ring of touched nodes."""
    if kinds == 0:
        return 1, 0, 1
    return nodes, _leaves(nodes), 4 * _leaves(nodes)


def memo_described(nodes: int, rows: int, kinds: int, width: int) -> int:
    """For how many kinds the ``width`` features of ``nodes`` offered nodes are remembered."""
    if nodes == 0:
        return 0
    return min(kinds, _DESCRIBED_BUDGET // (4 * width * nodes * rows), _MOST_DESCRIBED)


def count_kinds(requests: NDArray[np.void]) -> int:
    """Number of kinds among requests (REQUEST_DTYPE)."""
    word = np.zeros(len(requests), np.uint64)
    for name in KIND_FIELDS:
        word = (word ^ requests[name].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        word ^= word >> np.uint64(29)
    return len(np.unique(word))


CAPACITIES = {
    "jobs": "max_jobs",
    "workers": "max_workers",
    "devices": "max_devices",
    "log": "max_log",
    "effects": "max_effects",  # kept for a runtime; 0: there is none
    "kinds": "kinds",  # request kinds that are remembered (place.memo); 0: none, all is scanned
    "touches": "max_touches",  # a power of two
    "memo_nodes": "memo_nodes",  # nodes of which it is remembered
    "leaves": "leaves",  # of a tournament tree over them, a power of two
    "scanned_nodes": "scanned_nodes",  # with more, trees are used however cheap a node's key is
    "scanned_jobs": "scanned_jobs",  # with more of them waiting, a rule's order is remembered
    "nodes": "arrival_slots",
}
"""Sizes that kernels need, by the name of the axis in ``records.TABLES``: fields of a row."""


_ADDRESSES = [(f"{name}_at", "i8") for name in TABLES]


_CAPACITIES = [(field, "i8") for field in CAPACITIES.values()]


CONFIG_FIELDS = [
    ("min_run_ms", "i8"),  # a job may not be preempted before
    ("resize_lock_ms", "i8"),  # nor be resized before, since its start or its last resize
    ("min_run_costs", "i8"),  # nor by score before so many times what that costs it; 0: it may
    ("slowdown_bound_ms", "i8"),
    ("ageing_ms", "i8"),  # time since submission that is worth one priority class; 0: no ageing
    ("las_first_s", "i8"),  # Tiresias: attained GPU-seconds that end a job's time in queue 0
    ("las_second_s", "i8"),  # ... and in queue 1; 0: there is none
    ("las_promote", "i8"),  # ... back to queue 0 after waiting this many times its run time; 0: no
    ("tick_ms", "i8"),  # between service ticks; 0: services are not simulated
    ("provision_ms", "i8"),  # from the order of a node to its arrival
    ("preemption_limit", "i8"),  # preemptions per decision point
    ("queue_window", "i8"),  # jobs that a policy sees
    ("candidates", "i8"),  # placements offered per job
    ("victims", "i8"),  # running jobs that a policy may preempt
    ("elastics", "i8"),  # elastic jobs that a policy may resize
    ("services", "i8"),  # services whose replicas a policy may change
    ("capacity_steps", "i8"),  # nodes that a policy may order or give up in one action
    ("min_nodes", "i8"),  # of the fleet, see change.nodes
    ("max_nodes", "i8"),  # 0: as many as the table describes
    ("step_limit", "i8"),  # steps after which an episode is truncated; 0: none
    ("window_order", "u1"),  # codes.RuleKey
    ("commitment", "u1"),  # a chosen job is waited for
    ("backfill", "u1"),  # EASY backfilling while waiting for it
    ("quota_mode", "u1"),  # codes.QuotaMode
    ("autoscale", "u1"),  # codes.Scaling: nodes and replicas are changed without asking
    ("migrate", "u1"),  # running jobs may be moved
    ("skip_forced", "u1"),  # a single legal action is taken without asking
    ("information", "u1"),  # codes.Information
    ("turn_away", "u1"),  # jobs that are not placed at their decision point fail
    ("keep_log", "u1"),  # keep records (the hash is always kept)
]
"""Semantics of one row, constant during an episode."""


_SERIES = [  # of services' demand: rates [services, series_len] float32, requests per s and tick
    ("series_at", "i8"),  # address of the demand; whoever wrote it keeps the array alive
    ("forecast_at", "i8"),  # address of a forecast of the same shape, or 0
    ("series_len", "i8"),  # ticks of the series
    ("series_first", "i8"),  # the series' tick with which the episode begins
    ("series_stop", "i8"),  # the tick of the series at which the episode's ticks end
]


_CLOCK = [
    ("now_ms", "i8"),
    ("begin_ms", "i8"),  # when the episode, or the live cluster, began
    ("seed", "u8"),
    ("event_seq", "i8"),
    ("log_count", "i8"),
    ("log_hash", "u8"),
    ("effect_count", "i8"),  # of rows that keep them
    ("tick", "i8"),  # ticks done in this episode
    ("next_tick_ms", "i8"),
    ("scaling_ms", "i8"),  # when nodes and replicas could be changed last
    ("scaled_ms", "i8"),  # when nodes were last ordered or given up
    ("scaled_by", "i8"),  # and how many: more than 0 if ordered
    ("point", "i8"),  # number of the decision point
    ("preemptions_here", "i8"),  # at this decision point
    ("committed", "i8"),  # job that the scheduler is committed to, or NO_JOB
    ("reservation_ms", "i8"),  # when the committed job is expected to fit
    ("point_open", "u1"),
    ("scaling_open", "u1"),  # at this point nodes and replicas may be changed: a tick has passed
    ("done", "u1"),
    ("unit", "u1"),  # 0: capacity units are milli-cores, 1: milli-GPUs
]


_LENGTHS = [
    ("num_jobs", "i8"),
    ("next_arrival", "i8"),
    ("num_incidents", "i8"),
    ("next_incident", "i8"),
    ("num_nodes", "i8"),
    ("num_tenants", "i8"),
    ("num_uplinks", "i8"),
    ("num_curves", "i8"),
    ("num_services", "i8"),
    ("num_gittins", "i8"),
    ("num_typical", "i8"),
    ("arrival_head", "i8"),  # of the ring of nodes on order
    ("arrival_len", "i8"),
    ("queue_len", "i8"),
    ("running_len", "i8"),
    ("heap_len", "i8"),
]


_CAPACITY = [
    ("capacity_units", "i8"),  # milli-GPUs of all nodes up; milli-cores if there are no GPUs
    ("nominal_units", "i8"),  # capacity with every node up
    ("nominal_gpu_milli", "i8"),  # the same for each resource
    ("nominal_cpu_milli", "i8"),
    ("nominal_memory_mib", "i8"),
    ("free_units", "i8"),
    ("all_prices_milli", "i8"),  # price per hour of all nodes that the table describes
    ("cost_rate_milli", "i8"),  # price per hour of all nodes that are paid for now
]


_COUNTERS = [
    ("decisions", "i8"),
    ("illegal_actions", "i8"),
    ("active_jobs", "i8"),
    ("active_services", "i8"),  # of them, those that are services
    ("completed_jobs", "i8"),
    ("failed_jobs", "i8"),
    # the same of jobs whose rows a live cluster has given to others
    ("forgotten_completed_jobs", "i8"),
    ("forgotten_failed_jobs", "i8"),
    ("forgotten_preemptions", "i8"),
    ("forgotten_interruptions", "i8"),
    ("forgotten_resizes", "i8"),
    ("forgotten_migrations", "i8"),
    ("preemptions", "i8"),
    ("interruptions", "i8"),
    ("resizes", "i8"),
    ("migrations", "i8"),
]


_METRICS = [
    # integrals over time
    ("job_ms", "i8"),  # jobs in the system
    ("wait_ms", "i8"),  # jobs waiting
    ("busy_unit_ms", "i8"),
    ("capacity_unit_ms", "i8"),
    ("lost_unit_ms", "i8"),
    ("cost_milli_ms", "i8"),  # cost_rate_milli, integrated over time
    # bounded slowdown, see metrics.total_excess
    ("settled_excess", "f8"),
    ("queue_rate", "f8"),  # sum over the queue of 1 / max(run, bound), per second
    ("queue_onset", "f8"),
    ("request_rate", "f8"),  # the same of the users' estimates
    ("queued_unit_ms", "i8"),  # estimated work of the queue
    # sums over services of their totals
    ("replica_ms", "i8"),
    ("overload_ticks", "i8"),
    ("requests_offered", "f8"),
    ("requests_within", "f8"),
    ("requests_shed", "f8"),
    ("requests_retried", "f8"),
    ("request_violations", "f8"),
]


_STAMP = [
    ("touched", "i8"),  # changes of nodes: the validity of memos, hence never counted anew
]


_MEMO = [  # what is remembered of nodes: it only saves time
    ("num_kinds", "i8"),  # request kinds that are in use
    ("rooms_seen", "i8"),  # touches that the rooms take account of
    # who waits, in the order in which a rule serves them (see decide.turn.line)
    ("lined_at", "i8"),  # address of the table of the row that these fields are about
    ("queued", "i8"),  # how often a job has joined the queue
    ("walks", "i8"),  # along the line, from its beginning: what they find has their number
    ("line_rule", "i8"),  # whose order it is; 0: there is none
    ("line_side", "i8"),  # of the table that is in order
    ("line_len", "i8"),
    ("line_queued", "i8"),  # joins of the queue that it takes account of
    ("line_next", "i8"),  # whose turn it is
    ("line_later", "i8"),  # who had their turn, and may have it again: on the other side
    ("line_kept", "i8"),  # the job that room is kept for, and nobody can be preempted for
    ("line_point", "i8"),  # the decision point of the walk,
    ("line_touched", "i8"),  # touches of nodes
    ("line_logged", "i8"),  # and records of the log up to which it goes
    # whom a rule might preempt (see decide.turn.victims), at one decision
    ("victims_len", "i8"),
    ("victims_heap", "i8"),  # of them, those that are a heap still; below 0: it is not made yet
    ("victims_gone", "i8"),  # who is being checkpointed: from the table's end
]


_GROUPS = {
    "addresses": _ADDRESSES,
    "capacities": _CAPACITIES,
    "config": CONFIG_FIELDS,
    "series": _SERIES,
    "clock": _CLOCK,
    "lengths": _LENGTHS,
    "capacity": _CAPACITY,
    "counters": _COUNTERS,
    "metrics": _METRICS,
    "stamp": _STAMP,
    "memo": _MEMO,
}


GROUPS = {group: tuple(name for name, _ in fields) for group, fields in _GROUPS.items()}
"""Names of the fields of a row, group after group as they lie in memory."""


RUN_GROUPS = ("clock", "lengths", "capacity", "counters", "metrics")
"""What an episode changes, besides stamp and memo: it begins with zeros here."""


MEMO_FIELDS = GROUPS["memo"]
"""Fields that only save time: what they hold changes no decision."""


ROW_DTYPE = np.dtype([field for fields in _GROUPS.values() for field in fields], align=True)
"""One row."""


def _offset(group: str) -> int:
    """Where a group begins in a row."""
    return int(ROW_DTYPE.fields[GROUPS[group][0]][1])  # type: ignore[index]


COPIED = (_offset("config"), ROW_DTYPE.itemsize - _offset("config"))
"""(offset, bytes) of all of a row but where its tables are and how large."""


ZEROED = (_offset(RUN_GROUPS[0]), _offset("stamp") - _offset(RUN_GROUPS[0]))
"""(offset, bytes) of ``RUN_GROUPS``."""


_MAX_DEVICES = 64  # devices of one worker are a 64-bit mask


_AT_LEAST_ONE = ("envs", "jobs", "workers", "nodes", "tenants", "uplinks", "curves", "services")


@dataclass(frozen=True)
class ClusterShape:
    """Fixed capacities of a :class:`ClusterState`; what does not fit is an error.

    Parameters
    ----------
    envs : int
        Rows (clusters).
    jobs : int
        Jobs of one row, all states together.
    workers : int
        Most workers of one job.
    nodes : int
        Machines of one row.
    devices : int
        Most GPUs of one machine (at most 64); 0 for clusters without GPUs.
    incidents : int
        Node failures and recoveries of one episode.
    log : int
        Records of the event log that are kept (a ring); the hash covers all.
    effects : int
        What a runtime is to do, kept until it is read (a ring); 0 for rows without a runtime.
    tenants, uplinks, curves, services : int
        Tenants, racks with an uplink, throughput curves, inference services.
    typical : int
        Classes of typical pods, by which fragmentation is measured.
    kinds : int
        Kinds of requests of single workers of which is remembered what they find on each node (see
        ``place.memo``): rows are then not scanned for every placement. 0: none. Below 0: as many
        as pay, which is none in small clusters; :func:`allocate` says how many that is.
    """

    envs: int
    jobs: int
    workers: int = 1
    nodes: int = 1
    devices: int = 0
    incidents: int = 0
    log: int = 0
    effects: int = 0
    tenants: int = 16
    uplinks: int = 1
    curves: int = 1
    services: int = 1
    typical: int = 0
    kinds: int = -1

    def __post_init__(self) -> None:
        """Check the bounds."""
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"ClusterShape: '{name}' must be at least 1")
        for name in ("devices", "incidents", "log", "effects", "typical"):
            if getattr(self, name) < 0:
                raise ValueError(f"ClusterShape: '{name}' must not be negative")
        if self.devices > _MAX_DEVICES:
            raise ValueError(f"ClusterShape: 'devices' must be at most {_MAX_DEVICES}")


@dataclass(frozen=True)
class ClusterState:
    """All state of all rows: arrays [envs, ...], of each table as ``records.TABLES`` says.

    Kernels take single rows of ``rows``, which hold the addresses of their tables: the arrays
    here own the memory, and must live as long as ``rows`` is used.
    """

    shape: ClusterShape
    rows: NDArray[np.void]
    request: NDArray[np.void]
    job: NDArray[np.void]
    worker: NDArray[np.void]
    node: NDArray[np.void]
    device: NDArray[np.void]
    queue: NDArray[np.void]
    running: NDArray[np.void]
    heap: NDArray[np.void]
    incident: NDArray[np.void]
    log: NDArray[np.void]
    effect: NDArray[np.void]
    effect_worker: NDArray[np.void]
    tenant: NDArray[np.void]
    uplink: NDArray[np.void]
    curve: NDArray[np.void]
    service: NDArray[np.void]
    typical: NDArray[np.void]
    order: NDArray[np.void]
    tag: NDArray[np.void]
    kind: NDArray[np.void]
    slot: NDArray[np.void]
    room: NDArray[np.void]
    view: NDArray[np.void]
    key: NDArray[np.void]
    winner: NDArray[np.void]
    touch: NDArray[np.void]
    line: NDArray[np.void]
    mark: NDArray[np.void]
    victim: NDArray[np.void]
    account: NDArray[np.void]
    arrival: NDArray[np.void]
    plan: NDArray[np.void]
    gittins: NDArray[np.void]

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, bytes."""
        return self.rows.nbytes + sum(getattr(self, name).nbytes for name in TABLES)


def _sizes(shape: ClusterShape) -> dict[str, int]:
    """Sizes of all axes of ``records.TABLES``, by name; kernels see them as in CAPACITIES."""
    known, leaves, touches = memo_sizes(shape.nodes, shape.kinds)
    return asdict(shape) | {
        "devices": max(shape.devices, 1),
        "kind_entries": shape.kinds + 1,
        "leaves": leaves,
        "log": max(shape.log, 1),
        "memo_nodes": known,
        "plans": shape.services + 1,
        "scanned_jobs": SCANNED_JOBS,
        "scanned_nodes": SCANNED_NODES,
        "touches": touches,
        "views": (shape.kinds + 1) * VIEWS,
    }


def allocate(shape: ClusterShape) -> ClusterState:
    """Allocate the arrays of a shape, every row empty.

    Parameters
    ----------
    shape : ClusterShape
        Capacities.

    Returns
    -------
    ClusterState
        Its shape says how many kinds are remembered.
    """
    if shape.kinds < 0:
        shape = replace(shape, kinds=memo_kinds(shape.nodes, shape.envs))
    sizes = _sizes(shape)
    rows = np.zeros(shape.envs, ROW_DTYPE)
    tables = {}
    for name, (dtype, axes) in TABLES.items():
        extents = [axis if isinstance(axis, int) else max(sizes[axis], 1) for axis in axes]
        tables[name] = table = np.zeros((shape.envs, *extents), dtype)
        rows[f"{name}_at"] = table.ctypes.data + np.arange(shape.envs) * table.strides[0]
    for axis, field in CAPACITIES.items():
        rows[field] = sizes[axis]
    rows["slowdown_bound_ms"] = 10_000
    # First and last of the queue limits in Tiresias' simulator (SymbioticLab/Tiresias).
    rows["las_first_s"] = 3250
    rows["las_second_s"] = 18_000
    rows["information"] = Information.ESTIMATE
    rows["committed"] = NO_JOB
    tables["job"]["state"] = JobCode.ABSENT
    tables["job"]["heap_slot"] = -1
    return ClusterState(shape=shape, rows=rows, **tables)
