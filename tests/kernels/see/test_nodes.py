"""Placement-v0: one pod after the other, and the policy chooses its node."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from agents.deploy import BundlePolicy
from agents.evaluation.pods import PackingSuite, run_packing
from agents.linear.evaluate import ScorerEvaluator
from agents.linear.policy import LinearScorer
from envs import CLUSTER, PLACEMENT, EnvConfig, RewardConfig, SchedulingEnv, Session
from envs.gym import SchedulingVectorEnv
from envs.workloads import Trace, gpu_pods, load_workload, read_openb_orders, typical_pods
from orchestrator.engine.records import node_records
from orchestrator.errors import ConfigurationError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.place.memo import make_node_memo
from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.see.candidates import MODELS
from orchestrator.kernels.see.layout import NODE_NAMES
from orchestrator.kernels.see.metrics import Metric
from orchestrator.kernels.state.codes import FOREVER_MS, JobCode, Placement, Topology
from orchestrator.kernels.state.row import ClusterShape, allocate
from orchestrator.scheduling.rules import rule_named
from orchestrator.scheduling.schema import named_vector
from tests.envs.cases import incidents, keep_log, pick_legal, play
from tests.naive.features import NaiveNodes
from tests.naive.placing import fragmentation

_ID = "quartermaster/Placement-v0"
_GRADIENT = NODE_NAMES.index("gradient")
_REMARKS = ("infinity", "unconventional shape")


@functools.cache
def _pods(nodes: int = 12) -> Trace:
    return gpu_pods(40 * nodes, 3, nodes=nodes)


@functools.cache
def _gangs() -> Trace:
    """Gangs and elastic jobs that one node holds, some within an island, and they end."""
    trace = gpu_pods(200, 5, nodes=4)
    rng = np.random.default_rng(1)
    requests = trace.requests.copy()
    small = requests["gpus_per_worker"] * requests["gpu_milli"] <= 1000
    small &= requests["model_mask"] == 0
    requests["workers"][small] = rng.integers(1, 4, small.sum())
    requests["elastic"][small] = rng.random(small.sum()) < 0.3
    requests["max_workers"] = requests["workers"]
    inside = small & (requests["gpus_per_worker"] > 0) & (rng.random(200) < 0.3)
    requests["topology"][inside] = Topology.ISLAND
    requests["gpu_memory_mib"][inside] = 4096
    requests["duration_ms"] = requests["requested_ms"] = rng.integers(100, 20_000, 200) * 1000
    requests["priority"] = rng.integers(0, 4, 200)
    nodes = tuple(
        replace(node, gpu_memory_gb=16.0, island_gpus=min(node.gpus, 4), rack=n // 2)
        for n, node in enumerate(trace.nodes)
    )
    return replace(trace, requests=requests, nodes=nodes)


def _session(rows: int = 1, trace: Trace | None = None, **changes: Any) -> Session:
    """Window i begins with job i."""
    config = replace(PLACEMENT, **{"episode_jobs": 60, **changes})
    trace = trace or _pods()
    return Session(trace, config, rows, np.arange(len(trace) - config.episode_jobs + 1))


def _allocation(session: Session, e: int = 0) -> float:
    row = session.state.rows[e]
    return float(1 - row["free_units"] / row["capacity_units"])


def _play(session: Session, window: int, choose: Any) -> list[int]:
    """Play a window to its end, from its seed on; the actions."""
    session.reseed(np.array([window], np.uint64))
    session.reset(windows=np.array([window]))
    actions = []
    while not session.buffers.terminated[0]:
        actions.append(int(choose(session)))
        session.step(np.array(actions[-1:]))
        session.require_legal()
    return actions


def _by_gradient(session: Session) -> int:
    """The node of the highest gradient, of equals the first, among those that fit."""
    seen = session.buffers.candidates[0]
    return int(np.where(seen[:, 0] > 0, seen[:, _GRADIENT], -2.0).argmax())


def _placed(session: Session) -> list[int]:
    """The node of every job, -1 where it was turned away."""
    running = session.state.job[0]["state"] == JobCode.RUNNING
    return np.where(running, session.state.worker[0, :, 0]["node"], -1).tolist()


# --- what Gymnasium and stable-baselines3 ask for ------------------------------------------------


@pytest.mark.parametrize("check", [check_env, check_env_for_sb3], ids=["gymnasium", "sb3"])
def test_checkers_are_content(check: Any) -> None:
    env = gymnasium.make(_ID, trace=_pods(), episode_jobs=24, render_mode="ansi").unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(env, skip_render_check=False)
    messages = [str(warning.message) for warning in caught]
    assert [m for m in messages if not any(known in m for known in _REMARKS)] == []


def test_needs_no_arguments_and_has_a_vector_form() -> None:
    single = gymnasium.make(_ID)
    seen, _ = single.reset(seed=0)
    assert single.observation_space.contains(seen)
    assert single.action_space.n == 16 + 1
    vector = gymnasium.make_vec(_ID, num_envs=3)
    assert isinstance(vector.unwrapped, SchedulingVectorEnv)
    assert vector.single_observation_space == single.observation_space
    vector.reset(seed=1)
    seen, reward, *_ = vector.step(np.full(3, 16))
    assert vector.observation_space.contains(seen)
    assert reward.tolist() == [0.0, 0.0, 0.0]  # turned away: nothing is allocated


def test_actions_have_names() -> None:
    env = SchedulingEnv(PLACEMENT, trace=_pods(), episode_jobs=24, window=2)
    layout = env.config.schema.actions
    assert layout.describe(12 + 5) == "place job 1 of the window on node 5"
    assert layout.describe(24) == "wait"
    assert {head.name: head.size for head in layout.heads if head.size} == {"place": 24, "wait": 1}


def test_schemas_depend_on_names_and_not_on_the_cluster() -> None:
    small, large = _session().schema, _session(trace=_pods(80)).schema
    assert small.candidates == NODE_NAMES
    assert (small.actions.candidates, large.actions.candidates) == (12, 80)
    assert small.digest == large.digest != CLUSTER.schema.digest


# --- what is seen --------------------------------------------------------------------------------


def _assert_equals_twin(session: Session, e: int) -> None:
    expected = NaiveNodes(session, e).observation()
    for name, part in session.observation(e).items():
        np.testing.assert_allclose(
            part, np.array(expected[name]), rtol=2e-5, atol=2e-6, err_msg=name
        )


_SCENES: dict[str, dict[str, Any]] = {
    "pods": {},
    "remembered": {"trace": lambda: _pods(70), "episode_jobs": 200},
    "gangs": {"trace": _gangs, "turn_away": False, "window": 3},
    "gangs-turned-away": {"trace": _gangs},
}


@pytest.mark.parametrize("scene", _SCENES)
def test_observations_equal_their_twin(scene: str) -> None:
    changes = dict(_SCENES[scene])
    trace = changes.pop("trace", _pods)()
    config = replace(PLACEMENT, **{"episode_jobs": 60, **changes})
    befalls = incidents() if scene.startswith("gangs") else None
    session = Session(trace, config, 2, incidents=befalls, part="all")
    if scene == "remembered":  # less than there are kinds
        few = make_node_memo(2, 5, 70, len(NODE_NAMES), MODELS)
        session.buffers = session.buffers._replace(nodes=few)
    session.reseed(np.array([3, 4], np.uint64))
    rng = np.random.default_rng(5)
    session.reset()
    for step in range(90):
        for e in range(2):
            if scene != "remembered" or step % 9 == 0:
                _assert_equals_twin(session, e)
        session.step(pick_legal(session.buffers.mask, rng))
        over = session.buffers.terminated | (rng.random(2) < 0.02)  # some begin anew early
        if over.any():
            session.reset(over)


def test_remembered_nodes_are_those_described_anew() -> None:
    """Through whole episodes, one after the other, of which nothing may be left over."""
    with_memo = _session(2, _pods(70), episode_jobs=500)
    without = _session(2, _pods(70), episode_jobs=500)
    without.state = allocate(replace(with_memo.state.shape, kinds=0))
    for name in ("queue_window", "candidates", "turn_away"):
        without.state.rows[name] = with_memo.state.rows[name]
    rng = np.random.default_rng(2)
    for session in (with_memo, without):
        session.reseed(np.array([8, 9], np.uint64))
        session.reset()
    for _ in range(1200):
        for name, part in with_memo.observation().items():
            np.testing.assert_array_equal(part, without.observation()[name], err_msg=name)
        actions = pick_legal(with_memo.buffers.mask, rng)
        for session in (with_memo, without):
            session.step(actions)
            if session.buffers.terminated.any():
                session.reset(session.buffers.terminated.copy())
    assert with_memo.buffers.episode.min() >= 3


def test_features_are_of_the_size_of_one() -> None:
    session = _session(2, trace=_pods(70), episode_jobs=600)
    session.reset()
    rng = np.random.default_rng(0)
    for _ in range(500):
        for name, part in session.observation().items():
            assert np.isfinite(part).all(), name
            assert np.abs(part).max() <= 5.0, name
        session.step(pick_legal(session.buffers.mask, rng))


# --- what happens --------------------------------------------------------------------------------


def test_a_pod_is_placed_where_the_policy_says_or_turned_away() -> None:
    session = _session(reward=RewardConfig({"allocation": 1.0, "fragmentation": 0.3}))
    keep_log(session)
    rng = np.random.default_rng(4)
    refused = []

    def choose(session: Session) -> int:
        assert_invariants(session.state, 0)
        assert session.state.rows[0]["queue_len"] == 1
        if rng.random() < 0.1:
            refused.append(int(session.buffers.window[0, 0]))
            return session.buffers.mask.shape[1] - 1
        fitting = np.flatnonzero(session.buffers.mask[0, :-1])
        wanted[int(session.buffers.window[0, 0])] = int(rng.choice(fitting))
        return wanted[int(session.buffers.window[0, 0])]

    wanted: dict[int, int] = {}
    _play(session, 7, choose)
    assert len(refused) > 2
    placed = _placed(session)
    assert [placed[j] for j in wanted] == list(wanted.values())
    assert {placed[j] for j in refused} == {-1}
    state = session.state.job[0]["state"]
    assert set(state.tolist()) == {JobCode.RUNNING, JobCode.FAILED}
    row = session.state.rows[0]
    assert row["failed_jobs"] == (state == JobCode.FAILED).sum() > len(refused)
    assert row["queue_len"] == 0


def test_pods_may_queue_and_leave_as_in_the_trace() -> None:
    """Real times: whoever finds no node, or is asked to wait, waits."""
    trace = _pods()
    requests = trace.requests.copy()
    requests["duration_ms"] = requests["requested_ms"] = 1_800_000
    session = _session(trace=replace(trace, requests=requests), turn_away=False)
    rng = np.random.default_rng(4)
    waits = 0

    def choose(session: Session) -> int:
        nonlocal waits
        assert_invariants(session.state, 0)
        mask = session.buffers.mask[0]
        if mask[-1] and rng.random() < 0.3:
            waits += 1
            return len(mask) - 1
        return int(rng.choice(np.flatnonzero(mask[:-1])))

    _play(session, 3, choose)
    assert waits > 5
    assert (session.state.job[0]["state"] == JobCode.COMPLETED).all()
    assert session.state.rows[0]["wait_ms"] > 0


def test_whoever_does_not_fit_the_chosen_node_is_refused() -> None:
    session = _session()
    session.reset()
    while session.buffers.mask[0].all():
        session.step(np.zeros(1, np.int64))
    nothing = int(np.flatnonzero(session.buffers.mask[0] == 0)[0])
    before = session.observation(0)["queue"].copy()
    session.step(np.array([nothing]))
    assert session.buffers.reward[0] == 0.0
    assert session.state.rows[0]["illegal_actions"] == 1
    np.testing.assert_array_equal(session.observation(0)["queue"], before)


# --- rules ---------------------------------------------------------------------------------------


def _packed(trace: Trace, start: int, length: int, placement: Placement) -> list[int]:
    """The nodes that arrivals without a timeline get, as packing suites place them."""
    typical = typical_pods(trace.requests)
    requests = trace.requests[start : start + length]
    nodes = node_records(trace.nodes)
    most = int(nodes["gpus"].max())
    shape = ClusterShape(1, length, nodes=len(nodes), devices=most, typical=len(typical))
    state = allocate(shape)
    entry.begin_episode(state.rows, 0, 0, nodes, requests)
    packing.load_typical(state.rows, 0, typical)
    scratch, free = np.zeros(1, np.int32), np.zeros(length, np.int64)
    packing.pack_arrivals(state.rows, 0, length, int(placement), scratch, free)
    running = state.job[0]["state"] == JobCode.RUNNING
    return np.where(running, state.worker[0, :, 0]["node"], -1).tolist()


@pytest.mark.parametrize("nodes", [12, 70])
def test_fgd_is_the_same_as_a_rule_as_a_policy_and_in_a_packing_suite(nodes: int) -> None:
    trace = _pods(nodes)
    session = _session(trace=trace, episode_jobs=6 * nodes, advice="fgd")
    for window in (0, 5, 31):
        expected = _packed(trace, window, 6 * nodes, Placement.FGD)
        session.replay(rule_named("fgd"), np.array([window]))
        assert _placed(session) == expected
        _play(session, window, _by_gradient)
        assert _placed(session) == expected
        _play(session, window, lambda s: s.buffers.advice[0].argmax())
        assert _placed(session) == expected
        assert -1 in expected
        assert _allocation(session) > 0.8


def test_advice_is_the_node_that_the_rule_places_on() -> None:
    session = _session(advice="fcfs")  # best fit
    actions = _play(session, 2, lambda s: s.buffers.advice[0].argmax())
    assert len(set(actions)) > 3
    expected = _packed(_pods(), 2, 60, Placement.BEST_FIT)
    assert _placed(session) == expected


def test_environments_without_typical_pods_refuse_to_replay_fgd() -> None:
    session = Session(_pods(), replace(CLUSTER, episode_jobs=24), 1, part="all")
    with pytest.raises(ConfigurationError, match="rule 'fgd' measures fragmentation"):
        session.replay(rule_named("fgd"))
    measured = Session(
        _pods(), replace(CLUSTER, episode_jobs=24, placements=("fgd",)), 1, part="all"
    )
    measured.replay(rule_named("fgd"))
    assert measured.state.rows[0]["running_len"] > 0


# --- rewards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dense", "terminal"])
def test_rewards_add_up_to_what_is_allocated_and_fragmented_in_the_end(form: str) -> None:
    for term in ("allocation", "fragmentation"):
        session = _session(3, reward=RewardConfig({term: 2.0}, form))
        session.reseed(np.array([1, 2, 3], np.uint64))
        paid = play(session, np.random.default_rng(6)).sum(axis=0)
        for e in range(3):
            units = session.state.job[e]["units"][session.state.job[e]["state"] == JobCode.RUNNING]
            gpus = 1000 * session.trace.gpus
            view = NaiveNodes(session, e)
            lost = sum(fragmentation(host, view.typical) for host in view.hosts)
            expected = units.sum() / gpus if term == "allocation" else -lost / gpus
            assert paid[e] == pytest.approx(2 * expected, rel=1e-9)
            assert abs(expected) > 0.01
            if term == "allocation":
                assert expected == pytest.approx(_allocation(session, e))


def test_metrics_have_the_last_numbers() -> None:
    """Weights are stored by number: what is new goes to the end."""
    assert (Metric.ALLOCATED_SHARE, Metric.FRAGMENTED_SHARE) == (9, 10)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commitment": True, "encoding": "default"}, "contradict 'commitment'"),
        ({"migrate": True, "victims": 2, "turn_away": False}, "'migrate' has no candidates"),
        ({"victims": 2}, "preempted jobs would fail"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(PLACEMENT, **changes)


def test_gangs_that_no_single_node_holds_wait_nowhere() -> None:
    requests = _pods().requests.copy()
    requests["workers"][7], requests["gpus_per_worker"][7] = 2, 8
    requests["gpu_milli"][7], requests["model_mask"][7] = 1000, 0
    trace = replace(_pods(), requests=requests)
    with pytest.raises(ConfigurationError, match=r"any single node of its cluster \('workers'"):
        _session(trace=trace, turn_away=False)
    Session(trace, replace(CLUSTER, episode_jobs=24), 1, part="all")


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpus_per_worker", 16), ("cpu_milli", 1 << 30), ("memory_mib", 1 << 40), ("workers", 99)],
)
def test_pods_that_fit_nowhere_are_turned_away(field: str, value: int) -> None:
    """As the published protocol does it; all others are placed as if they had not come."""
    requests = _pods().requests.copy()
    requests["gpu_milli"][7], requests[field][7] = 1000, value
    requests["min_workers"][7] = requests["max_workers"][7] = requests["workers"][7]
    session = _session(trace=replace(_pods(), requests=requests), episode_jobs=12)
    session.reset(windows=np.zeros(1, np.int64))
    while not session.buffers.terminated[0]:
        session.step(session.buffers.mask.argmax(axis=1))
    states = session.state.job[0, :12]["state"]
    assert states[7] == JobCode.FAILED
    assert (np.delete(states, 7) == JobCode.RUNNING).all()


# --- workloads -----------------------------------------------------------------------------------


def test_the_generator_draws_the_same_again() -> None:
    trace = load_workload("gpu_pods", pods=500, seed=2, nodes=8)
    assert trace == gpu_pods(500, 2, nodes=8) != gpu_pods(500, 3, nodes=8)
    assert (trace.requests["duration_ms"] == FOREVER_MS).all()
    assert {node.gpus for node in trace.nodes} == {8, 4, 2}
    assert len(np.unique(trace.requests["model_mask"])) == 4
    for nodes in (1, 2, 3):
        _session(trace=gpu_pods(80, 1, nodes=nodes))
    with pytest.raises(ConfigurationError, match="'pods' is 0"):
        gpu_pods(0, 1)


@pytest.mark.traces
def test_fgd_on_openb_is_as_published(traces_dir: Path) -> None:
    """Weng et al.: 95.39 % on average, over orders of their own, with a deviation of 0.08."""
    trace = load_workload("openb_orders", path=traces_dir / "alibaba_openb_2023", orders=2, seed=42)
    config: EnvConfig = replace(PLACEMENT, episode_jobs=len(trace) // 2)
    session = Session(trace, config, 1, np.array([0, len(trace) // 2]))
    for window in (0, 1):
        session.replay(rule_named("fgd"), np.array([window]))
        allocation, placed = _allocation(session), _placed(session)
        assert 0.9505 < allocation < 0.957
        start = int(session.source.episode.starts[window])
        assert placed == _packed(trace, start, config.episode_jobs, Placement.FGD)
    _play(session, 1, _by_gradient)
    assert _placed(session) == placed


def _costs(weights: dict[str, float]) -> NDArray[np.float64]:
    session = _session()
    evaluator = ScorerEvaluator(_pods(), replace(PLACEMENT, episode_jobs=60), 1)
    vector = named_vector(session.config.schema, weights, by_head=True)
    costs = evaluator.costs(vector[None], np.arange(5))[0]
    evaluator.close()
    return costs


def test_a_linear_scorer_that_follows_the_gradient_is_fgd() -> None:
    found = _costs({"candidate:gradient": 1.0, "head:wait": -9.0})
    session = _session()
    for window in range(5):
        session.replay(rule_named("fgd"), np.array([window]))
        assert found[window] == -_allocation(session)
    assert (_costs({"head:wait": 1.0}) == 0.0).all()


def test_packing_suites_judge_policies_that_choose_nodes() -> None:
    """One that follows the gradient is FGD there, too, with the same typical pods."""
    weights = {"candidate:gradient": 1.0, "head:wait": -9.0}
    trace = _pods()
    learned = LinearScorer.from_names(weights, PLACEMENT.schema, "mine")
    worse = LinearScorer.from_names({"head:wait": 1.0}, PLACEMENT.schema, "refuses")
    suite = PackingSuite("small", {"FGD": "fgd"}, [1, 2])
    mine, nobody, fgd = run_packing(suite, trace, None, [learned, worse], PLACEMENT)
    assert (mine.policy, nobody.policy, fgd.policy) == ("mine", "refuses", "FGD")
    np.testing.assert_allclose(mine.allocation, fgd.allocation)
    np.testing.assert_allclose(mine.curve, fgd.curve)
    np.testing.assert_array_equal(mine.placed, fgd.placed)
    assert fgd.mean > 80
    assert nobody.allocation.tolist() == nobody.placed.tolist() == [0, 0]
    with pytest.raises(ConfigurationError, match="'choose_node' and 'turn_away'"):
        run_packing(suite, trace, None, [learned], CLUSTER)


def test_live_clusters_refuse_policies_that_choose_nodes() -> None:
    learned = LinearScorer.from_names({"head:wait": 1.0}, PLACEMENT.schema)
    with pytest.raises(ConfigurationError, match="not nodes by number"):
        BundlePolicy(learned, PLACEMENT)


@pytest.mark.traces
def test_orders_of_openb_on_fewer_machines(traces_dir: Path) -> None:
    folder = traces_dir / "alibaba_openb_2023"
    quarter = read_openb_orders(folder, keep_every=4, orders=2, seed=7)
    size = quarter.requests["gpus_per_worker"] * quarter.requests["gpu_milli"]
    assert len(quarter.nodes) == 304
    assert 2.58 < size.sum() / 1000 / quarter.gpus <= 2.6
    assert (quarter.requests["duration_ms"] == FOREVER_MS).all()
    with pytest.raises(ConfigurationError, match="'orders' is 0"):
        read_openb_orders(folder, orders=0)
    with pytest.raises(ConfigurationError, match="leaves no machine with GPU model"):
        read_openb_orders(folder, keep_every=200)
