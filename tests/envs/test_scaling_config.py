"""Services and fleet as configuration: what contradicts is named; the environment of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import AUTOSCALING, CLUSTER, JOB_ORDERING, Scenario, SchedulingVectorEnv, Session
from envs.defaults import default_scenario, default_trace
from envs.scaling import FleetPlan, ServiceMix, forecast_from_tables, seasonal_rates
from envs.setup import part_starts
from envs.workloads.services.series import ServiceSeries
from orchestrator.autoscaler.table import ForecastTable
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.codes import NodeCode, QuotaMode, Scaling
from orchestrator.resources.records import node_records
from orchestrator.scheduler.rules import rule_named
from orchestrator.types import TenantSpec
from tests.envs.cases import gpu_trace, pick_legal
from tests.envs.scaling_cases import bare_trace, mix_of, spec

_FLAT = [10.0] * 40
_SERIES = ServiceSeries(60.0, ("a",), np.ones((1, 5), np.float32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"services": -1}, "'services' is -1"),
        ({"capacity_steps": 1.5}, "'capacity_steps' is 1.5"),
        ({"autoscale": "sometimes"}, "choose from none, reactive, predictive"),
        ({"autoscale": "reactive"}, "'autoscale' changes nodes and replicas without asking"),
        ({"episode_jobs": 10}, "an episode without jobs"),
        ({"episode_ticks": 0}, "give one of them"),
        ({"episode_jobs": 10, "episode_ticks": 0}, "'window' is 0"),
        ({"window_order": "sjf"}, "'window_order' is fcfs"),
        ({"commitment": True, "window": 4}, "'commitment' knows no services"),
    ],
)
def test_heads_that_contradict_each_other(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(AUTOSCALING, **changes)


def test_heads_without_an_object() -> None:
    trace = bare_trace()

    def make(scenario: Scenario, **changes: Any) -> Session:
        config = replace(AUTOSCALING, **({"services": 1, "episode_ticks": 10} | changes))
        return Session(trace, config, 1, scenario=scenario)

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
            Session(trace, replace(JOB_ORDERING, episode_jobs=1), 1, scenario=scenario)
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
        Session(bare_trace(nodes=2), config, 1, scenario=Scenario(services=wide))
    Session(
        bare_trace(nodes=2), config, 1, scenario=Scenario(services=wide, fleet=FleetPlan(spare=1))
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
    session = Session(trace, config, 1, scenario=scenario)
    session.reset()
    assert session.state.job[0, 0]["workers_now"] == 2  # more than the only tenant's quota
    assert session.state.tenant[0, 0]["used_units"] == 0


# --- forecasts -----------------------------------------------------------------------------------


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


# --- an environment of its own -------------------------------------------------------------------


def test_parts_of_the_series_do_not_overlap() -> None:
    trace = default_trace(AUTOSCALING)
    scenario = default_scenario(AUTOSCALING, trace)
    assert scenario.services is not None
    played = {}
    for part in ("train", "validation", "test"):
        starts = part_starts(trace, AUTOSCALING, part, scenario=scenario)
        assert len(starts) > 1000
        ticks = (starts[:, None] + np.arange(AUTOSCALING.episode_ticks)).ravel()
        assert 0 <= ticks.min() <= ticks.max() < scenario.services.series.ticks
        played[part] = set(ticks.tolist())
    assert not played["train"] & played["validation"]
    assert not played["validation"] & played["test"]
    assert len(part_starts(trace, AUTOSCALING, "all", scenario=scenario)) > 1000
    with pytest.raises(ConfigurationError, match="has no 'services'"):
        part_starts(trace, AUTOSCALING, "train")


def test_windows_of_jobs_play_the_part_of_the_series_where_they_lie() -> None:
    trace, services = gpu_trace(), mix_of([5.0] * 60_000)
    config = replace(CLUSTER, episode_jobs=20, services=1)
    session = Session(trace, config, 1, scenario=Scenario(services=services))
    first, stop = session.source.episode.series_range.T
    assert (np.diff(first) >= 0).all() or len(np.unique(stop - first)) > 1
    assert first.min() >= 0
    assert stop.max() <= 60_000
    share = session.source.episode.starts / (len(trace) - 20)
    longest = (stop - first).max()
    assert (np.abs(first - share * 60_000) <= longest).all()


@pytest.mark.parametrize("autoscale", [Scaling.NONE, Scaling.REACTIVE])
def test_the_default_scenario_follows_the_config(autoscale: Scaling) -> None:
    none = default_scenario(CLUSTER, gpu_trace())
    assert none == Scenario()
    heads = 0 if autoscale else 3
    config = replace(AUTOSCALING, services=heads, capacity_steps=0, autoscale=autoscale)
    made = default_scenario(config, default_trace(config))
    assert made.services is not None
    assert made.fleet is not None
    assert len(made.services.specs) == (heads or 4)
    # Over a day each service needs between one and a dozen replicas at its target, bursts aside.
    rates = made.services.series.rates
    needed = rates / [[0.7 * s.capacity_rps(1)] for s in made.services.specs]
    assert (np.percentile(needed, 2, axis=1) > 2).all()
    assert (np.percentile(needed, 95, axis=1) < 12).all()


def test_the_default_environment_rewards_scaling() -> None:
    """Rules that scale beat one that does not, and by forecast at least as well."""
    env = gymnasium.make_vec("quartermaster/Autoscaling-v0", num_envs=8, part="test")
    assert isinstance(env.unwrapped, SchedulingVectorEnv)
    session = env.unwrapped.session
    assert len(session.source.episode.nodes) == 8
    assert (session.source.episode.nodes["state"] == NodeCode.UP).sum() == 4
    costs = {}
    for name in ("fcfs", "fcfs+reactive", "fcfs+predictive"):
        session.replay(rule_named(name))
        rows = session.state.rows
        assert (rows["tick"] == AUTOSCALING.episode_ticks).all()
        costs[name] = rows["cost_milli_ms"] / 3.6e9 + 0.01 * rows["request_violations"]
    assert costs["fcfs+reactive"].mean() < costs["fcfs"].mean()
    assert costs["fcfs+predictive"].mean() < costs["fcfs"].mean()


def test_vector_rows_of_the_default_environment_differ_and_end_together() -> None:
    env = gymnasium.make_vec("quartermaster/Autoscaling-v0", num_envs=4, episode_ticks=12)
    seen, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    assert len({row.tobytes() for row in seen["services"]}) == 4
    for _ in range(400):
        seen, _, ended, _, _ = env.step(pick_legal(seen["action_mask"], rng))
        assert env.observation_space.contains(seen)
        if ended.any():
            break
    assert ended.any()
