"""Scenarios: what an episode happens in, besides its jobs and nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import AUTOSCALING, CLUSTER, JOB_ORDERING, Scenario, Session
from envs.scenario import FleetPlan, ServiceMix, forecast_from_tables, seasonal_rates
from envs.workloads import Trace
from envs.workloads.failures import FailureModel
from envs.workloads.services.series import ServiceSeries
from orchestrator.autoscaler.table import ForecastTable
from orchestrator.engine.records import node_records
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.state.codes import NodeCode, Placement, QuotaMode
from orchestrator.scheduling.gittins import gittins_table, job_services
from orchestrator.scheduling.rules import rule_named
from orchestrator.types import TenantSpec
from orchestrator.workloads.throughput import APPLICATIONS
from tests.envs.cases import gpu_trace, lublin_trace
from tests.envs.scaling_cases import bare_trace, mix_of, spec

_STARTS = np.array([0, 60, 120], np.int64)
_FLAT = [10.0] * 40
_SERIES = ServiceSeries(60.0, ("a",), np.ones((1, 5), np.float32))


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


def test_heads_without_an_object() -> None:
    trace = bare_trace()

    def make(scenario: Scenario, **changes: Any) -> Session:
        config = replace(AUTOSCALING, **({"services": 1, "episode_ticks": 10} | changes))
        return Session(trace, config, 1, scenario=scenario, part="all")

    services, fleet = mix_of(_FLAT), FleetPlan(spare=1)
    make(Scenario(services=services, fleet=fleet))
    for changes, scenario, words in (
        ({"services": 2}, Scenario(services=services, fleet=fleet), "the scenario has 1"),
        ({}, Scenario(services=services), "the scenario has no 'fleet'"),
        ({"services": 0}, Scenario(fleet=fleet), "the scenario has no 'services'"),
        ({"episode_ticks": 41}, Scenario(services=services, fleet=fleet), "beyond the 40 ticks"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            make(scenario, **changes)
    for scenario in (Scenario(services=services), Scenario(fleet=fleet)):
        with pytest.raises(ConfigurationError, match="'commitment' knows no services"):
            Session(trace, replace(JOB_ORDERING, episode_jobs=1), 1, scenario=scenario, part="all")
    starts = np.array([-3], np.int64)
    with pytest.raises(ConfigurationError, match="windows of 10 ticks reach beyond the 40"):
        Session(
            trace,
            replace(AUTOSCALING, services=1, episode_ticks=10),
            1,
            starts,
            scenario=Scenario(services=services, fleet=fleet),
        )


def test_a_service_that_can_never_run() -> None:
    wide = mix_of(_FLAT, spec("wide", replicas=3, min_replicas=3), gpus=4)
    config = replace(AUTOSCALING, services=1, capacity_steps=0, episode_ticks=10)
    with pytest.raises(ConfigurationError, match="3 replicas of 'wide' can never fit"):
        Session(bare_trace(nodes=2), config, 1, scenario=Scenario(services=wide), part="all")
    Session(
        bare_trace(nodes=2),
        config,
        1,
        scenario=Scenario(services=wide, fleet=FleetPlan(spare=1)),
        part="all",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"specs": ()}, "'specs' is empty"),
        ({"specs": (spec("b"),)}, "do not include"),
        ({"gpu_share": 0.0}, "'gpu_share' is 0.0"),
        ({"gpu_share": 1.5}, "'gpu_share' is 1.5"),
        ({"gpus": -1}, "'gpus' is -1"),
        ({"startup_seconds": float("inf")}, "'startup_seconds' is inf"),
        ({"target_utilisation": 0.0}, "'target_utilisation' is 0.0"),
        ({"down_window_s": -1.0}, "'down_window_s' is -1.0"),
        ({"forecast": np.zeros((1, 4), np.float32)}, r"'forecast' has shape \(1, 4\)"),
        ({"forecast": np.zeros((2, 5), np.float32)}, r"the series \(1, 5\)"),
        ({"forecast": -np.ones((1, 5))}, "negative or not finite"),
        ({"forecast": np.full((1, 5), np.nan)}, "negative or not finite"),
    ],
)
def test_services_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"specs": (spec(),), "series": _SERIES}
    with pytest.raises((ConfigurationError, ValidationError), match=words):
        ServiceMix(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spare": -1}, "'spare' is -1"),
        ({"least": True}, "'least' is True"),
        ({"most": 2.5}, "'most' is 2.5"),
        ({"price": float("nan")}, "'price' is nan"),
        ({"provision_seconds": -1.0}, "'provision_seconds' is -1.0"),
        ({"review_seconds": 0.0}, "'review_seconds' is 0"),
        ({"target_utilisation": 2.0}, "'target_utilisation' is 2.0"),
        ({"least": 3, "most": 2}, "'most' is 2, and 'least' 3"),
    ],
)
def test_fleets_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FleetPlan(**changes)


def test_spare_nodes_are_like_the_others_and_absent() -> None:
    own = node_records(gpu_trace().nodes)
    nodes = FleetPlan(spare=6, price=2.5).records(own)
    assert nodes["state"].tolist() == [NodeCode.UP] * 4 + [NodeCode.ABSENT] * 6
    assert (nodes["price_milli"] == 2500).all()
    for name in ("gpus", "cpu_cap_milli", "memory_cap_mib", "rack", "model"):
        assert nodes[name][4:8].tolist() == own[name].tolist(), name


def test_a_forecast_is_kept_as_it_was() -> None:
    given = np.arange(5, dtype=np.float64)[None]
    mix = ServiceMix((spec(),), _SERIES, forecast=given)
    given[:] = -1
    assert mix.forecast is not None
    assert mix.forecast.tolist() == [[0, 1, 2, 3, 4]]
    assert not mix.forecast.flags.writeable


def test_services_take_what_they_are_told_and_from_no_tenant() -> None:
    mix = ServiceMix(
        (spec(replicas=3, min_replicas=2),), _SERIES, gpus=2, gpu_share=0.25, cpus=3, memory_gb=5
    )
    (ask,) = mix.requests()
    assert (ask["gpus_per_worker"], ask["gpu_milli"], ask["cpu_milli"]) == (2, 250, 3000)
    assert (ask["workers"], ask["min_workers"], ask["max_workers"]) == (3, 2, 6)
    trace = bare_trace()
    quotas = (TenantSpec(trace.tenants[0], quota=1.0),)
    scenario = Scenario(services=mix_of(_FLAT), tenants=quotas, quota_mode=QuotaMode.HARD)
    config = replace(AUTOSCALING, services=1, capacity_steps=0, episode_ticks=10)
    session = Session(trace, config, 1, scenario=scenario, part="all")
    session.reset()
    assert session.state.job[0, 0]["workers_now"] == 2  # more than the only tenant's quota
    assert session.state.tenant[0, 0]["used_units"] == 0


def test_the_seasonal_forecast_is_yesterday_s_highest() -> None:
    rates = np.array([[1, 5, 2, 3, 9, 4, 6, 7]], np.float32)
    series = ServiceSeries(60.0, ("a",), rates)
    assert seasonal_rates(series, period=4, ahead=1).tolist() == [[0, 0, 0, 0, 1, 5, 2, 3]]
    assert seasonal_rates(series, period=4, ahead=3).tolist() == [[0, 0, 0, 0, 5, 5, 9, 9]]
    assert not seasonal_rates(series.part(0, 3), period=4, ahead=1).any()
    # What comes later changes nothing of what was known before.
    for tick in range(8):
        other = rates.copy()
        other[0, tick:] = 50.0
        changed = ServiceSeries(60.0, ("a",), other)
        for ahead in (1, 4):
            before = seasonal_rates(series, period=4, ahead=ahead)[:, : tick + 1]
            assert (seasonal_rates(changed, period=4, ahead=ahead)[:, : tick + 1] == before).all()
    for ahead in (0, 5):
        with pytest.raises(ConfigurationError, match=f"'ahead' is {ahead}"):
            seasonal_rates(series, period=4, ahead=ahead)


def _table(first: int, origins: int, blank: int = 0) -> ForecastTable:
    """Quantiles h ticks after origin t: 100 t + h, and twice that; the first origins have none."""
    ticks = 100.0 * (first + np.arange(origins))[:, None] + np.arange(4)
    bands = np.stack([ticks, 2 * ticks], axis=-1)
    bands[:blank] = np.nan
    return ForecastTable(
        series="a",
        series_digest="",
        tick_s=60,
        first=first,
        forecasters=("naive",),
        levels=(0.5, 0.9),
        points=ticks[None],
        winner=np.zeros(ticks.shape, np.uint8),
        bands=bands,
        sigma=np.zeros((1, origins)),
    )


def test_a_table_s_forecast_is_the_highest_quantile_of_the_next_ticks() -> None:
    rates = forecast_from_tables([_table(2, 5), _table(0, 7, blank=3)], 8, level=0.9, ahead=2)
    assert rates.shape == (2, 8)
    for rate, first in zip(rates, (2, 3), strict=True):  # in the next tick it is of use
        assert not rate[: first + 1].any()
        assert rate[first + 1 :].tolist() == [2 * (100 * t + 2) for t in range(first, 7)]
    wrong: tuple[dict[str, Any], ...] = ({"ahead": 4}, {"level": 0.75}, {"ticks": 9})
    for changes in wrong:
        values = {"ticks": 8, "level": 0.9, "ahead": 2} | changes
        with pytest.raises(ValidationError):
            forecast_from_tables([_table(2, 5)], **values)
    with pytest.raises(ValidationError):
        forecast_from_tables([_table(2, 5, blank=5)], 8, level=0.9, ahead=2)


def test_windows_of_jobs_play_the_part_of_the_series_where_they_lie() -> None:
    trace, services = gpu_trace(), mix_of([5.0] * 60_000)
    config = replace(CLUSTER, episode_jobs=20, services=1)
    session = Session(trace, config, 1, scenario=Scenario(services=services), part="all")
    first, stop = session.source.episode.series_range.T
    assert (np.diff(first) >= 0).all() or len(np.unique(stop - first)) > 1
    assert first.min() >= 0
    assert stop.max() <= 60_000
    share = session.source.episode.starts / (len(trace) - 20)
    longest = (stop - first).max()
    assert (np.abs(first - share * 60_000) <= longest).all()
