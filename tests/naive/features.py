"""Features of jobs, candidates and nodes in plain Python.

Notation, durations in seconds: w wait, r estimated run time, m = max(r, 10), p demand, P capacity,
d time until p units are free by the running jobs' expected ends, W = sum over the queue of 1 / m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs import EnvConfig, Session
from envs.workloads import Trace
from orchestrator.kernels.see.queue import BUCKETS, Encoding
from orchestrator.kernels.state.codes import JobCode, NodeCode, RuleKey, Topology
from orchestrator.kernels.state.row import ClusterState
from tests.naive.cluster import plain
from tests.naive.placing import Host, fragmentation, gradient, least, slots
from tests.twins import kernel_calls

__all__ = ["NaiveNodes", "NaiveView", "Played"]


Rows = list[list[float]]


_ALMOST_ONE = 1.0 - 1e-5


class Played(Protocol):
    """What a view needs of a session: a bare row has it, too."""

    state: ClusterState

    @property
    def config(self) -> EnvConfig: ...

    @property
    def trace(self) -> Trace: ...

    def observation(self, e: int, /) -> dict[str, NDArray[Any]]: ...


class NaiveView:
    """A row at its decision point, read from its tables.

    Parameters
    ----------
    session : Session or bare row
    e : int
        Row.
    """

    def __init__(self, session: Played, e: int) -> None:
        self.session, self.config, self.e = session, session.config, e
        state = session.state
        self.rows, self.row = state.rows, plain(state.rows[e])
        count = self.row.num_jobs
        self.asks = [plain(record) for record in state.request[e, :count]]
        self.jobs = [plain(record) for record in state.job[e, :count]]
        self.nodes = [plain(record) for record in state.node[e, : self.row.num_nodes]]
        self.queue = [int(j) for j in state.queue[e, : self.row.queue_len]["job"]]
        self.running = [int(j) for j in state.running[e, : self.row.running_len]["job"]]
        self.now = self.row.now_ms
        self.capacity = self.row.nominal_units / 1000
        self.free = self.row.free_units / 1000
        self.window = self._window()
        self.victims = self._victims()

    # --- who is shown ---------------------------------------------------------------------------

    def _window(self) -> list[int]:
        """The first of the queue under the window order; none once the episode is over."""
        if self.row.done:
            return []
        key = self.config.window_order

        def score(j: int) -> float:
            if key == RuleKey.FCFS:
                return float(self.asks[j].submit_ms)
            if key == RuleKey.SJF:
                return float(self.asks[j].requested_ms)
            return float(kernel_calls.job_score(self.rows, self.e, j, int(key)))

        return sorted(self.queue, key=score)[: self.config.window]

    def _victims(self) -> list[int]:
        """Preemptible running jobs, latest expected end first; none while nobody waits."""
        if self.row.done or not self.queue:
            return []
        if self.row.preemptions_here >= self.config.preemption_limit:
            return []
        may = [j for j in reversed(self.running) if self._preemptible(j)]
        return may[: self.config.victims]

    def _preemptible(self, j: int) -> bool:
        job = self.jobs[j]
        long_enough = self.now - job.start_ms >= self.config.min_run_seconds * 1000
        return job.state == JobCode.RUNNING and long_enough and bool(self.asks[j].preemptible)

    # --- queued jobs ----------------------------------------------------------------------------

    def demand(self, j: int) -> float:
        return float(self.jobs[j].units / 1000)

    def estimate(self, j: int) -> float:
        return max(self.asks[j].requested_ms / 1000, 1e-3)

    def wait(self, j: int) -> float:
        return float((self.now - self.asks[j].submit_ms) / 1000)

    def pressure(self) -> float:
        """W."""
        return sum(1 / max(self.estimate(j), 10.0) for j in self.queue)

    def time_to_start(self, j: int) -> float:
        """d, with demand rounded up and capacity rounded down to whole steps of a table."""
        total = self.row.nominal_units
        needed = min(-(-self.jobs[j].units * BUCKETS // total), BUCKETS)
        free, at = self.row.free_units, 0.0
        for other in self.running:
            if free * BUCKETS // total >= needed:
                break
            free += self.jobs[other].units
            at = max(self.jobs[other].expected_end_ms - self.now, 0) / 1000
        return at

    def default_features(self, j: int, position: int) -> list[float]:
        w, r, p, d = self.wait(j), self.estimate(j), self.demand(j), self.time_to_start(j)
        m, total, rate = max(r, 10.0), self.capacity, self.pressure()
        return [
            0.1 * math.log(1 + w),
            0.1 * math.log(r),
            math.log(max(p, 1e-3)) / max(math.log(total), 1.0),
            float(p <= self.free),
            0.1 * math.log(1 + d),
            0.2 * math.log(1 + w / m),
            0.1 * math.log(1 + rate * d),
            0.2 * math.log(1 + d / m),
            (self.free - p) / total,
            math.log(max(r * p, 1e-3)) / math.log(10 * total),
            math.log(1 + position) / math.log(1 + self.config.window),
            p / total,
            0.1 * math.log(1 + (d + r) * max(rate - 1 / m, 0.0)),
            float(r < 10),
        ]

    def cluster_features(self, j: int) -> list[float]:
        ask, job = self.asks[j], self.jobs[j]
        attained = job.attained_unit_ms / 1000 / self.row.nominal_units
        return [
            1 - ask.priority / 3,
            0.5 * math.log(1 + job.preemptions),
            min(job.progress_ms / ask.requested_ms, 1.0),
            0.2 * math.log(ask.workers),
            0.1 * math.log(1 + attained),
        ]

    def published_features(self, j: int) -> list[float]:
        """RLScheduler's, each cut just below one."""
        ask, maxima = self.asks[j], self.session.trace.requests
        largest = {name: max(int(maxima[name].max()), 1) for name in ("user", "group")}
        longest = maxima["requested_ms"].max() / 1000
        shares = [
            self.wait(j) / (12 * 3600),
            self.estimate(j) / longest,
            self.demand(j) / self.capacity,
            0.0,
            ask.user / largest["user"],
            ask.group / largest["group"],
            ask.application / max(int(maxima["application"].max()), 1),
        ]
        fits_now = _ALMOST_ONE if self.demand(j) <= self.free else 1e-5
        return [min(share, _ALMOST_ONE) for share in shares] + [fits_now]

    def queue_features(self) -> Rows:
        rows = []
        for position, j in enumerate(self.window):
            if self.config.encoding == Encoding.PUBLISHED:
                rows.append(self.published_features(j))
                continue
            rows.append(self.default_features(j, position))
            if self.config.encoding == Encoding.CLUSTER:
                rows[-1] += self.cluster_features(j)
        return rows

    # --- the whole ------------------------------------------------------------------------------

    def global_features(self) -> list[float]:
        ends = [max(self.jobs[j].expected_end_ms - self.now, 0) / 1000 for j in self.running]
        area = sum(self.jobs[j].units * self.asks[j].requested_ms for j in self.queue)
        hidden = max(len(self.queue) - self.config.window, 0)
        return [
            self.free / self.capacity,
            0.2 * math.log(1 + len(self.queue)),
            0.1 * math.log(1e-4 + self.pressure()),
            0.1 * math.log(1 + min(ends, default=0)),
            0.1 * math.log(1 + max(ends, default=0)),
            len(self.running) / 64,
            0.1 * math.log(1 + area / self.row.nominal_units / 1000),
            0.2 * math.log(1 + hidden),
        ]

    # --- placements -----------------------------------------------------------------------------

    def placement(self, j: int, generator: int) -> list[int] | None:
        """Nodes of a complete placement that could be chosen now."""
        if self.jobs[j].blocked_point == self.row.point:
            return None
        nodes = np.zeros(self.asks[j].workers, np.int32)
        if not kernel_calls.place_gang(self.rows, self.e, j, int(generator), nodes):
            return None
        return [int(n) for n in nodes]

    def candidate_features(self) -> tuple[Rows, list[bool]]:
        """Features of every candidate of the window, and which are legal."""
        features: Rows = []
        legal: list[bool] = []
        for j in self.window:
            earlier: list[list[int]] = []
            for generator in self.config.placements:
                nodes = self.placement(j, generator)
                legal.append(nodes is not None)
                features.append([0.0] * 6 if nodes is None else self._candidate(j, nodes, earlier))
                if nodes is not None:
                    earlier.append(nodes)
        return features, legal

    def _candidate(self, j: int, nodes: list[int], earlier: list[list[int]]) -> list[float]:
        touched = [self.nodes[n] for n in sorted(set(nodes))]
        by_gpu = bool(self.row.unit)
        free = sum(node.gpu_free_milli if by_gpu else node.cpu_free_milli for node in touched)
        total = sum(1000 * node.gpus if by_gpu else node.cpu_cap_milli for node in touched)
        one_rack = len({node.rack for node in touched}) == 1
        return [
            1.0,
            len(touched) / len(nodes),
            0.0 if len(touched) == 1 else 0.5 if one_rack else 1.0,
            (free - self.jobs[j].units) / total,
            0.5 * math.log(1 + max(node.failures for node in touched)),
            float(nodes in earlier),
        ]

    # --- victims --------------------------------------------------------------------------------

    def victim_features(self) -> Rows:
        return [self._victim(j) for j in self.victims]

    def _victim(self, j: int) -> list[float]:
        ask, job = self.asks[j], self.jobs[j]
        worked = max(self.now - job.work_start_ms, 0)
        progress = min(job.progress_ms + worked, ask.duration_ms)
        interval = ask.checkpoint_interval_ms
        saved = job.progress_ms
        while interval > 0 and saved + interval <= progress:
            saved += interval
        return [
            0.1 * math.log(1 + max(ask.requested_ms - progress, 0) / 1000),
            0.1 * math.log(1 + (self.now - job.start_ms) / 1000),
            0.1 * math.log(1 + (progress - saved) / 1000),
            self.demand(j) / self.capacity,
            0.5 * math.log(1 + job.preemptions),
            1 - ask.priority / 3,
            0.1 * math.log(1 + (ask.checkpoint_ms + ask.restart_ms) / 1000),
            float(self._helps(j)),
        ]

    def _helps(self, victim: int) -> bool:
        """Whether the first waiting job fits without the victim, but not with it."""
        first = self.asks[self.queue[0]]
        return not _fits(first, self._hosts()) and _fits(first, self._hosts(without=victim))

    def _hosts(self, without: int | None = None) -> list[Host]:
        hosts = [
            Host(
                node.state == NodeCode.UP,
                node.model,
                node.cpu_free_milli,
                node.memory_free_mib,
                [int(f) for f in self.session.state.device[self.e, n, : node.gpus]["free_milli"]],
            )
            for n, node in enumerate(self.nodes)
        ]
        if without is not None:
            _give_back(self.asks[without], self._workers(without), hosts)
        return hosts

    def _workers(self, j: int) -> NDArray[np.void]:
        workers: NDArray[np.void] = self.session.state.worker[self.e, j, : self.asks[j].workers]
        return workers

    # --- all of it ------------------------------------------------------------------------------

    def observation(self) -> dict[str, NDArray[Any]]:
        """The observation, padded with zeros."""
        seen: dict[str, NDArray[Any]] = {}
        space = self.session.observation(self.e)
        candidates, legal = ([], []) if self.config.commitment else self.candidate_features()
        pending = self.row.next_arrival < self.row.num_jobs or bool(self.running)
        pending = pending or self.row.next_incident < self.row.num_incidents
        mask = np.zeros(len(space["action_mask"]), np.int8)
        if self.config.commitment:
            mask[: len(self.window)] = 1
        else:
            mask[: len(legal)] = legal
            offset = self.config.window * len(self.config.placements)
            mask[offset : offset + len(self.victims)] = 1
            mask[-1] = pending and not self.row.done
        seen["action_mask"] = mask
        seen["global"] = np.array(self.global_features())
        for name, rows in (
            ("queue", self.queue_features()),
            ("candidates", candidates),
            ("victims", self.victim_features()),
        ):
            if name in space:
                seen[name] = np.zeros(space[name].shape)
                for i, features in enumerate(rows):
                    seen[name][i] = features
        return seen


def _fits(ask: SimpleNamespace, hosts: list[Host]) -> bool:
    return sum(_slots(ask, host) for host in hosts) >= ask.workers


def _slots(ask: SimpleNamespace, host: Host) -> int:
    """Workers that a node can hold: t, if every device serves each worker at most once."""
    if not host.up or (ask.model_mask and not (ask.model_mask >> host.model) & 1):
        return 0

    def enough(t: int) -> bool:
        shares = sum(min(t, free // ask.gpu_milli) for free in host.devices)
        return (
            shares >= t * ask.gpus_per_worker
            and t * ask.cpu_milli <= host.cpu
            and t * ask.memory_mib <= host.memory
        )

    return max(t for t in range(ask.workers + 1) if enough(t))


def _give_back(ask: SimpleNamespace, workers: NDArray[np.void], hosts: list[Host]) -> None:
    for worker in workers:
        host = hosts[int(worker["node"])]
        host.cpu += ask.cpu_milli
        host.memory += ask.memory_mib
        for g in range(len(host.devices)):
            host.devices[g] += ask.gpu_milli * ((int(worker["devices"]) >> g) & 1)


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
