from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.outcomes import METRICS
from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.problem import Windows
from envs.config import CLUSTER
from envs.workloads import gpu_cluster
from orchestrator.errors import IllegalActionError
from tests.agents.evaluation.policies import Illegal, LastLegal, ShortestFirst


def same(a, b):
    assert set(a.values) == set(b.values) <= set(METRICS)
    for name in a.values:
        np.testing.assert_array_equal(a.values[name], b.values[name], err_msg=name)
    np.testing.assert_array_equal(a.jobs, b.jobs)
    np.testing.assert_array_equal(a.nodes, b.nodes)


@pytest.mark.parametrize("backfill", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 64])
def test_policy_that_mimics_sjf_equals_sjf(trace, config, starts, rows, backfill):
    config = replace(config, backfill=backfill)
    policy = ShortestFirst()
    found = evaluate_policy(policy, Windows(trace, config, starts), rows=rows)
    same(found, evaluate_rule("sjf", Windows(trace, config, starts)))
    assert max(policy.asked) <= min(rows, len(starts))
    assert found.values["bounded_slowdown"].max() > 2.0, "nothing ever waited"


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
