"""An environment and a live engine in step: a tick shows, and allows, the same, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from agents.deploy import BundlePolicy
from envs.config import AUTOSCALING
from envs.scenario import FleetPlan, Scenario, ServiceMix
from envs.session import Session
from orchestrator.engine.engine import Engine
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.state.codes import FOREVER_MS, JobKind, NodeCode, Reason
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.mesh.specs import BreakerSpec
from orchestrator.messages import (
    Command,
    Decide,
    Decommission,
    Entry,
    FleetSeen,
    Register,
    Review,
    ServiceSeen,
    Sizing,
    Submit,
    Tick,
)
from orchestrator.types import JobPriority, JobSpec
from tests.agents.live.sizing_cases import random_scorer
from tests.envs.scaling_cases import bare_trace, mix_of, spec

_TICKS, _SPARE = 60, 2
_CONFIG = replace(
    AUTOSCALING, services=2, capacity_steps=2, episode_ticks=_TICKS, advice="fcfs+predictive"
)
_EXCESS = _CONFIG.schema.globals.index("tenant_excess")
_SEEN = ("services", "capacity", "global", "advice", "action_mask")


def _mix(seed: int) -> ServiceMix:
    """Two services: one falls sick now and then, the other is limited by its queue."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(2.0, 12.0, _TICKS).astype(np.float32)
    ahead = rng.gamma(2.0, 12.0, (2, _TICKS)).astype(np.float32)
    sick = spec("a", sick_per_hour=4.0, sick_seconds=90.0, breaker=BreakerSpec(ratio=0.0))
    slow = spec("b", slots=2, service_ms=400.0, queue_limit=100.0)
    return mix_of(rates, sick, slow, startup_seconds=90.0, down_window_s=120.0, forecast=ahead)


@dataclass
class _InStep:
    """An episode, and a live engine to which the same happens."""

    seed: int
    session: Session = field(init=False)
    engine: Engine = field(init=False)
    policy: BundlePolicy = field(init=False)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        trace, self.mix = bare_trace(nodes=2), _mix(self.seed)
        fleet = FleetPlan(_SPARE, 90.0, least=1, down_window_s=120.0)
        scenario = Scenario(services=self.mix, fleet=fleet)
        self.session = Session(trace, _CONFIG, 1, np.zeros(1, np.int64), scenario=scenario)
        self.session.reset()
        scorer = random_scorer(self.seed, _CONFIG)
        self.policy = BundlePolicy(scorer, _CONFIG)
        shape = ClusterShape(envs=1, jobs=8, workers=8, nodes=2 + _SPARE, devices=4)
        self.engine = Engine(shape, nodes=trace.nodes, semantics=self.session.config, check=True)
        self.kind = replace(trace.nodes[0], node_id="rented")
        self.names = [node.node_id for node in trace.nodes] + [""] * _SPARE
        for k in range(_SPARE):  # all rows of the table were in use once, as they are there
            self.tell(0, Register(replace(self.kind, node_id=f"gone-{k}")))
        for k in range(_SPARE):
            self.tell(0, Decommission(f"gone-{k}"))
        for one in self.mix.specs:
            self.tell(0, Submit(_service(one, self.mix)))
        self.tell(0, Review())
        self.decide(0)
        assert len(self.engine.placed()) == len(self.mix.specs)

    def tell(self, time_ms: int, body: Command) -> None:
        assert self.engine.handle(Entry(time_ms, body)).reason == Reason.OK

    def decide(self, time_ms: int) -> tuple[Any, ...]:
        """Have the bundle decide live, once; its choices."""
        thought = self.policy.consider(self.engine.snapshot())
        self.tell(time_ms, Decide(thought.plan))
        return thought.choices

    def is_up(self) -> np.ndarray:
        row = self.session.state.rows[0]
        return self.session.state.node[0]["state"][: row["num_nodes"]] == NodeCode.UP

    def tick(self) -> None:
        """One decision point of the episode, and the same tick live."""
        now_ms, before = int(self.session.now_ms[0]), self.is_up()
        self.tell(now_ms, self.seen())
        for choice in self.decide(now_ms):
            assert self.session.now_ms[0] == now_ms
            shown = self.session.observation(0)
            for name in _SEEN:
                live, there = choice.observation[name].copy(), shown[name].copy()
                if name == "global":  # live services are charged to somebody
                    live[_EXCESS] = there[_EXCESS] = 0.0
                np.testing.assert_array_equal(live, there, name)
            self.session.step(np.array([choice.chosen]))
            self.session.require_legal()
            heads = self.session.schema.actions.heads
            self.used |= {h.name for h in heads if 0 <= choice.chosen - h.offset < h.size}
        assert self.session.now_ms[0] > now_ms or self.session.buffers.terminated[0]
        self.follow(now_ms, before)

    def follow(self, now_ms: int, before: np.ndarray) -> None:
        """Nodes leave and arrive as they did in the episode meanwhile."""
        nodes, after = self.session.state.node[0], self.is_up()
        for n in np.flatnonzero(before & ~after).tolist():
            self.tell(now_ms, Decommission(self.names[n]))
        for n in np.flatnonzero(~before & after).tolist():
            arrived_ms = int(nodes["arrive_ms"][n])
            self.names[n] = f"rented-{n}-{arrived_ms}"
            self.tell(arrived_ms, Register(replace(self.kind, node_id=self.names[n]), rented=True))

    def seen(self) -> Tick:
        """What a tick of the episode says of services and fleet."""
        state, row = self.session.state, self.session.state.rows[0]
        assert self.mix.forecast is not None
        services = []
        for s, one in enumerate(self.mix.specs):
            own: Any = state.service[0, s]
            told = {name: float(own[name]) for name in ("rate_rps", "latency_ms", "missed_share")}
            services.append(
                ServiceSeen(
                    job_id=one.name,
                    slots=one.slots,
                    service_ms=one.service_ms,
                    objective_ms=one.objective_ms,
                    sizing=_sizing(state.plan[0, s + 1]),
                    ahead_rps=float(self.mix.forecast[s, int(row["tick"])])
                    if row["tick"] < _TICKS
                    else float(own["rate_rps"]),
                    backlog=float(own["backlog"]),
                    ready=int(own["ready"]),
                    breaker=int(own["breaker_mode"]) if own["sick"] else int(BreakerMode.CLOSED),
                    **told,
                )
            )
        states = state.node[0]["state"][: row["num_nodes"]]
        size = int(self.is_up().sum() + row["arrival_len"])
        fleet = FleetSeen(
            kind=self.kind,
            coming=int(row["arrival_len"]),
            spare=int((states == NodeCode.ABSENT).sum()),
            surplus=size - int(row["min_nodes"]),
            sizing=_sizing(state.plan[0, 0]),
            scaled_ms=int(row["scaled_ms"]),
            scaled_by=int(row["scaled_by"]),
        )
        return Tick(self.mix.tick_ms, tuple(services), fleet)


def _sizing(plan: Any) -> Sizing:
    return Sizing(**{name: plan[name].item() for name in plan.dtype.names})


def _service(one: Any, mix: ServiceMix) -> JobSpec:
    return JobSpec(
        *(one.name, one.name, JobPriority.PRODUCTION, one.replicas, mix.gpus),
        memory_per_worker_gb=float(mix.memory_gb),
        max_duration_hours=FOREVER_MS / 3_600_000,
        checkpoint_interval_steps=0,
        cpus_per_worker=float(mix.cpus),
        elastic=True,
        min_workers=one.min_replicas,
        max_workers=one.max_replicas,
        regroup_seconds=mix.startup_seconds,
        checkpoint_seconds=0.0,
        restart_seconds=0.0,
        preemptible=False,
        kind=JobKind.SERVICE,
    )


@pytest.mark.property
def test_a_tick_shows_and_allows_the_same_live_as_in_an_environment() -> None:
    used, ticks = set[str](), 0
    for seed in range(6):
        play = _InStep(seed)
        while not play.session.buffers.terminated[0]:
            play.tick()
            ticks += 1
        used |= play.used
    assert ticks > 100
    assert used == {"scale_in", "scale_out", "fewer_replicas", "more_replicas", "wait"}
