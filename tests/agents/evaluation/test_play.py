from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.play import (
    evaluate_policies,
    evaluate_policy,
    evaluate_rule,
    evaluate_zoo,
)
from agents.evaluation.series import rule_series
from agents.linear.evaluate import RankerEvaluator, ScorerEvaluator
from agents.problem import Windows
from envs.config import CLUSTER
from envs.outcomes import METRICS
from envs.scenario import Scenario, with_accounts
from envs.workloads import gpu_cluster
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.scheduling.rules import RULES, rule_named
from orchestrator.types import TenantSpec
from tests.agents.evaluation.policies import Illegal, LastLegal, ShortestFirst


def same(a, b):
    assert set(a.values) == set(b.values) <= set(METRICS)
    for name in a.values:
        np.testing.assert_array_equal(a.values[name], b.values[name], err_msg=name)
    np.testing.assert_array_equal(a.jobs, b.jobs)
    np.testing.assert_array_equal(a.nodes, b.nodes)
    assert len(a.runs.runs) >= (a.jobs["runs"] > 0).sum()
    for name in ("runs", "nodes", "known"):
        np.testing.assert_array_equal(getattr(a.runs, name), getattr(b.runs, name), err_msg=name)


@pytest.mark.parametrize("backfill", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 64])
def test_policy_that_mimics_sjf_equals_sjf(trace, config, starts, rows, backfill):
    config = replace(config, backfill=backfill)
    policy = ShortestFirst()
    found = evaluate_policy(policy, Windows(trace, config, starts), rows=rows)
    same(found, evaluate_rule("sjf", Windows(trace, config, starts)))
    assert max(policy.asked) <= min(rows, len(starts))
    assert found.values["bounded_slowdown"].max() > 2.0, "nothing ever waited"


@pytest.mark.parametrize("rows", [3, 64])
def test_many_policies_on_the_same_rows_are_as_each_by_itself(trace, config, starts, rows):
    windows = Windows(trace, config, starts)
    policies = [LastLegal(), ShortestFirst(), LastLegal()]
    together = list(evaluate_policies(policies, windows, rows))
    for policy, found in zip(policies, together, strict=True):
        same(found, evaluate_policy(policy, windows, rows, keep_jobs=0))
    assert not np.array_equal(*(found.values["wait"] for found in together[:2]))


def test_training_settings_do_not_matter(trace, config, starts):
    other = replace(config, skip_forced=True, step_limit=3)
    same(
        evaluate_policy(ShortestFirst(), Windows(trace, other, starts)),
        evaluate_policy(ShortestFirst(), Windows(trace, config, starts)),
    )


def test_metrics_follow_from_the_jobs(trace, config, starts):
    found = evaluate_rule("f1", Windows(trace, config, starts))
    for window, first in enumerate(starts):
        jobs = found.of_sequence(window)
        asked = trace.requests[first : first + 64]
        np.testing.assert_array_equal(jobs["job_id"], asked["source_id"])
        wait = (jobs["start_ms"] - jobs["submit_ms"]) / 1000
        run = asked["duration_ms"] / 1000
        span = (jobs["end_ms"].max() - jobs["submit_ms"].min()) / 1000
        busy = (run * asked["cpu_milli"]).sum() / (256_000 * span)
        expected = {
            "bounded_slowdown": np.maximum((wait + run) / np.maximum(run, 10), 1).mean(),
            "wait": wait.mean(),
            "completion_time": (wait + run).mean(),
            "makespan": span,
            "utilisation": busy,
            "preemptions": 0,
        }
        for name, value in expected.items():
            assert found.values[name][window] == pytest.approx(value, rel=1e-12), name


def test_jobs_are_kept_for_the_first_windows(trace, config, starts):
    found = evaluate_policy(LastLegal(), Windows(trace, config, starts), keep_jobs=2)
    assert len(found.jobs) == len(found.nodes) == 2 * 64
    assert len(found.values["wait"]) == len(starts)


def test_every_window_is_reported_once(trace, config, starts):
    ended = []
    evaluate_policy(LastLegal(), Windows(trace, config, starts), rows=4, advance=ended.append)
    assert sum(ended) == len(starts)


def test_illegal_actions_are_refused(trace, config, starts):
    with pytest.raises(IllegalActionError, match="action_mask"):
        evaluate_policy(Illegal(), Windows(trace, config, starts))


def test_preemption_and_gangs_are_recorded():
    trace = gpu_cluster(400, 1, nodes=4, load=1.2)
    config = replace(CLUSTER, episode_jobs=200)
    found = evaluate_rule("srtf", Windows(trace, config, np.array([0, 150])))
    jobs = found.jobs
    assert jobs["preemptions"].sum() == found.values["preemptions"].sum() > 0
    workers = np.concatenate([trace.requests["workers"][s : s + 200] for s in (0, 150)])
    np.testing.assert_array_equal((found.nodes >= 0).sum(axis=1), workers)
    assert found.nodes.max() < 4
    assert found.resource == "GPUs"
    assert found.capacity_units == 32_000
    preempted = jobs["preemptions"] > 0
    assert (jobs["last_start_ms"] > jobs["start_ms"])[preempted].all()


def test_random_rules_do_not_depend_on_order(trace, config, starts):
    whole = evaluate_rule("random", Windows(trace, config, starts))
    again = evaluate_rule("random", Windows(trace, config, starts))
    same(whole, again)


# --- Rules that read tenants' accounts ---


@pytest.fixture(scope="module")
def shared_cluster() -> Windows:
    trace = gpu_cluster(3000, 0, nodes=4, load=1.3)
    assert len(np.unique(trace.requests["tenant"])) > 3
    return Windows(trace, replace(CLUSTER, episode_jobs=256), np.array([0, 900, 1800]))


def _times(rule: str, windows: Windows) -> list[float]:
    return evaluate_rule(rule, windows).values["completion_time"].tolist()


@pytest.mark.parametrize("rule", ["drf", "reclaim", "drf+reactive"])
def test_rules_that_read_accounts_keep_some_where_nobody_is_described(
    rule: str, shared_cluster: Windows
) -> None:
    found = _times(rule, shared_cluster)
    base = {"reclaim": "priority", "drf": "fcfs"}[rule.partition("+")[0]]
    assert all(a != b for a, b in zip(found, _times(base, shared_cluster), strict=True))
    trace = shared_cluster.trace
    present = [trace.tenants[t] for t in np.unique(trace.requests["tenant"])]
    quota = np.floor(1000 * trace.gpus / len(present)) / 1000
    described = Scenario(tenants=tuple(TenantSpec(name, 1.0, quota) for name in present))
    assert found == _times(rule, replace(shared_cluster, scenario=described))
    zoo = evaluate_zoo(rule, shared_cluster.first(2)).values["completion_time"].tolist()
    assert zoo == found[:2]


def test_what_a_scenario_says_of_tenants_counts(shared_cluster: Windows) -> None:
    first = shared_cluster.trace.tenants[int(shared_cluster.trace.requests["tenant"][0])]
    unequal = replace(shared_cluster, scenario=Scenario(tenants=(TenantSpec(first, 50.0),)))
    assert _times("drf", unequal) != _times("drf", shared_cluster)


def test_accounts_change_nothing_for_rules_that_do_not_read_them(shared_cluster: Windows) -> None:
    scenario = with_accounts(Scenario(), shared_cluster.trace)
    for name, rule in RULES.items():
        assert rule.reads_accounts == (name in ("drf", "reclaim"))
        if not rule.reads_accounts and name in ("sjf", "srtf", "priority", "tiresias"):
            kept = replace(shared_cluster.first(1), scenario=scenario)
            assert _times(name, kept) == _times(name, shared_cluster.first(1))


def test_a_tenant_without_jobs_is_entitled_to_nothing(shared_cluster: Windows) -> None:
    trace = shared_cluster.trace
    some = trace.requests[trace.requests["tenant"] < 2]
    assert len(with_accounts(Scenario(), replace(trace, requests=some)).tenants) == 2


def test_environments_keep_accounts_for_the_rules_that_they_ask(shared_cluster: Windows) -> None:
    """Advice, the reference of rewards, scorers' baselines and a window's course."""
    config = replace(shared_cluster.config, advice="drf")
    assert replace(shared_cluster, config=config).session(1).state.shape.tenants > 3
    plain = shared_cluster.session(1)
    assert plain.state.shape.tenants == 1
    reward = replace(CLUSTER.reward, reference="drf")
    config = replace(shared_cluster.config, reward=reward)
    assert replace(shared_cluster, config=config).session(1).state.shape.tenants > 3
    evaluator = ScorerEvaluator(shared_cluster.trace, shared_cluster.config, 1)
    drf, fcfs = (
        evaluator.rule_costs(rule_named(name), shared_cluster.starts) for name in ("drf", "fcfs")
    )
    evaluator.close()
    assert (drf != fcfs).all()
    drf, fcfs = (rule_series(name, shared_cluster, 0).values for name in ("drf", "fcfs"))
    assert any((drf[name] != fcfs[name]).any() for name in drf)


def test_rankers_refuse_rules_that_read_accounts(trace, config) -> None:
    evaluator = RankerEvaluator(trace, config, 1)
    with pytest.raises(ConfigurationError, match="rule 'drf' reads the accounts"):
        evaluator.rule_costs(rule_named("drf"), np.array([0]))
    evaluator.close()
