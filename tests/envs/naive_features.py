"""What a policy sees, in plain Python from the formulas: the twin of the encoders.

Notation, durations in seconds: w wait, r estimated run time, m = max(r, 10), p demand, P capacity,
d time until p units are free by the running jobs' expected ends, W = sum over the queue of 1 / m.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs import EnvConfig
from envs.workloads import Trace
from orchestrator.kernels.see.queue import BUCKETS, Encoding
from orchestrator.kernels.state.codes import JobCode, NodeCode, RuleKey
from orchestrator.kernels.state.row import ClusterState
from tests.twins import kernel_calls
from tests.twins.naive_placement import Host
from tests.twins.naive_state import plain

__all__ = ["NaiveView", "Played"]

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
