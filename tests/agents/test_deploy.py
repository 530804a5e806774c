"""The same bundle decides alike in an environment's row and inside a live orchestrator."""

from __future__ import annotations

import asyncio
import random
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.bundle import (
    Origin,
    PolicyParts,
    load_bundle,
    read_manifest,
    restore_environment,
    save_bundle,
)
from agents.deploy import BundlePolicy
from agents.linear.policy import LinearScorer
from agents.ppo.model import ScorerPolicy, SetScorer
from agents.problem import BatchPolicy
from envs.config import JOB_ORDERING, PLACEMENT, EnvConfig
from envs.session import Session
from envs.workloads import Trace
from orchestrator.engine.records import request_record
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import EventKind, RuleKey
from orchestrator.kernels.state.records import INCIDENT_DTYPE
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import Plan
from orchestrator.ports import Sized
from orchestrator.scheduling.schema import advice_column, feature_names
from orchestrator.types import JobPriority, JobSpec, NodeSpec
from tests.engine import drivers
from tests.engine.cases import Case
from tests.engine.drivers import Live
from tests.kernels.run.test_scorer import ELASTIC

JOBS = 40
CONFIG = replace(
    ELASTIC,
    window=10,
    victims=6,
    elastics=5,
    migrate=True,
    episode_jobs=JOBS,
    min_run_seconds=120.0,
    window_order=RuleKey.SRTF,
)
SHAPE = ClusterShape(envs=1, jobs=JOBS, workers=8, nodes=4, devices=4, incidents=8, log=1 << 15)
_HOUR_MS = 3_600_000
_PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "philly"
_REGROUP = (
    {"regroup_seconds": 7.0} if "regroup_seconds" in {f.name for f in fields(JobSpec)} else {}
)


@cache
def window(seed: int) -> Case:
    """A busy morning: gangs, elastic jobs, estimates that are wrong, and machines that fail."""
    dice = random.Random(seed)
    nodes = tuple(
        NodeSpec(
            node_id=f"node-{n}",
            gpus=4,
            gpu_memory_gb=80.0,
            cpu_cores=0,
            memory_gb=0.0,
            network_bandwidth_gbps=100.0,
            gpu_topology="NVLink",
            rack=n // 2,
        )
        for n in range(4)
    )
    jobs, submit_ms = [], 0
    for number in range(JOBS):
        workers = dice.choice([1, 1, 2, 4])
        elastic = workers > 1 and dice.random() < 0.7
        hours = dice.choice([0.05, 0.2, 0.5, 2.0]) * dice.uniform(0.5, 1.5)
        spec = JobSpec(
            job_id=f"job-{number}",
            name="",
            priority=dice.choice(list(JobPriority)),
            num_workers=workers,
            gpus_per_worker=1,
            memory_per_worker_gb=0.0,
            duration_hours=hours,
            max_duration_hours=hours * dice.uniform(0.6, 3.0),
            checkpoint_interval_steps=600,
            checkpoint_seconds=20.0,
            restart_seconds=30.0,
            preemptible=dice.random() < 0.9,
            elastic=elastic,
            min_workers=max(workers // 2, 1),
            max_workers=2 * workers,
            **_REGROUP,
        )
        jobs.append((submit_ms, spec))
        submit_ms += 100 * dice.randrange(0, 2400)
    down, up = EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY
    hours_of = [(0.3, down, 1), (0.6, up, 1), (1.0, down, 0), (1.1, down, 2), (1.5, up, 0)]
    incidents = tuple((int(_HOUR_MS * h), kind, n) for h, kind, n in [*hours_of, (1.7, up, 2)])
    return Case(nodes, tuple(jobs), incidents, CONFIG, seed)


def linear(seed: int) -> LinearScorer:
    schema = CONFIG.schema
    weights = np.random.default_rng(seed).normal(
        0.0, 0.15, len(feature_names(schema, by_head=True))
    )
    weights[-1] = 1.0
    weights[feature_names(schema, by_head=True).index("head:migrate")] += 1.2
    return LinearScorer(weights, schema)


def network(seed: int) -> ScorerPolicy:
    torch.manual_seed(seed)
    schema = CONFIG.schema
    prior = {advice_column(schema): 1.0}
    scorer = SetScorer(len(feature_names(schema)), len(schema.globals), 8, prior)
    torch.nn.init.normal_(scorer.out.weight, std=0.5)
    return ScorerPolicy(scorer.state_dict(), schema, 8)


def play_row(
    case: Case, policy: BatchPolicy, config: EnvConfig = CONFIG
) -> tuple[Session, set[str]]:
    """The case as an episode of an environment's row; kinds of heads that were used."""
    requests = np.concatenate([request_record(spec, submit, 0) for submit, spec in case.jobs])
    trace = Trace("window", requests, nodes=case.nodes)
    session = Session(
        trace, config, 1, np.zeros(1, np.int64), np.array(list(case.incidents), INCIDENT_DTYPE)
    )
    heads = session.schema.actions.heads
    used = set[str]()
    session.reset(windows=np.zeros(1, np.int64))
    while not session.buffers.terminated[0]:
        seen = session.observation()
        action = policy.actions(seen, seen["action_mask"].astype(np.bool_))
        used |= {head.name for head in heads if 0 <= action[0] - head.offset < head.size}
        session.step(action)
        session.require_legal()
    return session, used


class Counting:
    """A policy, and the kinds of actions that it chose."""

    def __init__(self, policy: BundlePolicy) -> None:
        self.policy, self.kinds = policy, set[str]()

    def decide(self, snapshot: Snapshot) -> Plan:
        plan = self.policy.decide(snapshot)
        self.kinds |= {type(action).__name__ for action in plan.actions}
        return plan


class Planning(Counting):
    """The same, asked for all that it would decide until it waits."""

    longest = 0

    def decide(self, snapshot: Snapshot) -> Plan:
        plan = self.policy.plan(snapshot)
        self.kinds |= {type(action).__name__ for action in plan.actions}
        self.longest = max(self.longest, len(plan.actions))
        return plan


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [linear, network])
def test_a_bundle_decides_alike_in_a_row_and_live(
    make, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "SHAPE", SHAPE)
    policy = make(seed)
    kind = "ppo" if isinstance(policy, ScorerPolicy) else "linear_scorer"
    weights = policy.state() if kind == "ppo" else {"weights": policy.weights}
    parts = PolicyParts(kind, weights, model={"hidden": 8} if kind == "ppo" else {})
    bundle = save_bundle(tmp_path / "bundle", parts, Origin(CONFIG, seed))
    kinds = _require_same(window(seed), bundle, CONFIG)
    assert {"PlaceJob", "ResizeJob", "Wait"} <= kinds


def _require_same(case: Case, bundle: Path, config: EnvConfig) -> set[str]:
    """Demand the same history of a bundle in a row and live; kinds of actions that it took."""
    session, _ = play_row(case, load_bundle(bundle, config.schema), config)
    row, kinds = session.state.rows[0], set[str]()
    for live in (Counting(BundlePolicy.load(bundle)), Planning(BundlePolicy.load(bundle))):
        trace = asyncio.run(Live(case, live).finish())
        expected = {name: row[name].item() for name in trace.totals if name != "point"}
        assert {name: trace.totals[name] for name in expected} == expected
        assert len(trace.log) == row["log_count"]
        assert trace.log_hash == row["log_hash"]
        assert row["completed_jobs"] == JOBS
        kinds |= live.kinds
    assert live.longest > 2  # one question, several actions
    return kinds


@pytest.mark.parametrize("name", ["cma", "ppo"])
def test_published_bundles_decide_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "SHAPE", SHAPE)
    bundle = _PUBLISHED / name
    trained = restore_environment(read_manifest(bundle).environment)
    config = replace(trained, episode_jobs=JOBS)
    case = replace(window(1), semantics=config)
    assert {"PlaceJob", "PreemptJob", "ResizeJob", "Wait"} <= _require_same(case, bundle, config)


def test_all_kinds_of_actions_are_taken_by_some_bundle() -> None:
    sizes = {head.name: head for head in CONFIG.schema.actions.heads if head.size > 0}
    counts = dict.fromkeys(sizes, 0)
    interruptions = 0
    for seed in range(3):
        session, used = play_row(window(seed), linear(seed))
        for name in used:
            counts[name] += 1
        interruptions += int(session.state.rows[0]["interruptions"])
    assert min(counts.values()) > 0, counts
    assert interruptions > 0


def test_a_policy_says_what_it_sizes() -> None:
    assert BundlePolicy(linear(0), CONFIG).sizes == Sized()
    for head, sizes in (({"services": 2}, Sized(2)), ({"capacity_steps": 1}, Sized(nodes=True))):
        assert BundlePolicy(linear(0), replace(CONFIG, **head)).sizes == sizes


def test_nodes_by_number_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not nodes by number"):
        BundlePolicy(linear(0), PLACEMENT)


def test_the_published_encoding_is_refused() -> None:
    config = replace(JOB_ORDERING, encoding=Encoding.PUBLISHED)
    with pytest.raises(ConfigurationError, match="published encoding"):
        BundlePolicy(linear(0), config)
