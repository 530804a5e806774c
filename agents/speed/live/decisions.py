"""A learned policy's decision on a live cluster: snapshot, description, network, what it means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from agents.deploy import BundlePolicy
from agents.linear.policy import LinearScorer
from agents.ppo.model import ScorerPolicy, SetScorer
from agents.problem import BatchPolicy
from agents.speed.live.questions import LiveCluster
from envs.config import AUTOSCALING, CLUSTER, EnvConfig
from orchestrator.deployment import Guards, PolicyDeployment
from orchestrator.engine.engine import Engine, Room
from orchestrator.kernels.state.codes import NO_CHANGE_MS, JobKind, RuleKey
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import (
    Decide,
    Entry,
    FleetSeen,
    PlaceJob,
    Plan,
    Review,
    ServiceSeen,
    Sizing,
    Submit,
    Tick,
    Wait,
)
from orchestrator.scheduling.schema import advice_column, feature_names
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["Decisions", "LearnedDecisions", "SizedTicks", "learned_policies"]


_HIDDEN = 32
_WAITING = 4  # jobs that wait, per node
_WARM = 20


@dataclass(frozen=True)
class Decisions:
    """Times of many decisions, ms: each one's snapshot, and the answer to it."""

    snapshot: tuple[float, ...]
    answer: tuple[float, ...]
    actions: float

    def total(self, percentile: float) -> float:
        """Of snapshot and answer together."""
        both = np.add(self.snapshot, self.answer)
        return float(np.percentile(both, percentile))


def _config() -> EnvConfig:
    """What the published policies of clusters see: 32 jobs, 16 victims, 16 elastic jobs."""
    return replace(
        CLUSTER,
        window=32,
        window_order=RuleKey.SRTF,
        victims=16,
        elastics=16,
        advice="elastic_srtf",
    )


def learned_policies() -> dict[str, BundlePolicy]:
    """A network and a linear scorer, of untrained weights: these cost what trained ones do."""
    config = _config()
    schema = config.schema
    torch.manual_seed(0)
    prior = {advice_column(schema, by_head=True): 1.0}
    width = len(feature_names(schema, by_head=True))
    scorer = SetScorer(width, len(schema.globals), _HIDDEN, prior)
    torch.nn.init.normal_(scorer.out.weight, std=0.1)
    weights = np.random.default_rng(0).normal(0.0, 0.1, width)
    weights[-1] = 1.0
    made: dict[str, BatchPolicy] = {
        "ppo": ScorerPolicy(scorer.state_dict(), schema, _HIDDEN, by_head=True),
        "linear": LinearScorer(weights, schema),
    }
    return {name: BundlePolicy(policy, config, name) for name, policy in made.items()}


class SizedTicks:
    """A cluster of services, and a linear scorer that sizes them and the fleet at every tick.

    It follows the advice of predictive scaling, replica by replica, as the published one begins.

    Parameters
    ----------
    nodes : int
        Of 8 GPUs; an eighth as many may be ordered.
    now : callable
        The clock, seconds.
    """

    def __init__(self, nodes: int, now: Callable[[], float]) -> None:
        self._now, self._nodes = now, nodes
        specs = [NodeSpec(f"n{k}", 8, 80.0, 64, 512.0, 100.0, "NVLink") for k in range(nodes)]
        shape = ClusterShape(envs=1, jobs=16, workers=64, nodes=nodes + nodes // 8, devices=8)
        self._engine = Engine(shape, nodes=specs)
        for k in range(AUTOSCALING.services):
            spec = JobSpec(
                *(f"service-{k}", "", JobPriority.PRODUCTION, 8, 1, 1.0, 1e4, 0),
                kind=JobKind.SERVICE,
                elastic=True,
                max_workers=64,
            )
            self._engine.handle(Entry(0, Submit(spec)))
        self._engine.handle(Entry(0, Review()))
        places = tuple(PlaceJob(f"service-{k}") for k in range(AUTOSCALING.services))
        self._engine.handle(Entry(0, Decide(Plan(places))))
        config = replace(AUTOSCALING, advice="fcfs+predictive")
        width = len(feature_names(config.schema, by_head=True))
        weights = np.zeros(width)
        weights[-1] = 1.0
        self._policy = BundlePolicy(LinearScorer(weights, config.schema), config)
        self.choices = 0  # of all ticks that were timed

    def times(self, count: int) -> list[float]:
        """How long ticks take, ms: they are applied, a copy is made and shown, and decided on."""
        rng, times, room = np.random.default_rng(0), list[float](), Room()
        for k in range(count + _WARM):
            tick = self._tick(rng)
            begun = self._now()
            self._engine.handle(Entry(60_000 * (k + 1), tick))
            thought = self._policy.consider(self._engine.snapshot(room))
            if k >= _WARM:
                times.append(1e3 * (self._now() - begun))
                self.choices += len(thought.choices)
            self._engine.handle(Entry(60_000 * (k + 1), Decide(thought.plan)))
        return times

    def _tick(self, rng: np.random.Generator) -> Tick:
        sizing = Sizing(5.0, 0.7, 0.1, 1, 64, 0, 0, 0, 0)
        rates = rng.uniform(30.0, 50.0, AUTOSCALING.services).tolist()
        services = tuple(
            ServiceSeen(f"service-{k}", 1, 200.0, 1e3, sizing, rate, rate, 300.0, 0.0, 0.0, 8, 0)
            for k, rate in enumerate(rates)
        )
        kind = NodeSpec("rented", 8, 80.0, 64, 512.0, 100.0, "NVLink")
        spare, whole = self._nodes // 8, replace(sizing, unit_capacity=8000.0)
        return Tick(60_000, services, FleetSeen(kind, 0, spare, 0, whole, NO_CHANGE_MS, 0))


class LearnedDecisions:
    """A crowded cluster in which jobs end, and a policy is asked each time.

    Parameters
    ----------
    nodes : int
        Of 8 GPUs.
    now : callable
        The clock, seconds.
    """

    def __init__(self, nodes: int, now: Callable[[], float]) -> None:
        self._now = now
        self._cluster = LiveCluster(nodes, _WAITING * nodes, "fcfs", now)
        self._cluster.cycle()
        self._room = Room()

    def times(self, policy: BundlePolicy, count: int) -> Decisions:
        """Ask for one decision after each end of a job."""
        engine = self._cluster.orchestrator.engine
        snapshots, answers, actions = list[float](), list[float](), 0
        for k in range(count + _WARM):
            self._open()
            begun = self._now()
            snapshot = engine.snapshot(self._room)
            copied = self._now()
            plan = policy.decide(snapshot)
            ended = self._now()
            if k >= _WARM:
                snapshots.append(1e3 * (copied - begun))
                answers.append(1e3 * (ended - copied))
                actions += len(plan.actions)
            engine.handle(Entry(engine.now_ms, Decide(plan)))
        return Decisions(tuple(snapshots), tuple(answers), actions / count)

    def deployed_ms(self, policy: BundlePolicy, count: int) -> list[float]:
        """CPU time of plans of a deployment: copies, a thread with a deadline, a check, a log.

        A plan may hold several choices. Of all threads of this process, as others take part.
        """
        guards = Guards(deadline_ms=10_000.0, pairs=10**9)
        deployment = PolicyDeployment(None, lambda bundle: policy, guards=guards)
        asyncio.run(deployment.activate("this"))
        engine, times = self._cluster.orchestrator.engine, list[float]()
        for k in range(count + _WARM):
            self._open()
            deployment.drain()  # what is compared beside it is not part of the answer
            snapshot = engine.snapshot(self._room)
            begun = time.process_time()
            plan = deployment.plan(snapshot)
            if k >= _WARM:
                times.append(1e3 * (time.process_time() - begun))
            engine.handle(Entry(engine.now_ms, Decide(plan)))
        deployment.close()
        return times

    def _open(self) -> None:
        """Let a job end, and open a decision point; what was left of the last one waits."""
        engine = self._cluster.orchestrator.engine
        if engine.decision_open:
            engine.handle(Entry(engine.now_ms, Decide(Plan((Wait(),)))))
        self._cluster.end()
        engine.handle(Entry(engine.now_ms, Review()))
