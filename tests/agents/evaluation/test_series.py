"""The course of a window adds up to what the window came to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.play import evaluate_rule
from agents.evaluation.series import rule_series
from agents.problem import Windows
from envs.config import CLUSTER, JOB_ORDERING
from envs.scenario import Scenario
from envs.workloads.failures import FailureModel
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import EventKind
from tests.envs.cases import gpu_trace

_HOUR_MS = 3_600_000
_STARTS = np.array([0, 60, 120], np.int64)
_FAILING = Scenario(FailureModel(rate_scale=300.0))
_CONFIG = replace(CLUSTER, episode_jobs=60, elastics=4)


def _check(found, result, window: int) -> None:
    hours = np.diff(found.edges)
    makespan = result.values["makespan"][window] / 3600
    assert found.last_end == pytest.approx(makespan)
    busy = (found.values["busy"] * hours).sum() / (found.capacity * makespan)
    assert busy == pytest.approx(result.values["utilisation"][window])
    waited = (found.values["waiting"] * hours).sum() * 3600 / 60
    assert waited == pytest.approx(result.values["wait"][window])
    stayed = ((found.values["waiting"] + found.values["running"]) * hours).sum() * 3600 / 60
    assert stayed == pytest.approx(result.values["completion_time"][window])
    for name in ("busy", "in_service"):
        assert found.values[name].min() >= 0.0
        assert found.values[name].max() <= found.capacity * (1 + 1e-9)


@pytest.mark.parametrize("rule", ["fcfs", "elastic_srtf"])
@pytest.mark.parametrize("scenario", [Scenario(), _FAILING], ids=["calm", "failing"])
@pytest.mark.parametrize("window", [0, 2])
def test_of_a_rule(rule: str, scenario: Scenario, window: int) -> None:
    windows = Windows(gpu_trace(), _CONFIG, _STARTS, scenario)
    found = rule_series(rule, windows, window, 50)
    _check(found, evaluate_rule(rule, windows), window)
    down = found.capacity - found.values["in_service"].min()
    assert (down > 1e-6) == (scenario is _FAILING)


def test_of_a_rule_that_orders_jobs() -> None:
    config = replace(JOB_ORDERING, episode_jobs=60)
    windows = Windows(gpu_trace(), config, _STARTS)
    _check(rule_series("sjf", windows, 1, 33), evaluate_rule("sjf", windows), 1)


def test_failures_are_seen_where_nothing_is_decided() -> None:
    """Two jobs far apart, while nodes fail and recover."""
    trace = gpu_trace()
    requests = trace.requests[:2].copy()
    requests["submit_ms"] = 0, 100 * _HOUR_MS
    requests["duration_ms"] = requests["requested_ms"] = _HOUR_MS, 150 * _HOUR_MS
    trace = replace(trace, requests=requests)
    config = replace(CLUSTER, episode_jobs=2)
    windows = Windows(trace, config, np.zeros(1, np.int64), _FAILING)
    found = rule_series("fcfs", windows, points=2000)
    session = windows.session(1)
    hours = (found.edges[:-1] + found.edges[1:]) / 2
    down = np.zeros(len(hours))
    for incident in session.source.episode.incidents:
        sign = -1 if incident["kind"] == EventKind.NODE_RECOVERY else 1
        down += sign * trace.nodes[incident["node"]].gpus * (incident["time_ms"] / 3.6e6 <= hours)
    assert down.max() > down.min()
    assert np.isclose(found.capacity - found.values["in_service"], down, atol=0.01).mean() > 0.98


def test_windows_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'window' is 3 of 3"):
        rule_series("sjf", Windows(gpu_trace(), _CONFIG, _STARTS), 3)
