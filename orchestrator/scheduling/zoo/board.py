"""A snapshot to plan on: what may be decided is tried on the snapshot's own copy of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.snapshot import Snapshot
from orchestrator.kernels.change import events as live
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    ActionKind,
    JobCode,
    NodeCode,
    Placement,
    Reason,
    Topology,
)
from orchestrator.messages import Action, Plan, Wait

__all__ = ["Board"]


class Board:
    """Jobs and capacity of a snapshot, and the plan that grows on it.

    Every action is committed on the snapshot's copy first, so that the plan is legal as a whole
    and later actions see what earlier ones left.

    Parameters
    ----------
    snapshot : Snapshot
        Used up by this.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.state = snapshot.state
        self._scratch = np.empty(self.state.shape.workers, np.int32)
        self._actions: list[Action] = []

    # --- reading -------------------------------------------------------------------------------

    @property
    def row(self) -> Any:
        """Scalars of the cluster."""
        return self.state.rows[0]

    @property
    def requests(self) -> Any:
        """REQUEST_DTYPE [jobs]."""
        return self.state.request[0]

    @property
    def jobs(self) -> Any:
        """JOB_DTYPE [jobs]."""
        return self.state.job[0]

    @property
    def now_ms(self) -> int:
        """Time."""
        return int(self.row["now_ms"])

    def waiting(self) -> list[int]:
        """Jobs in the queue, in submit order."""
        return [int(j) for j in self.state.queue[0, : self.row["queue_len"]]["job"]]

    def running(self) -> list[int]:
        """Placed jobs in the order of their numbers; the ones being saved are not among them."""
        placed = self.state.running[0, : self.row["running_len"]]["job"]
        return sorted(int(j) for j in placed if self.jobs[j]["state"] == JobCode.RUNNING)

    def leaving_units(self) -> int:
        """Capacity of the jobs that are being saved."""
        placed = self.state.running[0, : self.row["running_len"]]["job"]
        gone = [j for j in placed if self.jobs[j]["state"] == JobCode.CHECKPOINTING]
        return int(sum(int(self.jobs[j]["units"]) for j in gone))

    def units(self, j: int, workers: int | None = None) -> int:
        """Capacity that a job needs for so many workers; None: for those it asked for."""
        count = int(self.requests[j]["workers"]) if workers is None else workers
        return entry.units_of(self.state.rows, 0, j, count)

    def attained(self, j: int) -> int:
        """Service that a job has had, units x ms."""
        return entry.attained_now(self.state.rows, 0, j)

    def progress(self, j: int) -> int:
        """Work that a job has done, ms at nominal speed."""
        return live.work_done(self.state.rows, 0, j)

    def remaining(self, j: int) -> int:
        """Estimated work left, ms at nominal speed; at least a second."""
        return max(int(self.requests[j]["requested_ms"]) - self.progress(j), 1000)

    def speed(self, j: int, workers: int, model: int = 255) -> float:
        """Speed of a job on workers as close together as they fit; model 255: a nominal one."""
        if workers <= 0:
            return 0.0
        gpus = int(self.requests[j]["gpus_per_worker"]) * workers
        spread = Topology.NODE if gpus <= self.largest_node() else Topology.RACK
        return entry.speed_milli(self.state.rows, 0, j, workers, int(spread), model) / 1000.0

    def largest_node(self) -> int:
        """GPUs of the largest node."""
        return int(self.state.node[0, : self.row["num_nodes"]]["gpus"].max(initial=0))

    def capacity_by_model(self) -> NDArray[np.int64]:
        """Capacity units in service, by GPU model, int64 [models]."""
        nodes = self.state.node[0, : self.row["num_nodes"]]
        up = nodes[nodes["state"] == NodeCode.UP]
        each = up["gpus"].astype(np.int64) * 1000 if self.row["unit"] else up["cpu_cap_milli"]
        models = int(nodes["model"].max(initial=0)) + 1
        return np.bincount(up["model"], weights=each, minlength=models).astype(np.int64)

    # --- planning ------------------------------------------------------------------------------

    def act(self, kind: ActionKind, j: int, value: int = 0) -> bool:
        """Add an action to the plan if it is legal."""
        reason = entry.commit(self.state.rows, 0, int(kind), j, value, self._scratch)
        if reason != Reason.OK:
            return False
        self._actions.append(self.snapshot.action(int(kind), j, value))
        return True

    def place(self, j: int, generator: Placement = Placement.BEST_FIT) -> bool:
        """Start a waiting job."""
        return self.act(ActionKind.PLACE, j, int(generator))

    def preempt(self, j: int) -> bool:
        """Preempt a running job."""
        return self.act(ActionKind.PREEMPT, j)

    def resize(self, j: int, workers: int) -> bool:
        """Resize a running elastic job."""
        return self.act(ActionKind.RESIZE, j, workers)

    def serve(self, order: Sequence[int], *, preempt: bool) -> None:
        """Give the cluster to the first jobs of an order that fit into it together.

        Parameters
        ----------
        order : sequence of int
            Waiting and running jobs, the most deserving first.
        preempt : bool
            Whether running jobs further down may be preempted for waiting ones further up.
        """
        keep = self._chosen(order)
        victims = [j for j in reversed(order) if j not in keep and self._runs(j)]
        for j in order:
            if not self._waits(j) or (preempt and j not in keep):
                continue
            if self.place(j) or not preempt:
                continue
            missing = self.units(j) - int(self.row["free_units"]) - self.leaving_units()
            while missing > 0 and victims:
                victim = victims.pop(0)
                if self.preempt(victim):
                    missing -= self.units(victim)
            # Room that comes when a checkpoint is done is kept for this job.
            if not self.place(j) and self.leaving_units() > 0:
                return
        for j in order:  # what the chosen ones left
            if self._waits(j):
                self.place(j)

    def plan(self) -> Plan:
        """The plan; nothing more is decided at this point."""
        return Plan((*self._actions, Wait()))

    def _chosen(self, order: Sequence[int]) -> set[int]:
        """The jobs of an order that fit by their demand, those that cannot leave included."""
        limit = self.state.rows[0]
        left = int(limit["capacity_units"]) - self.leaving_units()
        fixed = {j for j in self.running() if not self.requests[j]["preemptible"]}
        left -= sum(int(self.jobs[j]["units"]) for j in fixed)
        chosen = set(fixed)
        for j in order:
            if j not in chosen and self.units(j) <= left:
                chosen.add(j)
                left -= self.units(j)
        return chosen

    def _waits(self, j: int) -> bool:
        return bool(self.jobs[j]["state"] in (JobCode.PENDING, JobCode.PREEMPTED))

    def _runs(self, j: int) -> bool:
        return bool(self.jobs[j]["state"] == JobCode.RUNNING)
