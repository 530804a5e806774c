"""One row, cut to what is in use, as the checks of invariants read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvariantError
from orchestrator.kernels.state.codes import JobCode, NodeCode
from orchestrator.kernels.state.row import ClusterState

__all__ = [
    "ENDED",
    "PAID",
    "PASSING",
    "PLACED",
    "WAITING",
    "WHOLE",
    "View",
    "among",
    "view_of",
]


WAITING = (JobCode.PENDING, JobCode.PREEMPTED)


PLACED = (JobCode.RUNNING, JobCode.CHECKPOINTING)


ENDED = (JobCode.COMPLETED, JobCode.FAILED)


PASSING = (JobCode.SCHEDULED, JobCode.SCALING)


PAID = (NodeCode.UP, NodeCode.DRAINING, NodeCode.PROVISIONING)


WHOLE = 1000


@cache
def _table(codes: tuple[int, ...]) -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)  # as many codes as a byte holds
    table[list(codes)] = True
    return table


def among(found: NDArray[Any], codes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which of some codes are among others; ``np.isin`` takes fifty times as long for these."""
    chosen: NDArray[np.bool_] = _table(codes)[found]
    return chosen


@dataclass(frozen=True)
class View:
    """One row, cut to what is in use: J = jobs, N = nodes, D = devices."""

    e: int
    row: Any  # ROW_DTYPE record
    request: NDArray[np.void]  # [J]
    job: NDArray[np.void]  # [J]
    worker: NDArray[np.void]  # [J, W]
    node: NDArray[np.void]  # [N]
    device: NDArray[np.void]  # [N, D]
    queue: NDArray[np.int32]  # [queue_len] jobs
    running: NDArray[np.void]  # [running_len]
    heap: NDArray[np.void]  # [heap_len]
    tenant: NDArray[np.void]  # [num_tenants]
    on_order: list[int]  # [arrival_len] nodes
    service: NDArray[np.void]  # [num_services]
    effect: NDArray[np.void]  # [F] those that are kept, oldest first
    effect_worker: NDArray[np.void]  # [F, W]

    def require(self, ok: bool, message: str) -> None:
        """Raise :class:`InvariantError` unless ``ok``."""
        if not ok:
            raise InvariantError(f"row {self.e} at {self.row['now_ms']} ms: {message}")

    def require_all(self, ok: NDArray[np.bool_], message: Callable[[int], str]) -> None:
        """Demand something of all entries of a table; the message is about the first without."""
        if np.count_nonzero(ok) < ok.size:  # half the time of all()
            self.require(False, message(int(np.argmin(ok))))

    def require_equal(self, found: Any, expected: Any, what: str) -> None:
        """Demand that a stored value equals what it should be."""
        if found != expected:
            self.require(False, f"{what} is {found}, should be {expected}")

    def jobs_in(self, states: tuple[JobCode, ...]) -> list[int]:
        """Jobs in any of these states, ascending."""
        return list(among(self.job["state"], states).nonzero()[0].tolist())


def view_of(state: ClusterState, e: int) -> View:
    """Cut a row to what is in use; its counts are checked first."""
    row = state.rows[e]
    limits = {
        "num_jobs": state.shape.jobs,
        "num_nodes": state.shape.nodes,
        "num_tenants": state.shape.tenants,
        "queue_len": row["num_jobs"],
        "running_len": row["num_jobs"],
        "heap_len": row["num_jobs"],
        "next_arrival": row["num_jobs"],
        "next_incident": row["num_incidents"],
        "arrival_len": row["num_nodes"],
        "num_services": state.shape.services,
    }
    for name, limit in limits.items():
        if not 0 <= row[name] <= limit:
            raise InvariantError(f"row {e}: {name} is {row[name]}, outside 0..{limit}")
    jobs, nodes = int(row["num_jobs"]), int(row["num_nodes"])
    count, ring = int(row["effect_count"]), state.shape.effects
    kept = np.arange(max(0, count - ring), count) % max(ring, 1)
    return View(
        e=e,
        row=row,
        request=state.request[e, :jobs],
        job=state.job[e, :jobs],
        worker=state.worker[e, :jobs],
        node=state.node[e, :nodes],
        device=state.device[e, :nodes],
        queue=state.queue[e, : row["queue_len"]]["job"],
        running=state.running[e, : row["running_len"]],
        heap=state.heap[e, : row["heap_len"]],
        tenant=state.tenant[e, : row["num_tenants"]],
        on_order=[
            int(state.arrival[e, (int(row["arrival_head"]) + k) % state.shape.nodes]["node"])
            for k in range(int(row["arrival_len"]))
        ],
        service=state.service[e, : row["num_services"]],
        effect=state.effect[e, kept],
        effect_worker=state.effect_worker[e, kept],
    )
