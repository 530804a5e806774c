"""Orders of nodes on a plain cluster: the twin of transition.capacity."""

from __future__ import annotations

from orchestrator.kernels.state.codes import EventKind, JobCode, NodeCode, Reason
from tests.twins.naive_engine import NaiveEngine


class NaiveFleet(NaiveEngine):
    """A cluster whose number of nodes changes."""

    def orders(self) -> list[tuple[int, int, int]]:
        """Nodes on order as (arrival, number of the order, node), the next to come first."""
        mine = [x for x in self.pending if x[1] == EventKind.NODE_ARRIVAL]
        return sorted((time, number, n) for time, _, number, n in mine)

    def nodes_in(self, *states: NodeCode) -> list[int]:
        return [n for n, node in enumerate(self.nodes) if node.state in states]

    def stays(self, n: int) -> bool:
        """Whether some job on a node may not be preempted."""
        return any(
            job.is_on(n) and not job.ask.preemptible and job.state == JobCode.RUNNING
            for job in self.running
        )

    def workers_on(self, n: int) -> int:
        return sum(node == n for job in self.running for node, _ in job.spots)

    def emptying_cost(self, n: int) -> int:
        """What is interrupted if a node goes, units x ms."""
        cost = 0
        for job in self.running:
            if job.is_on(n) and job.state == JobCode.RUNNING:
                if self.survives(job, n):
                    cost += job.ask.restart_ms * self.units_of(job, job.mates_on(n))
                else:
                    cost += self.interruption_cost(job)
        return cost

    def spare(self) -> list[int]:
        return [n for n in self.nodes_in(NodeCode.UP) if not self.stays(n)]

    def capacity_reason(self, delta: int) -> Reason:
        fleet = len(self.nodes_in(NodeCode.UP, NodeCode.PROVISIONING)) + delta
        if delta == 0:
            return Reason.UNKNOWN_ACTION
        if delta > 0:
            most = self.config.max_nodes or len(self.nodes)
            enough = len(self.nodes_in(NodeCode.ABSENT)) >= delta
            return Reason.OK if enough and fleet <= most else Reason.NO_NODES
        enough = len(self.orders()) + len(self.spare()) >= -delta
        return Reason.OK if enough and fleet >= self.config.min_nodes else Reason.NO_NODES

    def scale_capacity(self, delta: int) -> Reason:
        reason = self.capacity_reason(delta)
        if reason != Reason.OK:
            return reason
        for n in self.nodes_in(NodeCode.ABSENT)[: max(delta, 0)]:
            self.set_node_state(n, NodeCode.PROVISIONING)
            arrival = self.now + self.config.provision_ms
            self.pending.append((arrival, EventKind.NODE_ARRIVAL, self.sequence, n))
            self.sequence += 1
        for _ in range(max(-delta, 0)):
            if self.orders():
                time, number, n = self.orders()[-1]
                self.pending.remove((time, EventKind.NODE_ARRIVAL, number, n))
                self.set_node_state(n, NodeCode.ABSENT)
            else:
                self.drain_node(
                    min(
                        self.spare(),
                        key=lambda n: (self.emptying_cost(n), self.workers_on(n), -n),
                    )
                )
        return reason
