"""What scaling costs: rewards add up to the metrics, and do not depend on who scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs import RewardConfig, Session
from envs.scaling import FleetPlan
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.codes import LogKind, NodeCode
from orchestrator.scheduler.rules import rule_named
from tests.envs.cases import keep_log, pick_legal, play
from tests.envs.scaling_cases import (
    MINUTE_MS,
    SCALING_CASES,
    busy_scenario,
    mix_of,
    play_of,
)

_PAID = (NodeCode.UP, NodeCode.DRAINING, NodeCode.PROVISIONING)
_TOTALS = {
    "node_cost": lambda row: row["cost_milli_ms"] / 3.6e9,
    "service_violations": lambda row: row["request_violations"],
    "shed": lambda row: row["requests_shed"],
    "completion_time": lambda row: row["job_ms"] / 1000,
}


def _cost_by_the_log(session: Session, e: int) -> float:
    """Price of the nodes paid for, integrated from the records of their states."""
    row, nodes = session.state.rows[e], session.source.episode.nodes
    states = nodes["state"].astype(int).copy()
    count = int(row["log_count"])
    assert count <= session.state.shape.log
    begin = int(session.state.request[e, 0]["submit_ms"])
    log = session.state.log[e, :count]
    events = [
        (int(x["time_ms"]), int(x["subject"]), int(x["value"]))
        for x in log[log["kind"] == LogKind.NODE_STATE]
    ]
    total, now = 0.0, begin
    for time_ms, n, value in [*events, (int(row["now_ms"]), -1, 0)]:
        total += (time_ms - now) * nodes["price_milli"][np.isin(states, _PAID)].sum()
        now = time_ms
        if n >= 0:
            states[n] = value
    return total / 3.6e9


@pytest.mark.parametrize("form", ["dense", "terminal"])
@pytest.mark.parametrize("name", ["autoscaling", "full"])
@pytest.mark.parametrize("term", [*_TOTALS, "all"])
def test_rewards_add_up_to_the_metrics(name: str, form: str, term: str) -> None:
    weights = {t: 1.5 + k for k, t in enumerate(_TOTALS)} if term == "all" else {term: 2.0}
    session = SCALING_CASES[name].session(3, reward=RewardConfig(weights, form))
    keep_log(session)
    session.reseed(np.arange(3, dtype=np.uint64))
    paid = play(session, np.random.default_rng(1)).sum(axis=0)
    for e in range(3):
        row = session.state.rows[e]
        total = sum(weight * float(_TOTALS[t](row)) for t, weight in weights.items())
        assert paid[e] == pytest.approx(-total)
        assert _cost_by_the_log(session, e) == pytest.approx(_TOTALS["node_cost"](row))
        own = session.state.service[e]
        assert row["request_violations"] == pytest.approx(own["violations"].sum())
        assert row["requests_shed"] == pytest.approx(own["shed"].sum())
        assert row["requests_offered"] > 0
        assert_invariants(session.state, e)
    if name == "autoscaling" and term == "completion_time":
        assert not paid.any()  # services are no jobs that anybody waits for
    assert session.state.service["shed"][:, 1].sum() > 0


def test_scaled_rewards_are_finite_where_the_reference_costs_nothing() -> None:
    """An episode without jobs in which nothing is missed: its scale divides by nothing."""
    reward = RewardConfig({"shed": 1.0}, reference="fcfs")
    play_ = play_of(mix_of([5.0] * 40), reward=reward)
    while not play_.done:
        play_.act("wait")
        assert np.isfinite(play_.session.buffers.reward).all()
    assert play_.session.buffers.scale[0] == 1.0
    costly = play_of(
        mix_of([30.0] * 40), reward=RewardConfig({"service_violations": 1.0}, reference="fcfs")
    )
    total = 0.0
    while not costly.done:
        costly.act("wait")
        total += float(costly.session.buffers.reward[0])
    assert total == pytest.approx(-1.0, abs=1e-3)  # doing nothing costs what the reference does


def test_node_cost_is_the_price_of_an_hour() -> None:
    play_ = play_of(mix_of([5.0] * 40), FleetPlan(spare=1, price=3.0))
    total = float(play_.session.buffers.reward[0])
    while not play_.done:
        play_.act("wait")
        total += float(play_.session.buffers.reward[0])
    missed = 0.01 * float(play_.row["request_violations"])
    # Two nodes for ten minutes; the cost of the time up to the first decision is paid with it.
    assert total == pytest.approx(-(2 * 3.0 / 6 + missed))
    assert play_.row["now_ms"] == 10 * MINUTE_MS


# --- who scales ----------------------------------------------------------------------------------


_BASES = ("fcfs", "fifo", "srtf", "elastic_srtf", "reclaim")


@pytest.mark.parametrize("mode", ["reactive", "predictive"])
@pytest.mark.parametrize("base", _BASES)
def test_a_rule_scales_as_the_cluster_by_itself(base: str, mode: str) -> None:
    """The same events in the same order, with jobs and without."""
    scenario = busy_scenario()
    for name in ("full", "autoscaling"):
        case = SCALING_CASES[name]
        asked = case.session(4, services=3, capacity_steps=2, scenario=scenario)
        alone = case.session(4, services=0, capacity_steps=0, autoscale=mode, scenario=scenario)
        windows = np.array([0, 31, 62, 113])
        asked.replay(rule_named(f"{base}+{mode}"), windows)
        alone.replay(rule_named(base), windows)
        assert (asked.state.rows["done"] == 1).all()
        for field in (
            "log_hash",
            "log_count",
            "now_ms",
            "resizes",
            "cost_milli_ms",
            "tick",
            "request_violations",
            "job_ms",
            "interruptions",
        ):
            np.testing.assert_array_equal(asked.state.rows[field], alone.state.rows[field], field)
        assert asked.state.rows["resizes"].sum() > 0
        for e in range(4):
            assert_invariants(asked.state, e)


def test_a_rule_leaves_alone_what_its_environment_has_no_actions_for() -> None:
    case = SCALING_CASES["full"]
    windows = np.array([0, 31, 62, 113])

    def played(rule: str, **heads: int) -> Any:
        session = case.session(4, **heads)
        session.replay(rule_named(rule), windows)
        return session.state.rows[["log_hash", "now_ms", "cost_milli_ms"]].tolist()

    neither = {"services": 0, "capacity_steps": 0}
    assert played("fcfs+reactive", **neither) == played("fcfs", **neither)
    both = played("fcfs+reactive")
    assert both != played("fcfs+reactive", services=0)
    assert both != played("fcfs+reactive", capacity_steps=0)


@pytest.mark.parametrize("name", ["full", "autoscaling"])
@pytest.mark.parametrize("windows", [(0.0, 0.0), (120.0, 300.0)])
def test_who_follows_the_advice_does_what_the_rule_does(
    name: str, windows: tuple[float, float]
) -> None:
    """In single steps, of one replica and of two nodes at most: at the end of each instant the
    sizes are the rule's."""
    case, rule = SCALING_CASES[name], "elastic_fcfs+reactive"
    base = busy_scenario()
    assert base.services is not None
    assert base.fleet is not None
    up, down = windows
    services = replace(base.services, up_window_s=up, down_window_s=down, startup_seconds=0.0)
    fleet = replace(base.fleet, up_window_s=up, down_window_s=down)
    scenario = replace(base, services=services, fleet=fleet, failures=None)
    session = case.session(1, advice=rule, scenario=scenario, victims=0, migrate=False)
    twin = case.session(1, scenario=scenario, victims=0, migrate=False)
    twin.replay(rule_named(rule), np.array([7]))
    session.reseed(np.array([7], np.uint64))  # as a replay of window 7 is
    session.reset(windows=np.array([7]))
    rng = np.random.default_rng(0)
    while not session.buffers.terminated[0]:
        advised = int(session.buffers.advised[0])
        assert advised >= 0 or name == "full"
        action = np.array([advised]) if advised >= 0 else pick_legal(session.buffers.mask, rng)
        session.step(action)
        session.require_legal()
    mine, theirs = session.state.rows[0], twin.state.rows[0]
    if name == "autoscaling":
        assert mine["tick"] == theirs["tick"]
        assert mine["replica_ms"] == theirs["replica_ms"]
        assert mine["cost_milli_ms"] == theirs["cost_milli_ms"]
        assert mine["request_violations"] == theirs["request_violations"]
    assert mine["resizes"] >= theirs["resizes"]
