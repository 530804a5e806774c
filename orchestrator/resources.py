"""What nodes offer and who holds it: GPUs, memory, network bandwidth, storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import UnknownEntityError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode, Reason
from orchestrator.kernels.state.row import ClusterState

__all__ = [
    "Device",
    "GPUAllocator",
    "MemoryManager",
    "NetworkBandwidthManager",
    "ResourceManager",
    "ResourceView",
    "StorageQuotaManager",
    "Usage",
]


_WORDS = {
    Reason.OK: "it fits",
    Reason.NO_CAPACITY: "not enough is free",
    Reason.FRAGMENTED: "enough is free, but scattered: no node has room for whole workers",
    Reason.TOPOLOGY: "its workers fit, but not into one domain as it requires",
    Reason.BANDWIDTH: "its workers fit, but the links between them lack bandwidth",
}


@dataclass(frozen=True)
class Usage:
    """Amounts of one resource.

    Parameters
    ----------
    capacity, free : int
        What there is, and what of it nobody holds.
    unit : str
        For people.
    """

    capacity: int
    free: int
    unit: str

    @property
    def used(self) -> int:
        """What is held."""
        return self.capacity - self.free

    @property
    def share(self) -> float:
        """Share that is held, in [0, 1]; 0 of nothing."""
        return self.used / self.capacity if self.capacity else 0.0


class ResourceView:
    """A view on a row of cluster state: it reads, and never writes.

    Parameters
    ----------
    state : ClusterState
        The state.
    row : int, optional
        Which cluster.
    """

    def __init__(self, state: ClusterState, row: int = 0) -> None:
        self._state = state
        self._row = row

    @property
    def nodes(self) -> int:
        """Nodes in the table, in service or not."""
        return int(self._state.rows[self._row]["num_nodes"])

    def in_service(self, node: int) -> bool:
        """Whether a node takes work."""
        return bool(self._node(node)["state"] == NodeCode.UP)

    def why_not(self, job: int) -> Reason:
        """Why a waiting job could not start now; OK if it could."""
        if not 0 <= job < int(self._state.rows[self._row]["num_jobs"]):
            raise UnknownEntityError(f"no job {job}; give an index into the job table")
        return Reason(entry.why_not(self._state.rows, self._row, job))

    def explain(self, job: int) -> str:
        """The same for people."""
        return _WORDS[self.why_not(job)]

    def _node(self, node: int) -> dict[str, int]:
        if not 0 <= node < self.nodes:
            raise UnknownEntityError(f"no node {node}; there are {self.nodes}")
        record = self._state.node[self._row, node]
        return {name: int(record[name]) for name in record.dtype.names}

    def _up(self, column: str) -> NDArray[Any]:
        """A column of the nodes in service, int64; to copy whole records costs much more."""
        nodes = self._state.node[self._row, : self.nodes]
        up: NDArray[Any] = nodes[column][nodes["state"] == NodeCode.UP].astype(np.int64)
        return up


_WHOLE = 1000


_GPU_UNIT = "milli-GPU"


@dataclass(frozen=True)
class Device:
    """One GPU.

    Parameters
    ----------
    node, index : int
        Where it is.
    free_milli, free_memory_mib : int
        Share and memory that nobody holds.
    island : int
        Its NVLink island on the node; -1 where the node has none.
    """

    node: int
    index: int
    free_milli: int
    free_memory_mib: int
    island: int


class GPUAllocator(ResourceView):
    """GPUs and shares of GPUs, as the kernels reserve and release them."""

    def total(self) -> Usage:
        """GPUs of all nodes in service."""
        capacity = _WHOLE * int(self._up("gpus").sum())
        return Usage(capacity, int(self._up("gpu_free_milli").sum()), _GPU_UNIT)

    def idle_workers(self, gpus: int) -> int:
        """Workers of so many whole GPUs each that would find room on the nodes in service."""
        return int((self._up("whole_free") // max(gpus, 1)).sum())

    def node(self, node: int) -> Usage:
        """GPUs of a node."""
        record = self._node(node)
        return Usage(record["gpus"] * _WHOLE, record["gpu_free_milli"], _GPU_UNIT)

    def whole_free(self, node: int) -> int:
        """GPUs of a node of which nobody holds anything."""
        return self._node(node)["whole_free"]

    def devices(self, node: int) -> tuple[Device, ...]:
        """The GPUs of a node."""
        record = self._node(node)
        size = record["island"]
        table = self._state.device[self._row, node]
        return tuple(
            Device(
                node=node,
                index=g,
                free_milli=int(table[g]["free_milli"]),
                free_memory_mib=int(table[g]["free_memory_mib"]),
                island=g // size if size else -1,
            )
            for g in range(record["gpus"])
        )

    def fragmentation(self) -> float:
        """Idle milli-GPUs that typical jobs cannot use (Weng et al., USENIX ATC 2023).

        0 until typical jobs are loaded (:func:`orchestrator.kernels.run.packing.load_typical`).
        """
        nodes = self._state.node[self._row, : self.nodes]
        return float(sum(float(x["fragmentation"]) for x in nodes))


_MEMORY_UNIT = "MiB"


class MemoryManager(ResourceView):
    """Host memory, which workers share, and GPU memory, which workers on a shared GPU share."""

    def total(self) -> Usage:
        """Host memory of all nodes in service."""
        capacity = int(self._up("memory_cap_mib").sum())
        return Usage(capacity, int(self._up("memory_free_mib").sum()), _MEMORY_UNIT)

    def node(self, node: int) -> Usage:
        """Host memory of a node."""
        record = self._node(node)
        return Usage(record["memory_cap_mib"], record["memory_free_mib"], _MEMORY_UNIT)

    def device(self, node: int, index: int) -> Usage:
        """Memory of a GPU, as far as jobs asked for it."""
        record = self._node(node)
        free = int(self._state.device[self._row, node, index]["free_memory_mib"])
        return Usage(record["gpu_memory_mib"], free, _MEMORY_UNIT)


_BANDWIDTH_UNIT = "Mbit/s"


class NetworkBandwidthManager(ResourceView):
    """Bandwidth that gangs hold which span nodes or racks.

    A node or an uplink of capacity 0 has no limit that anybody stated, and keeps no account.
    """

    def node(self, node: int) -> Usage:
        """Bandwidth of a node."""
        record = self._node(node)
        if record["bandwidth_mbps"] == 0:
            return Usage(0, 0, _BANDWIDTH_UNIT)
        return Usage(record["bandwidth_mbps"], record["bandwidth_free_mbps"], _BANDWIDTH_UNIT)

    @property
    def uplinks(self) -> int:
        """Racks with an uplink in the table."""
        return int(self._state.rows[self._row]["num_uplinks"])

    def uplink(self, rack: int) -> Usage:
        """Bandwidth of a rack's uplink."""
        if not 0 <= rack < self.uplinks:
            raise UnknownEntityError(f"no uplink of rack {rack}; {self.uplinks} are known")
        record = self._state.uplink[self._row, rack]
        if record["capacity_mbps"] == 0:
            return Usage(0, 0, _BANDWIDTH_UNIT)
        return Usage(int(record["capacity_mbps"]), int(record["free_mbps"]), _BANDWIDTH_UNIT)

    def tightest(self) -> Usage | None:
        """The node or uplink with the largest share in use; None if none has a limit."""
        racks = self._state.uplink[self._row, : self.uplinks]
        capacity = np.concatenate([self._up("bandwidth_mbps"), racks["capacity_mbps"]])
        free = np.concatenate([self._up("bandwidth_free_mbps"), racks["free_mbps"]])
        limited = np.flatnonzero(capacity > 0)
        if len(limited) == 0:
            return None
        most = limited[np.argmax(1.0 - free[limited] / capacity[limited])]
        return Usage(int(capacity[most]), int(free[most]), _BANDWIDTH_UNIT)


_STORAGE_UNIT = "MiB"


class StorageQuotaManager(ResourceView):
    """Storage of tenants' checkpoints.

    A job's checkpoint counts from its first start until its end. A job that would go beyond its
    tenant's quota is not started (``Reason.STORAGE``): the kernels see to it, this only tells.
    """

    def tenant(self, tenant: int) -> Usage:
        """Storage of a tenant; where there is no limit, its capacity is what it uses.

        Raises
        ------
        UnknownEntityError
            If there is no such account.
        """
        record = self._account(tenant)
        used, quota = int(record["storage_mib"]), int(record["storage_quota_mib"])
        return Usage(max(quota, used), max(quota - used, 0), _STORAGE_UNIT)

    def is_limited(self, tenant: int) -> bool:
        """Whether a tenant has a quota."""
        return self._account(tenant)["storage_quota_mib"] > 0

    def admits(self, tenant: int, size_mib: int) -> bool:
        """Whether a job with checkpoints of such a size may start."""
        return not self.is_limited(tenant) or size_mib <= self.tenant(tenant).free

    def total(self) -> Usage:
        """Storage of all tenants; where there is no limit, the capacity is what is used."""
        accounts = self._state.tenant[self._row, : self.tenants]
        used = accounts["storage_mib"].astype(np.int64)
        capacity = np.maximum(accounts["storage_quota_mib"].astype(np.int64), used)
        return Usage(int(capacity.sum()), int((capacity - used).sum()), _STORAGE_UNIT)

    @property
    def tenants(self) -> int:
        """Accounts."""
        return int(self._state.rows[self._row]["num_tenants"])

    def _account(self, tenant: int) -> dict[str, int]:
        if not 0 <= tenant < self.tenants:
            raise UnknownEntityError(f"no tenant {tenant}; there are {self.tenants} accounts")
        record = self._state.tenant[self._row, tenant]
        return {name: int(record[name]) for name in ("storage_mib", "storage_quota_mib")}


class ResourceManager:
    """The four managers of one cluster: what its status, and who resizes its jobs, read.

    They tell, and the kernels that change the cluster decide: capacities are those of its nodes,
    quotas those of its tenants.

    Parameters
    ----------
    state : ClusterState
        The state.
    row : int, optional
        Which cluster.
    """

    def __init__(self, state: ClusterState, row: int = 0) -> None:
        self.gpus = GPUAllocator(state, row)
        self.memory = MemoryManager(state, row)
        self.network = NetworkBandwidthManager(state, row)
        self.storage = StorageQuotaManager(state, row)

    def status(self) -> dict[str, dict[str, Any]]:
        """Capacity, use and share of each resource, as plain data; of links, the tightest."""
        found = {
            "gpus": self.gpus.total(),
            "memory": self.memory.total(),
            "network": self.network.tightest() or Usage(0, 0, _BANDWIDTH_UNIT),
            "storage": self.storage.total(),
        }
        return {
            name: {"capacity": x.capacity, "used": x.used, "share": x.share, "unit": x.unit}
            for name, x in found.items()
        }
