"""Fairness of windows against slow, obvious sums over every millisecond."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.play import evaluate_rule
from agents.problem import Windows
from envs.config import CLUSTER
from envs.outcomes import tenant_fairness
from envs.scenario import Scenario
from envs.workloads.failures import FailureModel
from orchestrator.kernels.state.codes import QuotaMode
from orchestrator.types import TenantSpec
from tests.envs.cases import gpu_trace

_STARTS = np.array([0, 60, 120], np.int64)


def _jobs(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    submit = np.sort(rng.integers(0, 60, 12))
    end = submit + rng.integers(1, 40, 12)
    return submit, end, rng.integers(1, 9, 12), rng.integers(0, 3, 12)


@pytest.mark.parametrize("seed", range(5))
def test_tenant_fairness(seed: int) -> None:
    submit, end, units, tenant = _jobs(seed)
    held = units * (end - submit) // 2
    entitled = np.array([4.0, 6.0, 0.0])
    shares = []
    for t in (0, 1):  # nothing is due to the third
        mine = tenant == t
        due = sum(
            min(entitled[t], units[mine & (submit <= ms) & (ms < end)].sum()) for ms in range(100)
        )
        if due > 0:
            shares.append(held[mine].sum() / due)
    expected = sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
    found = tenant_fairness(submit, end, units, held, tenant, entitled)
    assert found == pytest.approx(expected, rel=1e-9)


def test_equal_treatment_is_fair() -> None:
    zero, ten, one = np.array([0, 0]), np.array([10, 10]), np.array([1, 1])
    assert tenant_fairness(zero, ten, one, 10 * one, np.array([0, 1]), np.ones(2)) == 1.0
    unequal = tenant_fairness(zero, ten, one, np.array([10, 0]), np.array([0, 1]), np.ones(2))
    assert unequal == pytest.approx(0.5)


def test_outcomes_of_a_scenario_are_those_that_rows_count() -> None:
    trace = gpu_trace()
    quotas = tuple(TenantSpec(name, quota=1.0) for name in trace.tenants)
    scenario = Scenario(FailureModel(rate_scale=300.0), tenants=quotas)
    config = replace(CLUSTER, episode_jobs=60, elastics=4)
    calm = evaluate_rule("srtf", Windows(trace, config, _STARTS))
    assert not {"tenant_fairness", "violations", "replica_hours"} & set(calm.values)
    assert calm.values["interruptions"].sum() == 0
    assert (calm.values["finish_time_fairness"] <= calm.values["worst_finish_time"]).all()
    found = evaluate_rule("srtf", Windows(trace, config, _STARTS, scenario))
    assert (found.values["interruptions"] > 0).any()
    assert (found.values["lost_hours"] > 0).any()
    assert ((found.values["tenant_fairness"] > 0) & (found.values["tenant_fairness"] <= 1)).all()
    assert (found.values["unfinished"] == 0).all()


def test_jobs_beyond_a_hard_quota_are_counted_as_unfinished() -> None:
    trace = gpu_trace()
    quotas = tuple(TenantSpec(name, quota=1.0) for name in trace.tenants)
    scenario = Scenario(tenants=quotas, quota_mode=QuotaMode.HARD)
    config = replace(CLUSTER, episode_jobs=60)
    found = evaluate_rule("fcfs", Windows(trace, config, _STARTS, scenario))
    for m, first in enumerate(_STARTS):
        asked = trace.requests[first : first + 60]
        large = (asked["workers"] * asked["gpus_per_worker"] * asked["gpu_milli"] > 1000).sum()
        assert found.values["unfinished"][m] == large > 0
        jobs = found.of_sequence(m)
        assert (jobs["end_ms"] >= jobs["submit_ms"]).all()
