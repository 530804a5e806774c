"""How things stand in a cluster: demand, tenants' shares, fragmentation, why jobs wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine import Engine
from orchestrator.kernels import entry
from orchestrator.kernels.autoscale import read_demand
from orchestrator.kernels.codes import ActionKind, NodeCode, Placement, Reason
from orchestrator.kernels.state import ClusterState
from orchestrator.types import NodeSpec

__all__ = [
    "Demand",
    "demand_of",
    "fragmentation",
    "jain_index",
    "tenant_shares",
    "why_waiting",
]

_CAPACITY_REASONS = (Reason.NO_CAPACITY, Reason.FRAGMENTED, Reason.TOPOLOGY, Reason.BANDWIDTH)


@dataclass(frozen=True)
class Demand:
    """What jobs hold and wait for, in GPUs, or in CPU cores where there are no GPUs.

    Parameters
    ----------
    unit : str
        ``"gpu"`` or ``"cpu"``.
    held, queued : float
        By placed jobs, and by those that wait.
    """

    unit: str
    held: float
    queued: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.held + self.queued

    def of_node(self, spec: NodeSpec) -> float:
        """Capacity of a node, in the same unit."""
        return float(spec.gpus if self.unit == "gpu" else spec.cpu_cores)


def demand_of(engine: Engine) -> Demand:
    """The demand of an engine's jobs now, as a simulated fleet is scaled by.

    A waiting job counts with the workers that it asked for, a placed one with those that it has.
    In a cluster with GPUs, jobs that need none count nothing.
    """
    by_gpu, held, queued = read_demand(engine.state.rows, 0)
    return Demand("gpu" if by_gpu else "cpu", held / 1000, queued / 1000)


def fragmentation(engine: Engine) -> float:
    """Share of the idle GPUs that lie on partly used nodes, in [0, 1]; 0 where none is idle.

    These are the GPUs that a job which needs whole nodes cannot have. (The fragmentation of Weng
    et al., USENIX ATC 2023, needs a distribution of typical jobs, which a live cluster does not
    have beforehand; see :meth:`orchestrator.resources.gpus.GPUAllocator.fragmentation`.)
    """
    nodes = engine.state.node[0]
    up = nodes[(nodes["state"] == NodeCode.UP) & (nodes["gpus"] > 0)]
    idle = up["gpu_free_milli"]
    total = int(idle.sum())
    scattered = int(idle[idle < 1000 * up["gpus"]].sum())
    return scattered / total if total else 0.0


def jain_index(shares: NDArray[np.float64]) -> float:
    """(sum x)^2 / (n sum x^2), 1 if all have the same (Jain, Chiu and Hawe, DEC-TR-301, 1984)."""
    squares = float(np.sum(shares**2))
    return float(np.sum(shares)) ** 2 / (len(shares) * squares) if squares > 0 else 1.0


def tenant_shares(engine: Engine) -> dict[str, dict[str, float | None]]:
    """What each tenant that was ever named holds.

    Returns
    -------
    dict
        By name: ``used`` and ``quota`` (GPUs, or cores where there are none), ``weight``,
        ``dominant_share`` (the largest of its shares of GPUs, cores and memory; Ghodsi et al.,
        NSDI 2011), ``attained_hours`` (unit hours of runs that have ended, or so far accounted),
        ``storage_gb``, ``storage_quota_gb`` (None: no limit).
    """
    row = engine.row
    whole = {name: int(row[f"nominal_{name}"]) for name in ("gpu_milli", "cpu_milli", "memory_mib")}
    shares: dict[str, dict[str, float | None]] = {}
    for k, name in enumerate(engine.jobs.tenants.names):
        own: Any = engine.state.tenant[0, k]
        limit = int(own["storage_quota_mib"])
        shares[name] = {
            "used": int(own["used_units"]) / 1000,
            "quota": int(own["quota_units"]) / 1000,
            "weight": float(own["weight"]) or 1.0,
            "dominant_share": max(
                int(own[f"used_{part}"]) / most if most > 0 else 0.0 for part, most in whole.items()
            ),
            "attained_hours": int(own["attained_unit_ms"]) / 1000 / 3_600_000,
            "storage_gb": int(own["storage_mib"]) / 1024,
            "storage_quota_gb": limit / 1024 if limit > 0 else None,
        }
    return shares


def why_waiting(engine: Engine, state: ClusterState, job_ids: list[str]) -> dict[str, str]:
    """Why waiting jobs are not placed.

    Each placement is tried on a copy, which says what the cluster itself would say.

    Parameters
    ----------
    engine : Engine
        The cluster.
    state : ClusterState
        A copy of its state that may be spoilt.
    job_ids : list of str
        Jobs that wait.

    Returns
    -------
    dict
        By job, a :class:`Reason` in lower case; ``"ok"``: it would fit, and waits for its turn.
    """
    nodes = np.empty(engine.shape.workers, np.int32)
    reasons = {}
    for job_id in job_ids:
        j = engine.jobs.slots.find(job_id)
        reason = Reason(entry.why_not(state.rows, 0, j))
        if reason not in _CAPACITY_REASONS and state.rows[0]["commitment"] == 0:
            entry.open_point(state.rows, 0)
            place, generator = int(ActionKind.PLACE), int(Placement.BEST_FIT)
            reason = Reason(entry.commit(state.rows, 0, place, j, generator, nodes))
            if reason == Reason.OK:  # it was placed, on the copy
                entry.copy_row(engine.state.rows, 0, state.rows, 0)
        reasons[job_id] = reason.name.lower()
    return reasons
