"""Trained policies that think ahead: in evaluations, and in charge of a live cluster."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.bundle import (
    BundleError,
    Origin,
    PolicyParts,
    read_lookahead,
    save_bundle,
    write_lookahead,
)
from agents.deploy import BundlePolicy
from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.linear.policy import LinearRanker, LinearScorer
from agents.planning.lookahead import LookaheadPolicy, advised_scorer
from agents.problem import RowPolicy, Windows
from envs import (
    AUTOSCALING,
    CLUSTER,
    JOB_ORDERING,
    PLACEMENT,
    RewardConfig,
    RowsView,
    Scenario,
)
from envs.scenario import FleetPlan
from envs.workloads import gpu_cluster, lublin_feitelson
from envs.workloads.failures import FailureModel
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.ahead import LookaheadConfig, Thinker
from orchestrator.scheduling.rules import rule_named
from tests.agents.evaluation.test_play import same
from tests.agents.test_deploy import CONFIG, JOBS, SHAPE, linear, window
from tests.engine import drivers
from tests.engine.drivers import Live
from tests.envs.scaling_cases import bare_trace, mix_of

FEW = LookaheadConfig(3, futures=2, arrivals=8)


def advised(config: Any) -> LinearScorer:
    """Follows the advice but for what a few features say."""
    schema = config.schema
    return LinearScorer.from_names({"advice": 1.0}, schema)


@pytest.fixture(scope="module")
def ordering() -> Windows:
    trace = lublin_feitelson(3000, 5)
    config = replace(JOB_ORDERING, episode_jobs=96, backfill=True)
    return Windows(trace, config, np.array([2000, 2200, 2400, 2600]))


def test_threads_and_the_order_of_windows_change_nothing(ordering: Windows) -> None:
    ranker = LinearRanker.from_names({"log_request": -1.0})
    policy = LookaheadPolicy(ranker, FEW, ordering.trace.requests[:1800])
    assert isinstance(policy, RowPolicy)
    ended: list[int] = []
    alone = evaluate_policy(policy, ordering, keep_jobs=2, advance=ended.append)
    assert (alone.policy, alone.learned, sum(ended)) == ("linear_ranker_ahead", True, 4)
    same(evaluate_policy(policy, ordering, keep_jobs=2, threads=2), alone)
    base = evaluate_policy(ranker, ordering, keep_jobs=0)
    assert not np.array_equal(base.values["bounded_slowdown"], alone.values["bounded_slowdown"])
    assert (alone.values["unfinished"] == 0).all()


def test_one_action_is_the_base_itself(ordering: Windows) -> None:
    only = replace(FEW, actions=1)
    for base in (LinearRanker.from_names({"log_request": -1.0, "fits_now": 0.3}), rule_named("f1")):
        mine = evaluate_policy(LookaheadPolicy(base, only), ordering, keep_jobs=1)
        if isinstance(base, LinearRanker):
            same(replace(evaluate_policy(base, ordering, keep_jobs=1), policy=mine.policy), mine)
        else:
            theirs = evaluate_rule(base, ordering, keep_jobs=1)
            same(replace(theirs, policy=mine.policy, learned=True), mine)


def clusters() -> dict[str, Windows]:
    starts = np.array([0, 120])
    gpu = gpu_cluster(300, 4, nodes=4, gpus_per_node=4, load=1.3)
    cluster = replace(CLUSTER, episode_jobs=40, advice="srtf", victims=4, window=8)
    pods = replace(PLACEMENT.for_nodes(4), episode_jobs=40, advice="fgd")
    ticks = replace(AUTOSCALING, services=1, capacity_steps=2, episode_ticks=20)
    ticks = replace(ticks, advice="fcfs+reactive")
    rates = 20.0 + 15.0 * np.sin(np.arange(4000) / 229.0)
    around = Scenario(services=mix_of(rates), fleet=FleetPlan(spare=2))
    return {
        "cluster": Windows(gpu, cluster, starts),
        "placement": Windows(gpu, pods, starts),
        "autoscaling": Windows(bare_trace(), ticks, np.array([2000, 3000]), around),
    }


@pytest.mark.parametrize(
    ("kind", "roll"),
    [("cluster", "srtf"), ("placement", "fgd"), ("autoscaling", "fcfs+reactive")],
)
def test_every_environment_can_be_thought_ahead(kind: str, roll: str) -> None:
    windows = clusters()[kind]
    settings = replace(FEW, roll=roll, ticks=10, errors=0.0)
    policy = LookaheadPolicy(advised(windows.config), settings, windows.trace.requests[:100])
    counts = []
    session = windows.played_out().session(1)
    play = policy.player_on(session)
    for index in range(2):
        session.begin(np.array([index]))
        counts.append(play())
        assert session.state.rows[0]["done"] == 1
    assert all(0 < count["tried"] <= count["decisions"] for count in counts)
    if kind != "placement":  # so few pods find room wherever the first ones went
        assert sum(count["switched"] for count in counts) > 0
    # With one action to choose from it is the base itself, which sees a fork as it sees the row.
    only = LookaheadPolicy(policy.base, replace(settings, actions=1))
    mine, theirs = (evaluate_policy(each, windows, keep_jobs=1) for each in (only, policy.base))
    same(mine, theirs)


def test_a_rule_may_try_actions_of_all_kinds() -> None:
    windows = clusters()["cluster"]
    base = advised_scorer("srtf", {"advice": 10.0, "preempt:helps": 0.1}, windows.config)
    mine = evaluate_policy(base, windows, keep_jobs=0)
    theirs = evaluate_rule("srtf", windows, keep_jobs=0)
    np.testing.assert_array_equal(mine.values["wait"], theirs.values["wait"])
    with pytest.raises(ConfigurationError, match=r"advised by 'srtf'; set env\.advice=f1"):
        advised_scorer("f1", {"advice": 10.0}, windows.config)


def test_what_is_known_of_repairs_is_what_the_scenario_says(
    ordering: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    pasts: list[Any] = []
    monkeypatch.setattr(Thinker, "play", lambda self, state, past: pasts.append(past) or {})
    model = FailureModel(repair_quantiles=(1.0, 2.0, 50.0), repair_probabilities=(0.0, 0.5, 1.0))
    for failures in (None, model):
        windows = replace(ordering, scenario=Scenario(failures=failures))
        LookaheadPolicy(rule_named("f1"), FEW).player_on(windows.session(1))()
    without, known = (past.repairs_ms for past in pasts)
    assert len(without) == 0
    assert (np.diff(known) > 0).all()
    assert np.median(known) == pytest.approx(2 * 3_600_000, rel=0.01)
    assert known.mean() == pytest.approx(model.mean_repair_days * 86_400_000, rel=0.01)


def test_who_is_not_known_to_the_engine_is_refused() -> None:
    class Other:
        name = "other"

        def actions(self, observation: Any, mask: Any) -> Any:
            return mask.argmax(axis=1)

    with pytest.raises(ConfigurationError, match="'other' is no ranker"):
        LookaheadPolicy(Other())


def waited(view: RowsView) -> NDArray[np.float64]:
    return view.row["wait_ms"] / 1000.0


def test_what_futures_cannot_be_judged_by_is_refused() -> None:
    config = replace(JOB_ORDERING, reward=RewardConfig({waited: 1.0}))
    policy = LookaheadPolicy(rule_named("f1"), FEW)
    with pytest.raises(ConfigurationError, match=r"^lookahead: .*leave out .*:waited, or let"):
        policy.thinker(SHAPE, config)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"actions": 0}, "'actions' is 0"),
        ({"futures": 5000}, "at most 1024"),
        ({"arrivals": -1}, "'arrivals' is -1"),
        ({"errors": "much"}, "'errors' is 'much'"),
        ({"futures": True}, "'futures' is True"),
        ({"roll": "nobody"}, "unknown rule 'nobody'"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        LookaheadConfig(**wrong)


# --- live ---


def test_a_bundle_thinks_ahead_in_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "SHAPE", SHAPE)
    policy = linear(0)
    parts = PolicyParts("linear_scorer", {"weights": policy.weights})
    bundle = save_bundle(tmp_path / "bundle", parts, Origin(CONFIG, 0))
    plain = BundlePolicy.load(bundle)
    settings = LookaheadConfig(3, futures=2, arrivals=6, errors=0.0, roll="elastic_srtf")
    assert read_lookahead(bundle) is None
    write_lookahead(bundle, settings)
    assert read_lookahead(bundle) == settings
    logs, thought, switched = [], 0, 0
    for _ in range(2):
        ahead = BundlePolicy.load(bundle)
        assert ahead.digest != plain.digest
        assert ahead.name.endswith("_ahead")
        asked = Considering(ahead)
        logs.append(asyncio.run(Live(window(0), asked).finish()))
        thought, switched = asked.thought, asked.switched
    assert logs[0].log_hash == logs[1].log_hash
    assert logs[0].totals["completed_jobs"] == JOBS
    assert 0 < switched < thought


class Considering:
    """Plans as it is asked to live, and counts choices that are not the best at first sight."""

    def __init__(self, policy: BundlePolicy) -> None:
        self.policy, self.thought, self.switched = policy, 0, 0

    def decide(self, snapshot: Any) -> Any:
        considered = self.policy.consider(snapshot)
        for choice in considered.choices:
            assert choice.chosen in choice.actions
            self.thought += 1
            self.switched += choice.chosen != choice.actions[choice.scores.argmax()]
        return considered.plan


@pytest.mark.parametrize("head", [{"services": 1}, {"capacity_steps": 1}])
def test_who_sizes_does_not_think_ahead_live(head: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="cannot think ahead on a live"):
        BundlePolicy(linear(0), replace(CONFIG, **head), lookahead=LookaheadConfig())


def test_a_damaged_lookahead_is_refused(tmp_path: Path) -> None:
    bundle = save_bundle(
        tmp_path / "bundle",
        PolicyParts("linear_scorer", {"weights": linear(0).weights}),
        Origin(CONFIG, 0),
    )
    (bundle / "lookahead.json").write_text('{"actions": 0}')
    with pytest.raises(BundleError, match=r"lookahead.json.*'actions' is 0.*delete it"):
        BundlePolicy.load(bundle)
    (bundle / "lookahead.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        read_lookahead(bundle)
