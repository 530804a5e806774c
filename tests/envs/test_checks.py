"""Numbers that callers give: one rule and one wording, wherever they are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from agents.settings import check_kind, check_number, check_seed
from envs import (
    CLUSTER,
    Enrichment,
    EnvConfig,
    FleetPlan,
    RewardConfig,
    Scenario,
    SchedulingVectorEnv,
    Session,
    WindowSplit,
    gpu_cluster,
    gpu_pods,
    lublin_feitelson,
)
from envs.checks import check_finite, check_whole
from envs.workloads import sample_failures
from envs.workloads.failures import FailureModel
from envs.workloads.services.generator import ServiceRhythm, generate_services
from orchestrator.errors import ConfigurationError
from tests.envs.cases import gpu_trace

_NO_NUMBERS = ["3", None, math.nan, math.inf, 1 + 0j, True, np.True_, [3], Decimal(3)]


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.int64(3)])
def test_whole_numbers_of_every_kind_become_pythons_own(value: Any) -> None:
    assert check_whole("x: 'y'", value, 3, 3) == 3
    assert type(check_whole("x: 'y'", value)) is int
    assert type(check_finite("x: 'y'", value, 3, 3)) is float


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), Fraction(1, 2), np.float64(0.5)])
def test_numbers_of_every_kind_become_pythons_own(value: Any) -> None:
    assert check_finite("x: 'y'", value, 0.5, 0.5, above=0) == 0.5
    assert type(check_finite("x: 'y'", value)) is float
    with pytest.raises(ConfigurationError, match=r"'y' is .*; give a whole number$"):
        check_whole("x: 'y'", value)


@pytest.mark.parametrize("value", _NO_NUMBERS)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^x: 'y' is .*; give a whole number$"):
        check_whole("x: 'y'", value)
    with pytest.raises(ConfigurationError, match=r"^x: 'y' is .*; give a finite number$"):
        check_finite("x: 'y'", value)


@pytest.mark.parametrize(
    ("bounds", "value", "words"),
    [
        ({"least": 1}, 0, "give a whole number that is at least 1"),
        ({"least": 1, "most": 5}, 6, "give a whole number from 1 to 5"),
        ({"most": 5}, 6, "give a whole number, at most 5"),
        ({"least": 0.0}, -0.5, "give a finite number that is at least 0"),
        ({"least": 0, "most": 1}, 1.5, "give a finite number from 0 to 1"),
        ({"above": 0}, 0.0, "give a finite number above 0"),
        ({"above": 0, "most": 1}, 2.0, "give a finite number above 0, at most 1"),
    ],
)
def test_bounds_are_told(bounds: dict[str, Any], value: Any, words: str) -> None:
    check: Callable[..., Any] = check_whole if "whole" in words else check_finite
    with pytest.raises(ConfigurationError, match=f"x: 'y' is {value}; {words}"):
        check("x: 'y'", value, **bounds)


_WHOLE: dict[str, Callable[[Any], Any]] = {
    "'jobs'": WindowSplit,
    "lublin: 'seed'": lambda value: lublin_feitelson(10, value),
    "lublin: 'processors'": lambda value: lublin_feitelson(10, 1, processors=value),
    "gpu_cluster: 'nodes'": lambda value: gpu_cluster(10, 1, nodes=value),
    "gpu_pods: 'pods'": lambda value: gpu_pods(value, 1),
    "generate_services: 'ticks'": lambda value: generate_services(1, value, 1),
    "failures: 'seed'": lambda value: sample_failures(FailureModel(), 2, 1000, value),
    "enrichment: 'curves'": lambda value: Enrichment(curves=value),
    "fleet: 'spare'": lambda value: FleetPlan(spare=value),
    "scenario: 'failure_seed'": lambda value: Scenario(failure_seed=value),
    "environment: 'window'": lambda value: EnvConfig(window=value),
    "environment: 'threads'": lambda value: Session(gpu_trace(), CLUSTER, 1, threads=value),
    "environment: 'envs'": lambda value: Session(gpu_trace(), CLUSTER, value),
    "environment: 'num_envs'": lambda value: SchedulingVectorEnv(CLUSTER, value),
    "config: 'seed'": lambda value: check_seed("config", value),
    "task: 'windows'": lambda value: check_number("task", "windows", value, 1),
}
_FINITE: dict[str, Callable[[Any], Any]] = {
    "'train'": lambda value: WindowSplit(10, train=value),
    "lublin: 'load'": lambda value: lublin_feitelson(10, 1, load=value),
    "gpu_cluster: 'load'": lambda value: gpu_cluster(10, 1, load=value),
    "generate_services: 'tick_s'": lambda value: generate_services(1, 5, 1, tick_s=value),
    "ServiceRhythm: 'daily'": lambda value: ServiceRhythm(daily=value),
    "enrichment: 'shrink'": lambda value: Enrichment(shrink=value),
    "enrichment: 'grow'": lambda value: Enrichment(grow=value),
    "fleet: 'price'": lambda value: FleetPlan(price=value),
    "reward: the weight of 'wait'": lambda value: RewardConfig(terms={"wait": value}),
    "environment: 'min_run_seconds'": lambda value: EnvConfig(min_run_seconds=value),
}


@pytest.mark.parametrize("name", _WHOLE)
@pytest.mark.parametrize("value", [-1, 2.5, "3", math.nan, True, [2]])
def test_whole_numbers_are_asked_for_everywhere_alike(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is .*; give a whole number"):
        _WHOLE[name](value)


@pytest.mark.parametrize("name", _FINITE)
@pytest.mark.parametrize("value", ["3", math.nan, math.inf, True, [2.0]])
def test_finite_numbers_are_asked_for_everywhere_alike(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is .*; give a finite number"):
        _FINITE[name](value)


@pytest.mark.parametrize("value", [math.nan, True, "1"])
def test_settings_of_agents_ask_for_the_same(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="give a number"):
        check_kind("agent", "sigma", value, float)
    with pytest.raises(ConfigurationError, match="give a whole number"):
        check_kind("agent", "rows", value, int)
