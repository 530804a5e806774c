"""Cluster state as arrays with a leading environment axis.

One row is one cluster. Times are integer milliseconds, CPU is in milli-cores, memory in MiB and
GPU shares in milli-GPUs, so that reserve and release are exact. Record types do not depend on the
:class:`ClusterShape`, hence kernels are compiled once for all shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import NO_JOB, Information, JobCode
from orchestrator.kernels.mesh.record import SERVICE_DTYPE
from orchestrator.kernels.packing_state import (
    KEY_DTYPE,
    KIND_DTYPE,
    ORDER_DTYPE,
    ROOM_DTYPE,
    SCANNED_NODES,
    SLOT_DTYPE,
    TAG_DTYPE,
    TAGS,
    TOUCH_DTYPE,
    TYPICAL_DTYPE,
    VIEW_DTYPE,
    VIEWS,
    WINNER_DTYPE,
    memo_kinds,
    memo_sizes,
)
from orchestrator.kernels.records import (
    ARRIVAL_DTYPE,
    CURVE_DTYPE,
    DEVICE_DTYPE,
    EVENT_DTYPE,
    GITTINS_DTYPE,
    GITTINS_ENTRIES,
    INCIDENT_DTYPE,
    JOB_DTYPE,
    LOG_DTYPE,
    NODE_DTYPE,
    QUEUE_DTYPE,
    REQUEST_DTYPE,
    RUNNING_DTYPE,
    TENANT_DTYPE,
    UPLINK_DTYPE,
    WORKER_DTYPE,
)
from orchestrator.kernels.row import CONFIG_FIELDS, ROW_DTYPE, TABLES
from orchestrator.kernels.scaling import SCALING_DTYPE

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
    "SCALING_DTYPE",
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
    kind: NDArray[np.void]  # [E, K + 1] KIND_DTYPE; this and the next six are a memo
    slot: NDArray[np.void]  # [E, K + 1, N] SLOT_DTYPE
    room: NDArray[np.void]  # [E, N] ROOM_DTYPE
    view: NDArray[np.void]  # [E, K + 1, VIEWS] VIEW_DTYPE
    key: NDArray[np.void]  # [E, K + 1, VIEWS, N] KEY_DTYPE
    winner: NDArray[np.void]  # [E, K + 1, VIEWS, L] WINNER_DTYPE, a tree over L leaves
    touch: NDArray[np.void]  # [E, T] TOUCH_DTYPE, a ring
    arrival: NDArray[np.void]  # [E, N] ARRIVAL_DTYPE, a ring
    plan: NDArray[np.void]  # [E, S + 1] SCALING_DTYPE: of the fleet, then of each service
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
        Its shape says how many kinds are remembered.
    """
    envs, jobs, devices = shape.envs, shape.jobs, max(shape.devices, 1)
    if shape.kinds < 0:
        shape = replace(shape, kinds=memo_kinds(shape.nodes, envs))
    known, leaves, touches = memo_sizes(shape.nodes, shape.kinds)
    kinds = shape.kinds + 1
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
        kind=np.zeros((envs, kinds), KIND_DTYPE),
        slot=np.zeros((envs, kinds, known), SLOT_DTYPE),
        room=np.zeros((envs, known), ROOM_DTYPE),
        view=np.zeros((envs, kinds, VIEWS), VIEW_DTYPE),
        key=np.zeros((envs, kinds, VIEWS, known), KEY_DTYPE),
        winner=np.zeros((envs, kinds, VIEWS, max(leaves, 1)), WINNER_DTYPE),
        touch=np.zeros((envs, touches), TOUCH_DTYPE),
        arrival=np.zeros((envs, shape.nodes), ARRIVAL_DTYPE),
        plan=np.zeros((envs, shape.services + 1), SCALING_DTYPE),
        gittins=np.zeros((envs, GITTINS_ENTRIES), GITTINS_DTYPE),
    )
    for name in TABLES:
        table = getattr(state, name)
        state.rows[f"{name}_at"] = table.ctypes.data + np.arange(envs) * table.strides[0]
    state.rows["max_jobs"] = jobs
    state.rows["max_workers"] = shape.workers
    state.rows["max_devices"] = devices
    state.rows["max_log"] = max(shape.log, 1)
    state.rows["kinds"] = shape.kinds
    state.rows["max_touches"] = touches
    state.rows["memo_nodes"] = known
    state.rows["leaves"] = leaves
    state.rows["scanned_nodes"] = SCANNED_NODES
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
