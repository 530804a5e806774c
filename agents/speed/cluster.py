"""Large and crowded clusters: stepping them with everything on, and scheduling on many nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.pods import PackingSuite, run_packing
from envs import CLUSTER, Scenario, Session
from envs.fitting import part_starts
from envs.gym import row_seeds
from envs.scenario import FleetPlan, ServiceMix
from envs.workloads import gpu_cluster, read_openb
from envs.workloads.enrich import enrich
from envs.workloads.failures import FailureModel
from envs.workloads.services import generate_services
from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import NodeCode, Placement, RuleKey
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, allocate
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.scheduling.rules import Rule
from orchestrator.types import TenantSpec

__all__ = ["CrowdedClusters", "Cycle", "pack_openb", "placed_per_second"]


_NODES = 64


_LOAD = 8.0  # far more than it can do: the queue fills the window


_JOBS = 2048


_SERVICES, _SPARE, _TICKS = 4, 8, 120_000


_WARM = 1500  # steps until it has


_WAITS = 0.5  # share of steps that wait: otherwise arrivals are rarer than what is done with them


_GPUS = 8


_WAITING = 1000


_FILLED = 0.7  # running jobs per node, which leave a third of the GPUs free


_SIZES = (1, 1, 1, 2, 2, 4, 8, 8)


_GANGS = (1, 1, 2, 4, 8)  # workers of 8 GPUs


_REPEATS = 3


class CrowdedClusters:
    """Rows of 64 nodes with 8 GPUs whose window of 32 queued jobs is full.

    Four candidate placements for each of them, 16 victims that may be preempted or moved, 8
    elastic jobs that may be resized, four services that scale, 8 more nodes that may be ordered;
    nodes fail, tenants' accounts are kept, and tenants, racks and the fleet are described.

    Parameters
    ----------
    rows : int
    threads : int, optional
        Threads that step them.
    """

    def __init__(self, rows: int, threads: int = 1) -> None:
        trace = enrich(gpu_cluster(20_000, 1, nodes=_NODES, load=_LOAD))
        series = generate_services(_SERVICES, _TICKS, 1)
        specs = tuple(ServiceSpec(name, 200.0, 8, max_replicas=24) for name in series.names)
        scenario = Scenario(
            failures=FailureModel(),
            tenants=tuple(TenantSpec(name) for name in trace.tenants),
            services=ServiceMix(specs, series, forecast=series.rates),
            fleet=FleetPlan(spare=_SPARE, least=_NODES // 2),
        )
        config = replace(
            CLUSTER,
            elastics=8,
            migrate=True,
            services=_SERVICES,
            capacity_steps=2,
            tenants=len(trace.tenants),
            racks=8,
            fleet=True,
            encoding=Encoding.FULL,
            episode_jobs=_JOBS,
        )
        starts = part_starts(trace, config, "all")[:64]
        self.session = Session(trace, config, rows, starts, scenario=scenario, threads=threads)
        self.session.reseed(row_seeds(0, rows))
        self.session.reset()
        self._rng = np.random.default_rng(0)
        self.step(_WARM, _no_time)

    @property
    def queued(self) -> float:
        """Mean number of waiting jobs."""
        return float(self.session.state.rows["queue_len"].mean())

    def step(self, steps: int, now: Callable[[], float]) -> float:
        """Wait, or take a random legal action; the time that stepping takes, s.

        What ends begins anew.
        """
        session, spent = self.session, 0.0
        for _ in range(steps):
            mask = session.buffers.mask
            actions = (self._rng.random(mask.shape, np.float32) * (mask != 0)).argmax(axis=1)
            waits = (self._rng.random(len(actions)) < _WAITS) & (mask[:, -1] != 0)
            actions[waits] = mask.shape[1] - 1
            begun = now()
            session.step(actions.astype(np.int64))
            over = session.buffers.terminated | session.buffers.truncated
            if over.any():
                session.reset(over)
            spent += now() - begun
        return spent


def _no_time() -> float:
    return 0.0


class Cycle:
    """Gangs that wait on a cluster that is two thirds full.

    Parameters
    ----------
    nodes : int
        Nodes of 8 GPUs.
    now : callable
        The clock, seconds.
    """

    def __init__(self, nodes: int, now: Callable[[], float]) -> None:
        self._now = now
        self._running = round(nodes * _FILLED)
        self._nodes = _nodes(nodes)
        self._requests = _requests(self._running + min(_WAITING, nodes))
        jobs = len(self._requests)
        self._state = allocate(
            ClusterShape(envs=1, jobs=jobs, workers=max(_GANGS), nodes=nodes, devices=_GPUS)
        )
        self._buffer = np.zeros(max(_GANGS), np.int32)
        self._scratch = np.zeros(jobs, np.int32)
        self._free = np.zeros(jobs, np.int64)
        self._rule = Rule("cycle", RuleKey.FCFS, Placement.BEST_FIT).to_record()
        self.placed = 0
        self.seconds()

    def seconds(self) -> float:
        """Fill the cluster, and time what the waiting gangs take until no other one fits."""
        rows, placement = self._state.rows, int(Placement.BEST_FIT)
        entry.begin_episode(rows, 0, 0, self._nodes, self._requests)
        packing.pack_arrivals(rows, 0, self._running, placement, self._buffer, self._free)
        packing.admit_arrivals(rows, 0, len(self._requests))
        begun = self._now()
        self.placed = packing.schedule(rows, 0, self._rule, self._buffer, self._scratch)
        return self._now() - begun


def placed_per_second(nodes: int, now: Callable[[], float]) -> float:
    """Placements per second of a cluster of so many nodes, at best of a few."""
    run = Cycle(nodes, now)
    return run.placed / min(run.seconds() for _ in range(_REPEATS))


def pack_openb(folder: Path) -> None:
    """Place openb's pods, in one order, by FGD until 130 % of the GPUs are asked for."""
    suite = PackingSuite("openb", {"FGD": "fgd"}, (42,))
    run_packing(suite, read_openb(folder, gpu_nodes_only=True))


def _nodes(count: int) -> NDArray[np.void]:
    nodes = np.zeros(count, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = _GPUS, NodeCode.UP
    nodes["cpu_cap_milli"], nodes["memory_cap_mib"] = 96_000, 1 << 20
    nodes["rack"] = np.arange(count) // 32
    nodes["spine"] = np.arange(count) // 512
    return nodes


def _requests(count: int) -> NDArray[np.void]:
    rng = np.random.default_rng(0)
    requests = np.zeros(count, REQUEST_DTYPE)
    gpus = rng.choice(_SIZES, count)
    workers = np.where(gpus == _GPUS, rng.choice(_GANGS, count), 1)
    requests["gpus_per_worker"], requests["gpu_milli"] = gpus, 1000
    for name in ("workers", "min_workers", "max_workers"):
        requests[name] = workers
    requests["cpu_milli"], requests["memory_mib"] = gpus * 8000, gpus * 65_536
    requests["duration_ms"] = requests["requested_ms"] = rng.integers(10**5, 10**8, count)
    return requests
