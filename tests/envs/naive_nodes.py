"""What a policy that chooses nodes sees, in plain Python from the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

from envs import Session
from orchestrator.kernels.state.codes import JobCode, NodeCode, Topology
from tests.twins.naive_placement import Host, least, slots
from tests.twins.naive_scores import fragmentation, gradient
from tests.twins.naive_state import plain

__all__ = ["NaiveNodes"]

Rows = list[list[float]]


class NaiveNodes:
    """A row at its decision point, read from its tables.

    Parameters
    ----------
    session : Session
    e : int
        Row.
    """

    def __init__(self, session: Session, e: int) -> None:
        state = session.state
        self.row, self.config = plain(state.rows[e]), session.config
        self.asks = [plain(record) for record in state.request[e, : self.row.num_jobs]]
        self.nodes = [plain(record) for record in state.node[e, : self.row.num_nodes]]
        self.typical = [plain(record) for record in session.source.episode.typical]
        self.running = int((state.job[e]["state"] == JobCode.RUNNING).sum())
        self.hosts = [
            Host(
                node.state == NodeCode.UP,
                node.model,
                node.cpu_free_milli,
                node.memory_free_mib,
                state.device[e, n, : node.gpus]["free_milli"].tolist(),
                node.gpu_memory_mib,
                state.device[e, n, : node.gpus]["free_memory_mib"].tolist(),
            )
            for n, node in enumerate(self.nodes)
        ]
        self.queue = [int(j) for j in state.queue[e, : self.row.queue_len]["job"]]
        self.window = [] if self.row.done else self.queue[: session.config.window]

    def observation(self) -> dict[str, Rows | list[float]]:
        empty = [0.0] * len(self.nodes)
        choices = [self.candidates(self.asks[j]) for j in self.window]
        missing = self.config.window - len(self.window)
        mask = [row[0] for rows in choices for row in rows] + empty * missing
        blank = [[0.0] * 17 for _ in range(len(self.nodes) * missing)]
        return {
            "queue": [self.pod(self.asks[j]) for j in self.window] + [[0.0] * 10] * missing,
            "global": self.pool(),
            "candidates": [row for rows in choices for row in rows] + blank,
            "action_mask": [*mask, float(self.may_wait())],
        }

    def may_wait(self) -> bool:
        """Whether anything is left to wait for, or somebody can be turned away."""
        row = self.row
        if row.done or row.turn_away:
            return not row.done
        to_come = row.next_arrival < row.num_jobs or row.next_incident < row.num_incidents
        return bool(to_come or row.heap_len > 0)

    def pod(self, ask: SimpleNamespace) -> list[float]:
        gpus = ask.workers * ask.gpus_per_worker
        total = sum(node.gpus for node in self.nodes)
        able = [n for n in self.nodes if not ask.model_mask or ask.model_mask >> n.model & 1]
        if ask.gpus_per_worker:
            able = [n for n in able if ask.gpu_memory_mib <= n.gpu_memory_mib]
        return [
            gpus / 8,
            ask.gpu_milli / 1000 if gpus else 0.0,
            float(gpus > 0 and ask.gpu_milli < 1000),
            ask.workers * ask.cpu_milli / max(node.cpu_cap_milli for node in self.nodes),
            ask.workers * ask.memory_mib / max(node.memory_cap_mib for node in self.nodes),
            sum(node.gpus for node in able) / total,
            1 - ask.priority / 3,
            0.2 * math.log(ask.workers),
            0.1 * math.log(1 + ask.requested_ms / 1000),
            0.1 * math.log(1 + (self.row.now_ms - ask.submit_ms) / 1000),
        ]

    def pool(self) -> list[float]:
        up = [n for n in self.nodes if n.state == NodeCode.UP]
        gpus = sum(node.gpus for node in self.nodes)
        lost = sum(fragmentation(host, self.typical) for host in self.hosts if host.up)
        return [
            sum(node.gpu_free_milli for node in up) / 1000 / gpus,
            sum(n.cpu_free_milli for n in up) / sum(n.cpu_cap_milli for n in self.nodes),
            sum(n.memory_free_mib for n in up) / sum(n.memory_cap_mib for n in self.nodes),
            lost / 1000 / gpus,
            sum(h.devices.count(1000) for h in self.hosts if h.up) / gpus,
            sum(node.workers == 0 for node in up) / len(self.nodes),
            0.2 * math.log(1 + len(self.queue)),
        ]

    def candidates(self, ask: SimpleNamespace) -> Rows:
        return [self._node(ask, n) for n in range(len(self.nodes))]

    def _node(self, ask: SimpleNamespace, n: int) -> list[float]:
        node, host = self.nodes[n], self.hosts[n]
        workers = self._slots(ask, n)
        if workers < least(ask):
            return [0.0] * 17
        score, taken = gradient(ask, host, self.typical)
        if ask.gpus_per_worker == 0:
            taken = []
        left = [f - ask.gpu_milli * (g in taken) for g, f in enumerate(host.devices)]
        later = Host(True, host.model, host.cpu - ask.cpu_milli, host.memory, left)
        before, after = fragmentation(host, self.typical), fragmentation(later, self.typical)
        taken_milli = workers * ask.gpus_per_worker * ask.gpu_milli
        gpu = (sum(host.devices) - taken_milli) / 1000 / node.gpus
        cpu = (host.cpu - workers * ask.cpu_milli) / node.cpu_cap_milli
        whole = left.count(1000)
        if ask.gpu_milli == 1000:
            whole = host.devices.count(1000) - workers * ask.gpus_per_worker
        return [
            1.0,
            sum(host.devices) / 1000 / node.gpus,
            gpu,
            whole / node.gpus,
            cpu,
            (host.memory - workers * ask.memory_mib) / node.memory_cap_mib,
            abs(cpu - gpu),
            sum(left[g] for g in taken) / 1000 / max(len(taken), 1),
            before / 1000 / node.gpus,
            (after - before) / 1000,
            score / 50 - 1,
            float(node.workers > 0),
            node.gpus / 8,
            0.5 * math.log(1 + node.failures),
            self._free([m for m in range(len(self.nodes)) if self.nodes[m].model == node.model]),
            self._bound(node.model),
            self._free(
                [
                    m
                    for m in range(len(self.nodes))
                    if (self.nodes[m].rack, self.nodes[m].spine) == (node.rack, node.spine)
                ]
            ),
        ]

    def _slots(self, ask: SimpleNamespace, n: int) -> int:
        """Workers that a node holds, or the best of its islands if the job must be in one."""
        host, size = self.hosts[n], self.nodes[n].island
        if ask.topology != Topology.ISLAND or ask.gpus_per_worker == 0:
            return slots(ask, host, ask.workers)
        parts = [range(at, at + size) for at in range(0, len(host.devices), size)]
        islands = [
            replace(
                host,
                devices=[host.devices[g] for g in part],
                memories=[host.memories[g] for g in part],
            )
            for part in parts
        ]
        return max(slots(ask, island, ask.workers) for island in islands)

    def _free(self, nodes: Sequence[int]) -> float:
        """Free share of the GPUs of those nodes that are up."""
        up = [n for n in nodes if self.hosts[n].up]
        return (
            sum(sum(self.hosts[n].devices) for n in up) / 1000 / sum(self.nodes[n].gpus for n in up)
        )

    def _bound(self, model: int) -> float:
        """Share of typical pods' GPUs that must be of a model, or one of a few."""
        demand = [pod.weight * pod.gpus * pod.gpu_milli for pod in self.typical]
        bound = [pod.model_mask >> model & 1 for pod in self.typical]
        return sum(d for d, b in zip(demand, bound, strict=True) if b) / sum(demand)
