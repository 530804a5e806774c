"""Scenarios: what an episode happens in, besides its jobs and nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import CLUSTER, Scenario, Session
from envs.workloads import Trace
from envs.workloads.failures import FailureModel
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.codes import Placement, QuotaMode
from orchestrator.scheduler.gittins import gittins_table, job_services
from orchestrator.scheduler.rules import rule_named
from orchestrator.types import TenantSpec
from orchestrator.workloads.throughput import APPLICATIONS
from tests.envs.cases import gpu_trace, lublin_trace

_STARTS = np.array([0, 60, 120], np.int64)


def _session(trace: Trace, scenario: Scenario, envs: int = 3) -> Session:
    config = replace(CLUSTER, episode_jobs=60, elastics=4)
    return Session(trace, config, envs, _STARTS, scenario=scenario)


def _ends(session: Session, rule: str = "fcfs") -> NDArray[np.int64]:
    session.replay(rule_named(rule))
    for e in range(session.envs):
        assert_invariants(session.state, e)
    return session.state.job["end_ms"].copy()


def test_every_window_has_failures_of_its_own() -> None:
    model = FailureModel(rate_scale=200.0)
    session = _session(gpu_trace(), Scenario(failures=model, failure_seed=3))
    counts = np.diff(session.source.episode.incident_range, axis=1)[:, 0]
    assert (counts > 0).all()
    calm = _ends(_session(gpu_trace(), Scenario()))
    ends = _ends(session)
    assert session.state.rows["interruptions"].sum() > 0
    assert (ends != calm).any()
    assert np.array_equal(ends, _ends(_session(gpu_trace(), Scenario(model, 3))))
    alone = Session(
        gpu_trace(), session.config, 1, _STARTS[1:2], scenario=Scenario(model, failure_seed=3)
    )
    first, last = session.source.episode.incident_range[1]
    assert np.array_equal(
        alone.source.episode.incidents, session.source.episode.incidents[first:last]
    )


def test_a_hard_quota_holds_in_every_episode() -> None:
    trace = gpu_trace()
    busiest = trace.tenants[int(np.bincount(trace.requests["tenant"]).argmax())]
    spec = TenantSpec(busiest, weight=2.0, quota=4.0)
    session = _session(trace, Scenario(tenants=(spec,)))
    assert len(session.source.episode.tenants) == len(trace.tenants)
    _ends(session)  # the invariants check the accounts
    attained = session.state.tenant["attained_unit_ms"].sum()
    assert attained == session.state.job["attained_unit_ms"].sum()
    free = replace(trace, requests=_asking_little(trace))
    quotas = tuple(TenantSpec(name, quota=1.0) for name in trace.tenants)
    _ends(_session(free, Scenario(tenants=quotas, quota_mode=QuotaMode.HARD)))


def _asking_little(trace: Trace) -> NDArray[np.void]:
    """The trace's jobs, of one GPU each: any quota of at least one holds them."""
    requests = trace.requests.copy()
    requests["workers"] = requests["min_workers"] = requests["max_workers"] = 1
    requests["gpus_per_worker"] = 1
    return requests


def test_a_curve_changes_how_much_elastic_gangs_gain() -> None:
    trace = gpu_trace()
    requests = _asking_little(trace)
    requests["elastic"], requests["max_workers"], requests["curve"] = 1, 4, 1
    elastic = replace(trace, requests=requests)
    scenario = Scenario(curves=(APPLICATIONS["bert"],))
    plain, curved = _session(elastic, Scenario()), _session(elastic, scenario)
    assert (_ends(curved, "elastic_fcfs") != _ends(plain, "elastic_fcfs")).any()
    assert (curved.state.rows["num_curves"] == 2).all()
    assert curved.state.rows["resizes"].sum() > 0


def test_fragmentation_is_measured_where_a_gradient_is_offered() -> None:
    config = replace(CLUSTER, episode_jobs=60, placements=(Placement.FGD, Placement.BEST_FIT))
    session = Session(gpu_trace(), config, 2, _STARTS)
    assert session.source.episode.typical["weight"].sum() == pytest.approx(1.0)
    session.reset()
    assert (session.state.rows["num_typical"] == len(session.source.episode.typical)).all()


def test_gittins_expects_what_past_jobs_needed() -> None:
    trace = gpu_trace()
    services = job_services(trace.requests[200:])
    asks = trace.requests[200:]
    gpu_ms = asks["workers"] * asks["gpus_per_worker"] * asks["gpu_milli"] / 1000
    np.testing.assert_allclose(services, gpu_ms * asks["duration_ms"] / 1000)
    session = _session(trace, Scenario(past_services=(*services, 0.0)))
    ends = _ends(session, "gittins")
    table = gittins_table(services)
    assert (session.state.rows["num_gittins"] == len(table)).all()
    assert (session.state.gittins[:, : len(table)] == table).all()
    ignorant = _session(trace, Scenario())
    assert (ends != _ends(ignorant, "gittins")).any()
    assert (ignorant.state.rows["num_gittins"] == 0).all()


def test_services_are_of_cores_where_there_are_no_gpus() -> None:
    jobs = lublin_trace().requests
    assert job_services(jobs) == pytest.approx(
        (jobs["workers"] * jobs["cpu_milli"] / 1000 * jobs["duration_ms"] / 1000).tolist()
    )


def test_what_contradicts_is_named() -> None:
    trace = gpu_trace()
    with pytest.raises(ConfigurationError, match="'tenants' names 'nobody'"):
        _session(trace, Scenario(tenants=(TenantSpec("nobody"),)))
    with pytest.raises(ValidationError, match="quota"):
        _session(trace, Scenario(tenants=(TenantSpec(trace.tenants[0], quota=1000.0),)))
    with pytest.raises(ConfigurationError, match="'quota_mode' is set"):
        Scenario(quota_mode=QuotaMode.HARD)
    with pytest.raises(ConfigurationError, match="uplinks_gbps"):
        Scenario(uplinks_gbps=(1.0, -1.0))
    requests = trace.requests.copy()
    requests["curve"] = 7
    with pytest.raises(ConfigurationError, match="'curves' has 1 models"):
        _session(replace(trace, requests=requests), Scenario(curves=(APPLICATIONS["bert"],)))
