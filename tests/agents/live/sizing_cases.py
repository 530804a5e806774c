"""A live cluster with services, a fleet, and a bundle that sizes both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.bundle import Origin, PolicyParts, save_bundle
from agents.deploy import BundlePolicy
from agents.linear.policy import LinearScorer
from envs.config import AUTOSCALING, EnvConfig
from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.clock import VirtualClock
from orchestrator.deployment import DecisionLog, Guards, PolicyDeployment
from orchestrator.kernels.state.codes import JobKind
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.mesh import ServiceSpec
from orchestrator.ports import ConsensusEngine
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.scheduling.rules import RULES
from orchestrator.scheduling.schema import feature_names, named_vector
from orchestrator.types import JobSpec
from orchestrator.workloads.serving import InferenceJobManager
from tests.engine.builders import Stage, job, node, stage

CONFIG = replace(AUTOSCALING, services=2, capacity_steps=2)
SHAPE = ClusterShape(envs=1, jobs=32, workers=8, nodes=8, devices=4)
FREE = Guards(deadline_ms=None, pairs=1000)
TICK_S = 15

KEEPS_USE = {
    "head:wait": 0.7,
    "more_replicas:use_ahead": 1.0,
    "head:fewer_replicas": 1.2,
    "fewer_replicas:use_if_fewer": -1.0,
    "head:scale_in": -9.0,
    "head:scale_out": -9.0,
}
"""A replica more above 70 % use, one fewer if 50 % would not be reached; nodes stay as they are."""


def scorer(weights: Mapping[str, float], config: EnvConfig = CONFIG) -> LinearScorer:
    """A linear scorer of actions, from weights by feature name."""
    return LinearScorer(named_vector(config.schema, weights, by_head=True), config.schema)


def random_scorer(seed: int, config: EnvConfig) -> LinearScorer:
    """One that uses all heads for no reason."""
    names = feature_names(config.schema, by_head=True)
    weights = np.random.default_rng(seed).normal(0.0, 0.5, len(names))
    return LinearScorer(weights, config.schema)


def bundle(folder: Path, policy: LinearScorer, config: EnvConfig = CONFIG) -> str:
    """The scorer as a bundle."""
    parts = PolicyParts("linear_scorer", {"weights": policy.weights})
    return str(save_bundle(folder, parts, Origin(config, 0)))


def service(name: str, **fields: Any) -> JobSpec:
    """A service of one replica on one GPU, up to six."""
    values: dict[str, Any] = {
        "kind": JobKind.SERVICE,
        "elastic": True,
        "max_workers": 6,
        "max_duration_hours": 1e4,
        "preemptible": False,
    }
    return job(name, **(values | fields))


def rules(name: str, **fields: Any) -> ServiceSpec:
    """A replica serves two requests a second."""
    return ServiceSpec(name, **({"service_ms": 500.0, "max_replicas": 6} | fields))


class Sized:
    """A cluster that somebody sizes every quarter of a minute."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        log: ConsensusEngine | None = None,
        nodes: int = 2,
        provisioner: bool = True,
        plan: ScalingPlan | None = None,
        guards: Guards = FREE,
        load: Callable[[str], BundlePolicy] = BundlePolicy.load,
        **options: Any,
    ) -> None:
        clock = VirtualClock(1_000_000)
        self.clock = clock
        self.decisions = None
        if folder is not None:
            self.decisions = DecisionLog(folder / "decisions" / "decisions.sqlite")
        self.deployment = PolicyDeployment(
            RULES["fcfs"], load, guards=guards, log=self.decisions, clock=clock
        )
        if provisioner:
            options["provisioner"] = SimulatedProvisioner(clock, node("rented"), delay_s=60.0)
        plan = plan or ScalingPlan(4.0, max_size=8, down_window_s=0.0)
        options = {"shape": SHAPE, "policy": self.deployment, **options}
        self.stage: Stage = stage(
            *[node(f"n{k}") for k in range(nodes)],
            clock=clock,
            log=log,
            schedule_on_events=True,
            autoscaler=HorizontalScaler(plan),
            **options,
        )
        self.orchestrator = self.stage.orchestrator
        self.manager = InferenceJobManager(self.orchestrator, down_window_s=0.0)
        self.orchestrator.manage(self.manager)

    async def deploy(self, *names: str, **fields: Any) -> None:
        """Services that start."""
        for name in names:
            await self.manager.deploy(service(name, **fields), rules(name))
        await self.clock.advance_to(self.clock.now_ms())

    def request(self, name: str, rate_rps: float) -> None:
        """Requests of a tick, all of which are answered in time."""
        counts = self.orchestrator.mesh.counts(name)
        count = round(rate_rps * TICK_S)
        counts.offered, counts.within = counts.offered + count, counts.within + count

    async def tick(self, **rates: float) -> None:
        """Let a tick pass, with requests to services, and have the cluster sized."""
        await self.clock.advance_to(self.clock.now_ms() + 1000 * TICK_S)
        for name, rate_rps in rates.items():
            self.request(name, rate_rps)
        await self.orchestrator.auto_scale_cluster()
        await self.clock.advance_to(self.clock.now_ms())
        self.deployment.drain()

    def replicas(self, name: str) -> int:
        """That a service has."""
        return self.manager.replicas(name)

    def close(self) -> None:
        """End its threads."""
        self.deployment.close()
        if self.decisions is not None:
            self.decisions.close()
