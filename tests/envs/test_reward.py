"""What rewards add up to: metrics that can be worked out from what became of each job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import RewardConfig, Session
from envs.reward import TERMS
from envs.scenario import FleetPlan
from orchestrator.errors import ConfigurationError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.state.codes import EventKind, JobCode, LogKind, NodeCode
from orchestrator.scheduling.rules import RULES, rule_named
from tests.envs.cases import (
    CASES,
    all_terms,
    incidents,
    keep_log,
    pick_legal,
    play,
)
from tests.envs.scaling_cases import MINUTE_MS, SCALING_CASES, busy_scenario, mix_of, play_of

_FAILURES = incidents()[incidents()["kind"] != EventKind.NODE_DRAIN]
_ROWS = 3
_BOUND_MS = 10_000
_RUNS = {
    "ordering": ("ordering", {}),
    "ordering-backfill": ("ordering-backfill", {}),
    "ordering-skip-forced": ("ordering-skip-forced", {}),
    "ordering-failures": ("ordering-incidents", {"incidents": _FAILURES}),
    "cluster": ("cluster", {}),
    "cluster-failures": ("cluster-incidents", {"incidents": _FAILURES}),
    "cluster-drain": ("cluster-incidents", {}),
}
runs = pytest.mark.parametrize("run", _RUNS)
_PAID = (NodeCode.UP, NodeCode.DRAINING, NodeCode.PROVISIONING)
_TOTALS = {
    "node_cost": lambda row: row["cost_milli_ms"] / 3.6e9,
    "service_violations": lambda row: row["request_violations"],
    "shed": lambda row: row["requests_shed"],
    "completion_time": lambda row: row["job_ms"] / 1000,
}
_BASES = ("fcfs", "fifo", "srtf", "elastic_srtf", "reclaim")


def _session(run: str, reward: RewardConfig, **more: object) -> Session:
    case, changes = _RUNS[run]
    session = CASES[case].session(_ROWS, **{**changes, **more, "reward": reward})
    keep_log(session)
    session.reseed(np.arange(5, 5 + _ROWS, dtype=np.uint64))
    return session


def _rewards(session: Session) -> NDArray[np.float64]:
    return play(session, np.random.default_rng(17))


# --- the metrics, job by job ---------------------------------------------------------------------


@dataclass
class _Life:
    """What became of a job, by the event log."""

    waiting_ms: int = 0
    holding_ms: int = 0
    starts: int = 0
    state: int = JobCode.ABSENT
    since_ms: int = 0
    seen: list[int] = field(default_factory=list)

    def enter(self, state: int, time_ms: int) -> None:
        if self.state in (JobCode.PENDING, JobCode.PREEMPTED):
            self.waiting_ms += time_ms - self.since_ms
        elif self.state in (JobCode.RUNNING, JobCode.CHECKPOINTING):
            self.holding_ms += time_ms - self.since_ms
        self.state, self.since_ms = state, time_ms
        self.seen.append(state)


def _lives(session: Session, e: int) -> list[_Life]:
    row = session.state.rows[e]
    assert row["log_count"] <= session.state.shape.log
    lives = [_Life() for _ in range(row["num_jobs"])]
    for time_ms, value, kind, subject in session.state.log[e, : row["log_count"]].tolist():
        if kind == LogKind.PLACEMENT:
            lives[subject].starts += 1
        elif kind == LogKind.JOB_STATE:
            lives[subject].enter(value, time_ms)
    for life in lives:
        life.enter(life.state, int(row["now_ms"]))
    return lives


def _costs(session: Session, e: int) -> dict[str, float]:
    """The total of each term of a row at its end, from its job table and its log."""
    row, ask, job = (getattr(session.state, name)[e] for name in ("rows", "request", "job"))
    lives = _lives(session, e)
    ended = job["state"] == JobCode.COMPLETED
    # Jobs for which there is no room any more wait; their slowdown is what it would be from now.
    left = ask["duration_ms"] - job["progress_ms"]
    left = left + np.where(job["first_start_ms"] >= 0, ask["restart_ms"], 0)
    end = np.where(ended, job["end_ms"], row["now_ms"] + left)
    slowdown = (end - ask["submit_ms"]) / np.maximum(ask["duration_ms"], _BOUND_MS)
    gone = np.where(ended, job["end_ms"], row["now_ms"])
    nominal = float(row["nominal_units"])
    units = job["units"].astype(float)
    restarts = np.array([max(life.starts - 1, 0) for life in lives])
    lost = job["lost_ms"] + restarts * ask["restart_ms"]
    return {
        "bounded_slowdown": float(np.maximum(slowdown, 1.0).sum() - len(job)),
        "completion_time": float((gone - ask["submit_ms"]).sum() / 1000),
        "wait": sum(life.waiting_ms for life in lives) / 1000,
        "utilisation": -sum(life.holding_ms * u for life, u in zip(lives, units, strict=True))
        / 1000
        / nominal,
        "preemption": float(sum(life.seen.count(JobCode.CHECKPOINTING) for life in lives)),
        "lost_work": float((lost * units).sum() / 1000 / nominal),
        "allocation": -float(units[job["state"] == JobCode.RUNNING].sum()) / nominal,
        "fragmentation": 0.0,  # no typical pods are loaded; see test_placement_env
    }


_OF_JOBS = [term for term in TERMS if term not in ("service_violations", "shed", "node_cost")]
"""Terms of environments without services and prices; the others: _TOTALS."""


@runs
@pytest.mark.parametrize("term", _OF_JOBS)
def test_dense_rewards_and_the_terminal_one_add_up_to_the_metric(run: str, term: str) -> None:
    dense = _session(run, RewardConfig({term: 1.0}))
    paid = _rewards(dense)
    terminal = _session(run, RewardConfig({term: 1.0}, form="terminal"))
    paid_late = _rewards(terminal)
    assert paid.shape == paid_late.shape
    assert ((paid_late != 0).sum(axis=0) <= 1).all()
    for e in range(_ROWS):
        cost = _costs(dense, e)[term]
        if run == "cluster-drain" and term == "utilisation":
            # What a draining machine still holds is not part of the capacity any more.
            assert 0 <= paid[:, e].sum() <= -cost
            continue
        assert paid[:, e].sum() == pytest.approx(-cost, rel=1e-9, abs=1e-6)
        assert paid_late[:, e].sum() == pytest.approx(-cost, rel=1e-9, abs=1e-6)


def test_the_runs_exercise_what_costs() -> None:
    """Each term costs something somewhere, so that the identities above are not empty."""
    total = dict.fromkeys(_OF_JOBS, 0.0)
    for run in ("ordering", "cluster", "cluster-failures"):
        session = _session(run, RewardConfig())
        _rewards(session)
        for e in range(_ROWS):
            for term, cost in _costs(session, e).items():
                total[term] += abs(cost)
    # In the end nothing is allocated here; tests/kernels/see/test_nodes.py is about these two.
    del total["allocation"], total["fragmentation"]
    assert all(value > 0 for value in total.values()), total
    session = _session("cluster-failures", RewardConfig())
    _rewards(session)
    assert session.state.rows["interruptions"].sum() > 0
    assert session.state.job["lost_ms"].sum() > 0


@runs
def test_terms_add_up_by_their_weights(run: str) -> None:
    session = _session(run, all_terms())
    paid = _rewards(session)
    parts = np.zeros_like(paid)
    for term, weight in all_terms().terms.items():
        alone = _rewards(_session(run, RewardConfig({term: weight})))
        parts += alone
    np.testing.assert_allclose(paid, parts, rtol=1e-9, atol=1e-7)


@runs
def test_completion_time_is_littles_law(run: str) -> None:
    """Each step costs the jobs in the system, integrated over the time that it took."""
    session = _session(run, RewardConfig({"completion_time": 1.0}))
    _rewards(session)
    for e in range(_ROWS):
        in_system = np.array([life.waiting_ms + life.holding_ms for life in _lives(session, e)])
        assert _costs(session, e)["completion_time"] == pytest.approx(in_system.sum() / 1000)


@pytest.mark.parametrize("form", ["dense", "terminal"])
def test_a_truncated_episode_is_paid_what_has_grown_so_far(form: str) -> None:
    paid = []
    for kind in (form, "dense"):
        session = _session("cluster-failures", all_terms(kind), step_limit=9)
        paid.append(_rewards(session))
        assert session.buffers.truncated.all()
    assert paid[0].shape == (9, _ROWS)
    np.testing.assert_allclose(paid[0].sum(axis=0), paid[1].sum(axis=0), rtol=1e-9, atol=1e-7)


def test_a_terminal_reward_is_paid_though_the_last_action_is_illegal() -> None:
    session = _session("cluster", all_terms("terminal"), step_limit=5)
    session.reset()
    rng = np.random.default_rng(0)
    for _ in range(4):
        session.step(pick_legal(session.buffers.mask, rng))
    assert (session.buffers.reward == 0).all()
    session.step(np.full(_ROWS, -1))
    assert session.buffers.truncated.all()
    dense = _session("cluster", all_terms(), step_limit=5)
    dense.reset()
    rng, total = np.random.default_rng(0), np.zeros(_ROWS)
    for _ in range(4):
        dense.step(pick_legal(dense.buffers.mask, rng))
        total += dense.buffers.reward
    np.testing.assert_allclose(session.buffers.reward, total, rtol=1e-9)


@runs
@pytest.mark.parametrize("rule", ["sjf", "fcfs"])
@pytest.mark.parametrize("form", ["dense", "terminal"])
def test_rewards_are_scaled_by_the_reference_rule(run: str, rule: str, form: str) -> None:
    """By 1 / (its cost on the same window + the window's jobs)."""
    plain = _session(run, all_terms(form))
    scaled = _session(run, all_terms(form, rule))
    paid, paid_scaled = _rewards(plain), _rewards(scaled)
    windows = scaled.buffers.start_index.copy()
    replayed = _session(run, all_terms())
    replayed.replay(rule_named(rule), windows)
    weights = all_terms().terms
    for e in range(_ROWS):
        if run == "cluster-drain":  # see above: utilisation is not what the log says
            expected = float(scaled.source.prices.reference[windows[e]])
        else:
            costs = _costs(replayed, e)
            expected = sum(weight * costs[term] for term, weight in weights.items())
            assert scaled.source.prices.reference[windows[e]] == pytest.approx(expected, rel=1e-9)
        scale = 1.0 / (abs(expected) + scaled.config.episode_jobs)
        assert scaled.buffers.scale[e] == pytest.approx(scale, rel=1e-9)
        np.testing.assert_allclose(paid_scaled[:, e], paid[:, e] * scale, rtol=1e-7, atol=1e-9)


def test_the_reference_is_computed_once_for_each_window() -> None:
    session = _session("ordering", RewardConfig(reference="sjf"), starts=np.array([10, 40, 80]))
    assert np.isnan(session.source.prices.reference).all()
    session.reset(windows=np.array([1, 1, 2]))
    assert np.isnan(session.source.prices.reference).tolist() == [True, False, False]
    session.source.prices.reference[1] = 476.0
    session.reset(windows=np.array([1, 0, 2]))
    assert session.buffers.scale[0] == 1 / (476.0 + session.config.episode_jobs)
    assert not np.isnan(session.source.prices.reference).any()


def test_any_rule_can_be_the_reference() -> None:
    for rule in RULES:
        session = _session("cluster", RewardConfig({"wait": 1.0}, reference=rule))
        session.reset()
        assert np.isfinite(session.buffers.scale).all()
        assert (session.buffers.scale > 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"terms": {}}, "'terms' is empty; choose from bounded_slowdown"),
        ({"terms": {"speed": 1.0}}, "unknown term 'speed'; known: bounded_slowdown"),
        ({"terms": {"wait": float("inf")}}, "weight of 'wait' is inf"),
        ({"form": "sparse"}, "'form' is 'sparse'; choose from dense, terminal"),
        ({"reference": "best"}, "unknown rule 'best'; known: fcfs"),
    ],
)
def test_rewards_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RewardConfig(**options)


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
        for column in (
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
            np.testing.assert_array_equal(
                asked.state.rows[column], alone.state.rows[column], column
            )
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
