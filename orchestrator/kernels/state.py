"""Cluster state as arrays with a leading environment axis.

One row is one cluster. Times are integer milliseconds, CPU is in milli-cores, memory in MiB and
GPU shares in milli-GPUs, so that reserve and release are exact. Record types do not depend on the
:class:`ClusterShape`, hence kernels are compiled once for all shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import NO_JOB, Information, JobCode
from orchestrator.kernels.mesh.record import SERVICE_DTYPE
from orchestrator.kernels.packing_state import (
    BRANCH_DTYPE,
    MEMO_TABLES,
    ORDER_DTYPE,
    SHAPE_DTYPE,
    TAG_DTYPE,
    TAGS,
    TOUCH_DTYPE,
    TYPICAL_DTYPE,
    memo_sizes,
)

__all__ = [
    "ARRIVAL_DTYPE",
    "CONFIG_FIELDS",
    "CURVE_DTYPE",
    "DEVICE_DTYPE",
    "EVENT_DTYPE",
    "GITTINS_DTYPE",
    "GITTINS_ENTRIES",
    "INCIDENT_DTYPE",
    "JOB_DTYPE",
    "LOG_DTYPE",
    "NODE_DTYPE",
    "QUEUE_DTYPE",
    "REQUEST_DTYPE",
    "ROW_DTYPE",
    "RUNNING_DTYPE",
    "SERVICE_DTYPE",
    "TABLES",
    "TENANT_DTYPE",
    "UPLINK_DTYPE",
    "WORKER_DTYPE",
    "ClusterShape",
    "ClusterState",
    "allocate",
]

_MAX_DEVICES = 64  # devices of one worker are a 64-bit mask
_AT_LEAST_ONE = ("envs", "jobs", "workers", "nodes", "tenants", "uplinks", "curves", "services")

TABLES = (
    "request",
    "job",
    "worker",
    "node",
    "device",
    "queue",
    "running",
    "heap",
    "incident",
    "log",
    "tenant",
    "uplink",
    "curve",
    "service",
    "typical",
    "order",
    "tag",
    *MEMO_TABLES,
    "arrival",
    "gittins",
)
"""Tables of a row; kernels reach them through the accessors in ``tables``."""

REQUEST_DTYPE = np.dtype(
    [
        ("submit_ms", "i8"),
        ("duration_ms", "i8"),  # true run time at nominal speed
        ("requested_ms", "i8"),  # the user's estimate
        ("checkpoint_interval_ms", "i8"),  # 0: never saved periodically
        ("checkpoint_ms", "i8"),  # cost of a planned checkpoint
        ("restart_ms", "i8"),  # cost of starting again
        ("regroup_ms", "i8"),  # cost of changing the number of workers; replicas: start-up time
        ("deadline_ms", "i8"),  # from submission; 0: none
        ("storage_mib", "i8"),  # size of a checkpoint, counted against its tenant's quota
        ("memory_mib", "i8"),  # host memory of one worker
        ("cpu_milli", "i8"),  # CPU of one worker
        ("workers", "i8"),
        ("min_workers", "i8"),
        ("max_workers", "i8"),
        ("gpus_per_worker", "i8"),
        ("gpu_milli", "i8"),  # share of each GPU, 1..1000
        ("gpu_memory_mib", "i8"),
        ("bandwidth_mbps", "i8"),  # of one worker's traffic, when the gang spans nodes
        ("curve", "i8"),  # throughput curve; 0: proportional to the workers
        ("service", "i8"),  # of kind SERVICE: index of its service
        ("tenant", "i8"),
        ("user", "i8"),
        ("group", "i8"),
        ("application", "i8"),
        ("model_mask", "u4"),  # bit m: GPU model m will do; 0: any
        ("source_id", "i8"),  # the job's number in the trace it came from
        ("priority", "u1"),  # JobPriority.value
        ("preemptible", "u1"),
        ("elastic", "u1"),
        ("gang", "u1"),
        ("topology", "u1"),  # codes.Topology
        ("kind", "u1"),  # codes.JobKind
    ],
    align=True,
)
"""What a job asks for: immutable once submitted, and the record of the canonical trace table."""

JOB_DTYPE = np.dtype(
    [
        ("units", "i8"),  # demand in capacity units (see ENV capacity_units)
        ("start_ms", "i8"),  # start of the current (or last) run
        ("first_start_ms", "i8"),
        ("end_ms", "i8"),
        ("work_start_ms", "i8"),  # when progress begins: start + restart cost
        ("expected_end_ms", "i8"),  # by the estimate; what policies may know
        ("progress_ms", "i8"),  # work done at work_start (running) or now (waiting)
        ("unsaved_ms", "i8"),  # while checkpointing: work that only this checkpoint will save
        ("lost_ms", "i8"),
        ("attained_unit_ms", "i8"),  # units x time held
        ("blocked_point", "i8"),  # decision point at which it was preempted
        ("onset_ms", "i8"),  # while waiting: when its slowdown begins to exceed 1
        ("shape", "u8"),  # jobs of equal shape ask for equal resources
        ("excess", "f8"),  # while running: its bounded slowdown - 1, as projected
        ("heap_slot", "i8"),  # position of its event in the event queue, or -1
        ("resized_ms", "i8"),  # when its size or place last changed; its start at first
        ("speed_milli", "i8"),
        ("workers_now", "i8"),
        ("preemptions", "i8"),
        ("interruptions", "i8"),
        ("resizes", "i8"),
        ("migrations", "i8"),
        ("state", "u1"),  # codes.JobCode
        ("spread", "u1"),  # codes.Topology: the narrowest domain that holds its workers
    ],
    align=True,
)
"""What has become of a job."""

NODE_DTYPE = np.dtype(
    [
        ("memory_cap_mib", "i8"),
        ("memory_free_mib", "i8"),
        ("cpu_cap_milli", "i8"),
        ("cpu_free_milli", "i8"),
        ("gpu_free_milli", "i8"),  # sum over its devices
        ("bandwidth_free_mbps", "i8"),
        ("fragmentation", "f8"),  # milli-GPUs, see kernels.fragmentation; 0 without typical pods
        ("arrive_ms", "i8"),  # provisioning: when it will be here
        ("gpus", "i8"),
        ("whole_free", "i8"),  # devices that are entirely free
        ("gpu_memory_mib", "i8"),
        ("bandwidth_mbps", "i8"),
        ("workers", "i8"),  # workers placed here
        ("rack", "i8"),
        ("spine", "i8"),
        ("island", "i8"),  # GPUs of one NVLink island; 0: all GPUs are alike
        ("price_milli", "i8"),  # thousandths of a unit of cost per hour in service
        ("failures", "i8"),
        ("model", "u1"),  # index of its GPU model
        ("state", "u1"),  # codes.NodeCode
    ],
    align=True,
)
"""One machine."""

EVENT_DTYPE = np.dtype(
    [("time_ms", "i8"), ("seq", "i8"), ("kind", "i8"), ("entity", "i8")], align=True
)
"""An entry of the event queue; entity is a job index."""

RUNNING_DTYPE = np.dtype([("expected_end_ms", "i8"), ("units", "i8"), ("job", "i8")], align=True)
"""An entry of the running list, kept sorted by expected end."""

INCIDENT_DTYPE = np.dtype([("time_ms", "i8"), ("kind", "i8"), ("node", "i8")], align=True)
"""Something that happens to a node at a time known to the simulator only."""

LOG_DTYPE = np.dtype(
    [("time_ms", "i8"), ("value", "i8"), ("kind", "i8"), ("subject", "i8")], align=True
)
"""A record of the event log."""

WORKER_DTYPE = np.dtype([("devices", "u8"), ("node", "i8")], align=True)
"""Where a placed worker is: its node, and its devices there as a bit mask."""

DEVICE_DTYPE = np.dtype([("free_milli", "i8"), ("free_memory_mib", "i8")], align=True)
"""One GPU."""

TENANT_DTYPE = np.dtype(
    [
        ("weight", "f8"),  # of its fair share; 0 counts as 1
        ("quota_units", "i8"),  # capacity that it is entitled to
        ("storage_quota_mib", "i8"),  # 0: no limit
        ("used_units", "i8"),
        ("used_gpu_milli", "i8"),
        ("used_cpu_milli", "i8"),
        ("used_memory_mib", "i8"),
        ("storage_mib", "i8"),  # checkpoints of its jobs
        ("attained_unit_ms", "i8"),
    ],
    align=True,
)
"""Whoever shares the cluster."""

UPLINK_DTYPE = np.dtype([("capacity_mbps", "i8"), ("free_mbps", "i8")], align=True)
"""The link from a rack to the rest of the network; capacity 0: no limit."""

CURVE_DTYPE = np.dtype(
    [
        ("grad_fixed_s", "f8"),  # a_c: time of a gradient, constant part
        ("grad_per_sample_s", "f8"),  # b_c
        ("node_fixed_s", "f8"),  # a_r: synchronisation within a node
        ("node_per_worker_s", "f8"),  # b_r, beyond two workers
        ("network_fixed_s", "f8"),  # a_n: the same across nodes
        ("network_per_worker_s", "f8"),  # b_n
        ("overlap", "f8"),  # gamma: 1 none, 10 complete
        ("local_batch", "f8"),  # samples of one worker in one step
        ("batch", "f8"),  # M0: the batch size at which progress is counted
        ("noise_scale", "f8"),  # phi; 0: larger batches are as good as more steps
        ("model_milli_0", "i8"),  # speed on GPU model 0 .. 7, thousandths of the nominal one
        ("model_milli_1", "i8"),  # 0: nominal
        ("model_milli_2", "i8"),
        ("model_milli_3", "i8"),
        ("model_milli_4", "i8"),
        ("model_milli_5", "i8"),
        ("model_milli_6", "i8"),
        ("model_milli_7", "i8"),
    ],
    align=True,
)
"""How fast a job trains on how many workers, how close together (Pollux, OSDI 2021)."""

GITTINS_DTYPE = np.dtype(
    [
        ("service", "f8"),  # from this attained service on, GPU-seconds (core-seconds)
        ("index", "f8"),  # the Gittins index is this, up to the next entry
    ],
    align=True,
)
"""An entry of the Gittins index as a function of attained service, in ascending order."""

GITTINS_ENTRIES = 64
"""Room for entries in every row."""

ARRIVAL_DTYPE = np.dtype([("node", "i8")], align=True)
"""An entry of the ring of nodes on order, in order of arrival; NODE_DTYPE has the time."""

QUEUE_DTYPE = np.dtype([("job", "i8")], align=True)
"""An entry of the queue, in submit order."""

_ADDRESSES = [(f"{name}_at", "i8") for name in TABLES]
_STRIDES = [
    ("max_jobs", "i8"),
    ("max_workers", "i8"),
    ("max_devices", "i8"),
    ("max_log", "i8"),
    ("max_shapes", "i8"),  # request shapes whose placements are remembered; 0: none
    ("max_touches", "i8"),  # a power of two
    ("arrival_slots", "i8"),
    ("tree", "i8"),  # entries of one shape's tree: twice a power of two
]

CONFIG_FIELDS = [
    ("min_run_ms", "i8"),  # a job may not be preempted before
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
    ("min_nodes", "i8"),  # of the fleet, see transition.capacity
    ("max_nodes", "i8"),  # 0: as many as the table describes
    ("step_limit", "i8"),  # steps after which an episode is truncated; 0: none
    ("window_order", "u1"),  # codes.RuleKey
    ("commitment", "u1"),  # a chosen job is waited for
    ("backfill", "u1"),  # EASY backfilling while waiting for it
    ("quota_mode", "u1"),  # codes.QuotaMode
    ("migrate", "u1"),  # running jobs may be moved
    ("skip_forced", "u1"),  # a single legal action is taken without asking
    ("information", "u1"),  # codes.Information
    ("keep_log", "u1"),  # keep records (the hash is always kept)
]
"""Semantics of one row, constant during an episode."""

_SCALARS = [
    ("now_ms", "i8"),
    ("seed", "u8"),
    ("point", "i8"),  # number of the decision point
    ("reservation_ms", "i8"),  # when the committed job is expected to fit
    ("event_seq", "i8"),
    ("log_count", "i8"),
    ("log_hash", "u8"),
    ("capacity_units", "i8"),  # milli-GPUs of all nodes up; milli-cores if there are no GPUs
    ("nominal_units", "i8"),  # capacity with every node up
    ("nominal_gpu_milli", "i8"),  # the same for each resource
    ("nominal_cpu_milli", "i8"),
    ("nominal_memory_mib", "i8"),
    ("free_units", "i8"),
    ("decisions", "i8"),
    ("illegal_actions", "i8"),
    # integrals over time
    ("job_ms", "i8"),  # jobs in the system
    ("wait_ms", "i8"),  # jobs waiting
    ("busy_unit_ms", "i8"),
    ("capacity_unit_ms", "i8"),
    ("lost_unit_ms", "i8"),
    ("cost_rate_milli", "i8"),  # price per hour of all nodes that are paid for now
    ("cost_milli_ms", "i8"),  # that, integrated over time
    # bounded slowdown, see metrics.total_excess
    ("settled_excess", "f8"),
    ("queue_rate", "f8"),  # sum over the queue of 1 / max(run, bound), per second
    ("queue_onset", "f8"),
    ("request_rate", "f8"),  # the same of the users' estimates
    ("queued_unit_ms", "i8"),  # estimated work of the queue
    ("preemptions", "i8"),
    ("interruptions", "i8"),
    ("resizes", "i8"),
    ("migrations", "i8"),
    # inference services: rates [services, series_len] float32, requests per second and tick
    ("series_at", "i8"),  # address of the demand; whoever wrote it keeps the array alive
    ("forecast_at", "i8"),  # address of a forecast of the same shape, or 0
    ("series_len", "i8"),  # ticks of the series
    ("series_first", "i8"),  # the series' tick with which the episode begins
    ("tick", "i8"),  # ticks done in this episode
    ("next_tick_ms", "i8"),
    ("replica_ms", "i8"),  # sums over services of their totals
    ("overload_ticks", "i8"),
    ("requests_offered", "f8"),
    ("requests_within", "f8"),
    ("requests_shed", "f8"),
    ("requests_retried", "f8"),
    ("request_violations", "f8"),
    ("committed", "i8"),  # job that the scheduler is committed to, or NO_JOB
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
    ("touched", "i8"),  # nodes that changed, counted since the episode began
    ("shape_clock", "i8"),
    ("arrival_head", "i8"),  # of the ring of nodes on order
    ("arrival_len", "i8"),
    ("queue_len", "i8"),
    ("running_len", "i8"),
    ("heap_len", "i8"),
    ("active_jobs", "i8"),
    ("completed_jobs", "i8"),
    ("failed_jobs", "i8"),
    ("preemptions_here", "i8"),  # at this decision point
    ("unit", "u1"),  # 0: capacity units are milli-cores, 1: milli-GPUs
    ("point_open", "u1"),
    ("done", "u1"),
]

ROW_DTYPE = np.dtype(_ADDRESSES + _STRIDES + CONFIG_FIELDS + _SCALARS, align=True)
"""One row: where its tables are (addresses and strides), its semantics, and its scalars."""


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
    tenants, uplinks, curves, services : int
        Tenants, racks with an uplink, throughput curves, inference services.
    typical : int
        Classes of typical pods, by which fragmentation is measured.
    shapes : int
        Request shapes of which the best node is remembered: rows with many nodes are then not
        scanned for every placement. Below 0: 32 from 64 nodes up, else none.
    """

    envs: int
    jobs: int
    workers: int = 1
    nodes: int = 1
    devices: int = 0
    incidents: int = 0
    log: int = 0
    tenants: int = 16
    uplinks: int = 1
    curves: int = 1
    services: int = 1
    typical: int = 0
    shapes: int = -1

    def __post_init__(self) -> None:
        """Check the bounds."""
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"ClusterShape: '{name}' must be at least 1")
        for name in ("devices", "incidents", "log", "typical"):
            if getattr(self, name) < 0:
                raise ValueError(f"ClusterShape: '{name}' must not be negative")
        if self.devices > _MAX_DEVICES:
            raise ValueError(f"ClusterShape: 'devices' must be at most {_MAX_DEVICES}")


@dataclass(frozen=True)
class ClusterState:
    """All state of all rows: E = envs, J = jobs, W = workers, N = nodes, D = devices.

    Kernels take single rows of ``rows``, which hold the addresses of their tables: the arrays
    here own the memory, and must live as long as ``rows`` is used.
    """

    shape: ClusterShape
    rows: NDArray[np.void]  # [E] ROW_DTYPE
    request: NDArray[np.void]  # [E, J] REQUEST_DTYPE, sorted by submit time
    job: NDArray[np.void]  # [E, J] JOB_DTYPE
    worker: NDArray[np.void]  # [E, J, W] WORKER_DTYPE
    node: NDArray[np.void]  # [E, N] NODE_DTYPE
    device: NDArray[np.void]  # [E, N, max(D, 1)] DEVICE_DTYPE
    queue: NDArray[np.void]  # [E, J] QUEUE_DTYPE, waiting jobs in submit order
    running: NDArray[np.void]  # [E, J] RUNNING_DTYPE, by expected end
    heap: NDArray[np.void]  # [E, J] EVENT_DTYPE, binary heap
    incident: NDArray[np.void]  # [E, max(incidents, 1)] INCIDENT_DTYPE, by time
    log: NDArray[np.void]  # [E, max(log, 1)] LOG_DTYPE, a ring
    tenant: NDArray[np.void]  # [E, T] TENANT_DTYPE
    uplink: NDArray[np.void]  # [E, R] UPLINK_DTYPE, by rack
    curve: NDArray[np.void]  # [E, C] CURVE_DTYPE; entry 0 is not used
    service: NDArray[np.void]  # [E, S] SERVICE_DTYPE
    typical: NDArray[np.void]  # [E, max(typical, 1)] TYPICAL_DTYPE
    order: NDArray[np.void]  # [E, N] ORDER_DTYPE, nodes by (spine, rack)
    tag: NDArray[np.void]  # [E, N, TAGS] TAG_DTYPE
    shape_memo: NDArray[np.void]  # [E, H] SHAPE_DTYPE; this and the next two are a memo
    branch: NDArray[np.void]  # [E, H, 2 P] BRANCH_DTYPE
    touch: NDArray[np.void]  # [E, T] TOUCH_DTYPE
    arrival: NDArray[np.void]  # [E, N] ARRIVAL_DTYPE, a ring
    gittins: NDArray[np.void]  # [E, GITTINS_ENTRIES] GITTINS_DTYPE, by attained service

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, bytes."""
        return self.rows.nbytes + sum(getattr(self, name).nbytes for name in TABLES)


def allocate(shape: ClusterShape) -> ClusterState:
    """Allocate the arrays of a shape, every row empty.

    Parameters
    ----------
    shape : ClusterShape
        Capacities.

    Returns
    -------
    ClusterState
    """
    envs, jobs, devices = shape.envs, shape.jobs, max(shape.devices, 1)
    shapes, tree, touches = memo_sizes(shape.nodes, shape.shapes)
    state = ClusterState(
        shape=shape,
        rows=np.zeros(envs, ROW_DTYPE),
        request=np.zeros((envs, jobs), REQUEST_DTYPE),
        job=np.zeros((envs, jobs), JOB_DTYPE),
        worker=np.zeros((envs, jobs, shape.workers), WORKER_DTYPE),
        node=np.zeros((envs, shape.nodes), NODE_DTYPE),
        device=np.zeros((envs, shape.nodes, devices), DEVICE_DTYPE),
        queue=np.zeros((envs, jobs), QUEUE_DTYPE),
        running=np.zeros((envs, jobs), RUNNING_DTYPE),
        heap=np.zeros((envs, jobs), EVENT_DTYPE),
        incident=np.zeros((envs, max(shape.incidents, 1)), INCIDENT_DTYPE),
        log=np.zeros((envs, max(shape.log, 1)), LOG_DTYPE),
        tenant=np.zeros((envs, shape.tenants), TENANT_DTYPE),
        uplink=np.zeros((envs, shape.uplinks), UPLINK_DTYPE),
        curve=np.zeros((envs, shape.curves), CURVE_DTYPE),
        service=np.zeros((envs, shape.services), SERVICE_DTYPE),
        typical=np.zeros((envs, max(shape.typical, 1)), TYPICAL_DTYPE),
        order=np.zeros((envs, shape.nodes), ORDER_DTYPE),
        tag=np.zeros((envs, shape.nodes, TAGS), TAG_DTYPE),
        shape_memo=np.zeros((envs, max(shapes, 1)), SHAPE_DTYPE),
        branch=np.zeros((envs, max(shapes, 1), tree), BRANCH_DTYPE),
        touch=np.zeros((envs, touches), TOUCH_DTYPE),
        arrival=np.zeros((envs, shape.nodes), ARRIVAL_DTYPE),
        gittins=np.zeros((envs, GITTINS_ENTRIES), GITTINS_DTYPE),
    )
    for name in TABLES:
        table = getattr(state, name)
        state.rows[f"{name}_at"] = table.ctypes.data + np.arange(envs) * table.strides[0]
    state.rows["max_jobs"] = jobs
    state.rows["max_workers"] = shape.workers
    state.rows["max_devices"] = devices
    state.rows["max_log"] = max(shape.log, 1)
    state.rows["max_shapes"] = shapes
    state.rows["max_touches"] = touches
    state.rows["tree"] = tree
    state.rows["arrival_slots"] = shape.nodes
    state.rows["slowdown_bound_ms"] = 10_000
    # First and last of the queue limits in Tiresias' simulator (SymbioticLab/Tiresias).
    state.rows["las_first_s"] = 3250
    state.rows["las_second_s"] = 18_000
    state.rows["information"] = Information.ESTIMATE
    state.rows["committed"] = NO_JOB
    state.job["state"] = JobCode.ABSENT
    state.job["heap_slot"] = -1
    return state
