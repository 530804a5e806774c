"""Cluster state as arrays with a leading environment axis.

One row is one cluster. Times are integer milliseconds, CPU is in milli-cores, memory in MiB and
GPU shares in milli-GPUs, so that reserve and release are exact. Record types do not depend on the
:class:`ClusterShape`, hence kernels are compiled once for all shapes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import NO_JOB, Information, JobCode
from orchestrator.kernels.packing_state import SCANNED_NODES, VIEWS, memo_kinds, memo_sizes
from orchestrator.kernels.records import TABLES
from orchestrator.kernels.row import CAPACITIES, ROW_DTYPE

__all__ = ["ClusterShape", "ClusterState", "allocate"]

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
