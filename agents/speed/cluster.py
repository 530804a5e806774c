"""Stepping whole clusters with everything on: jobs, failures, tenants, services, a fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from envs import CLUSTER, Scenario, Session
from envs.gym import part_starts, row_seeds
from envs.scenario import FleetPlan, ServiceMix
from envs.workloads import gpu_cluster
from envs.workloads.enrich import enrich
from envs.workloads.failures import FailureModel
from envs.workloads.services import generate_services
from orchestrator.kernels.features import Encoding
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.types import TenantSpec

__all__ = ["CrowdedClusters"]

_NODES = 64
_LOAD = 8.0  # far more than it can do: the queue fills the window
_JOBS = 2048
_SERVICES, _SPARE, _TICKS = 4, 8, 120_000
_WARM = 1500  # steps until it has
_WAITS = 0.5  # share of steps that wait: otherwise arrivals are rarer than what is done with them


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
