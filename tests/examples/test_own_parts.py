"""The examples of own parts keep the contracts of their kinds, and work where they are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs
from agents import Problem, Suite, Windows, evaluate_named, evaluate_rule, run_suite
from agents.testing import check_batch_policy, check_extractor, check_network
from envs import JOB_ORDERING, RewardConfig, Session, load_workload
from envs.testing import (
    check_feature,
    check_generator,
    check_reader,
    check_reward_term,
    check_scenario,
)
from envs.testing.play import SMALL, play, small_session, small_trace
from orchestrator.testing import check_policy, check_rule
from tests.examples.load import ROOT

_FOLDER = ROOT / "examples" / "own_parts"
_MOST_LINES = 30


def named(file: str, name: str) -> str:
    return f"{_FOLDER / file}.py:{name}"


def test_each_is_short() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in _FOLDER.glob("*.py")}
    assert len(lines) == 10
    assert {name: n for name, n in lines.items() if n > _MOST_LINES} == {}


def test_policies_and_rules() -> None:
    check_policy(named("policy", "SmallestFirst"))
    check_batch_policy(named("observations", "LeastArea"))
    check_rule(named("rule", "SHORT_AND_TIGHT"))
    check_rule(named("rule", "widest_first"))


def test_reward_terms_and_features() -> None:
    check_reward_term(named("reward", "late_hours"), SMALL["cluster"])
    check_reward_term(named("reward", "starts"), SMALL["ordering"])
    check_feature(named("feature", "TenantsCrowd"))


def test_networks() -> None:
    check_network("examples.own_parts.network:BesideTheMean")
    check_extractor(named("extractor", "Summary"))


def test_workloads_and_scenarios(tmp_path: Path) -> None:
    rows = [f"{60 * j},{300 + 17 * j % 900},{1 + j % 8}" for j in range(40)]
    (tmp_path / "jobs.csv").write_text("submit_s,run_s,gpus\n" + "\n".join(rows))
    check_reader(named("reader", "read_plain"), path=str(tmp_path / "jobs.csv"))
    check_generator(named("generator", "two_kinds"), jobs=60)
    check_scenario(named("scenario", "bad_week"))


def test_they_play_in_suites_beside_the_rules() -> None:
    """A rule, a policy that plans and one on observations, by names alone."""
    mine = [
        named("rule", "SHORT_AND_TIGHT"),
        named("policy", "SmallestFirst"),
        named("observations", "LeastArea"),
    ]
    config = replace(JOB_ORDERING, episode_jobs=40)
    problem = Problem(small_trace(config), config)
    suite = Suite("mine", 40, ["sjf", *mine], [mine[0]], starts=[0, 50])
    played = {result.policy: result for result in run_suite(suite, problem)[""]}
    assert list(played) == ["sjf", *mine]
    values = [result.values["bounded_slowdown"] for result in played.values()]
    np.testing.assert_array_equal(values[0], values[1])  # placements do not matter on processors
    assert all(np.isfinite(each).all() for each in values)
    windows = Windows(problem.trace, config, np.array([0, 50]))
    np.testing.assert_array_equal(
        evaluate_named(mine[2], windows).values["bounded_slowdown"], values[3]
    )


def test_they_stand_in_environments_of_all_forms() -> None:
    options = {
        "reward": RewardConfig(terms={"wait": 1.0, named("reward", "late_hours"): 5.0}),
        "features": (named("feature", "TenantsCrowd"),),
        "scenario": named("scenario", "bad_week"),
        "trace": small_trace(SMALL["cluster"]),
        "window": 8,
        "episode_jobs": 24,
    }
    one = gymnasium.make("quartermaster/Cluster-v0", **options)
    many = gymnasium.make_vec("quartermaster/Cluster-v0", 1, "vector_entry_point", **options)
    rows = envs.make_sb3("quartermaster/Cluster-v0", 1, seed=3, **options)
    seen = [one.reset(seed=3)[0], many.reset(seed=3)[0], rows.reset()]
    assert seen[0]["queue"].shape == (8, len(one.unwrapped.config.schema.queue))
    assert one.unwrapped.config.schema.queue[-1] == "tenants_crowd"
    paid = 0.0
    for _ in range(60):
        action = int(np.flatnonzero(seen[0]["action_mask"])[-1])
        first, reward, *_ = one.step(action)
        second, rewards, *_ = many.step(np.array([action]))
        np.testing.assert_array_equal(first["queue"], second["queue"][0])
        assert reward == rewards[0]
        paid += reward
        seen[0] = first
    assert paid < 0


def test_a_reference_scales_them_and_objectives_count_them() -> None:
    name = named("reward", "late_hours")
    both = replace(SMALL["ordering"], reward=RewardConfig({"wait": 1.0, name: 5.0}))
    windows = Windows(small_trace(SMALL["ordering"]), both, np.array([0, 50]))
    alone = replace(windows, config=replace(both, reward=RewardConfig({"wait": 1.0})))
    told = [evaluate_rule("sjf", each).values["objective"] for each in (windows, alone)]
    assert (told[0] > told[1]).all()
    scaled = replace(both, reward=replace(both.reward, reference="sjf"))
    sums = []
    for config in (both, scaled):
        session: Session = small_session(config, 2)
        sums.append(sum(play(session, "mine")))
    np.testing.assert_allclose(sums[1], sums[0] * session.buffers.scale, rtol=1e-9)


def test_a_generator_is_a_workload_by_its_name() -> None:
    trace = load_workload(named("generator", "two_kinds"), jobs=30, seed=1)
    assert (trace.name, len(trace)) == ("two kinds of jobs", 30)
    with pytest.raises(Exception, match="unknown option 'job'; known are"):
        load_workload(named("generator", "two_kinds"), job=30, seed=1)
