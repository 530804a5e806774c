"""The rules of the game: what they refuse, and that live clusters and environments share them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from envs import CLUSTER, JOB_ORDERING, EnvConfig, Scenario, Session
from envs.workloads import gpu_cluster
from orchestrator import ClusterShape, Engine, Semantics, TenantSpec
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import Information, Placement, QuotaMode
from orchestrator.kernels.state.row import ROW_DTYPE
from orchestrator.semantics import enum_member

_SHAPE = ClusterShape(envs=1, jobs=4, workers=4, nodes=4, devices=4)
_OTHERS: dict[str, Any] = {
    "commitment": True,
    "backfill": True,
    "preemption_limit": 3,
    "min_run_seconds": 2.5,
    "min_run_costs": 7,
    "resize": False,
    "migrate": False,
    "quota_mode": QuotaMode.BORROW,
    "ageing_seconds": 60.0,
    "information": Information.ORACLE,
    "slowdown_bound_seconds": 30.0,
    "resize_lock_seconds": 4.5,
}


def _written(semantics: Semantics) -> np.ndarray:
    rows = np.zeros(2, ROW_DTYPE)
    semantics.write(rows)
    assert rows[0] == rows[1]
    return rows[:1]


@pytest.mark.parametrize("name", [field.name for field in fields(Semantics)])
def test_every_rule_has_a_column_of_its_own(name: str) -> None:
    usual = Semantics(resize_lock_seconds=0.0)  # by default it follows another one
    before = _written(usual)
    after = _written(replace(usual, **{name: _OTHERS[name]}))
    changed = [column for column in ROW_DTYPE.names if before[column] != after[column]]
    assert len(changed) == 1
    own = "elastics" if name == "resize" else name.replace("_seconds", "_ms")
    assert changed == [own]


def test_sizes_are_locked_for_as_long_as_a_job_must_run_unless_that_is_set() -> None:
    rows = _written(Semantics(min_run_seconds=2.5))
    assert (rows["min_run_ms"][0], rows["resize_lock_ms"][0]) == (2500, 2500)
    rows = _written(Semantics(min_run_seconds=2.5, resize_lock_seconds=0.0))
    assert (rows["min_run_ms"][0], rows["resize_lock_ms"][0]) == (2500, 0)


def test_times_are_written_in_milliseconds() -> None:
    rows = _written(Semantics(min_run_seconds=2.5, ageing_seconds=0.0004))
    assert (rows["min_run_ms"][0], rows["ageing_ms"][0]) == (2500, 0)
    assert rows["slowdown_bound_ms"][0] == 10_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preemption_limit": -1}, "semantics: 'preemption_limit' is -1"),
        ({"preemption_limit": True}, "semantics: 'preemption_limit' is True"),
        ({"min_run_costs": 0.5}, "semantics: 'min_run_costs' is 0.5"),
        ({"min_run_seconds": float("nan")}, "semantics: 'min_run_seconds' is nan"),
        ({"resize_lock_seconds": -1.0}, "semantics: 'resize_lock_seconds' is -1.0; give a number"),
        (
            {"ageing_seconds": -1.0},
            "semantics: 'ageing_seconds' is -1.0; give a number",
        ),
        ({"quota_mode": "soft"}, "semantics: 'quota_mode' is 'soft'; choose from none, hard"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Semantics(**changes)


def test_enumerations_may_be_given_by_name() -> None:
    assert Semantics(quota_mode="borrow").quota_mode is QuotaMode.BORROW  # type: ignore[arg-type]
    assert enum_member(Placement, "rule", "score", "Best_Fit") is Placement.BEST_FIT
    assert enum_member(Placement, "rule", "score", int(Placement.SPREAD)) is Placement.SPREAD
    for value in ("loosest", 99, True, None):
        with pytest.raises(ConfigurationError, match=f"rule: 'score' is {value!r}; choose from"):
            enum_member(Placement, "rule", "score", value)


@pytest.mark.parametrize("config", [JOB_ORDERING, replace(CLUSTER, elastics=2, migrate=True)])
def test_a_live_cluster_plays_by_the_rules_of_an_environment(config: EnvConfig) -> None:
    assert isinstance(config, Semantics)
    live = Engine(_SHAPE, semantics=config).row
    trained = Session(gpu_cluster(400, 1), config, envs=1, part="all").state.rows[0]
    for column in ROW_DTYPE.names:
        if _written(config)[column] != _written(Semantics())[column] and column != "elastics":
            assert live[column] == trained[column]
    assert (live["elastics"] > 0) == (trained["elastics"] > 0) == config.resize


def test_an_environment_takes_quotas_from_its_scenario() -> None:
    trace = gpu_cluster(400, 1)
    tenants = (TenantSpec(trace.tenants[0], quota=8),)
    scenario = Scenario(tenants=tenants, quota_mode=QuotaMode.HARD)
    session = Session(trace, CLUSTER, envs=2, scenario=scenario, part="all")
    assert session.config.quota_mode == QuotaMode.HARD
    assert (session.state.rows["quota_mode"] == QuotaMode.HARD).all()
    assert Session(trace, session.config, envs=1, part="all").config.quota_mode == QuotaMode.NONE


def test_flags_and_numbers_are_of_their_types() -> None:
    wrong: list[dict[str, Any]] = [
        {"commitment": "yes"}, {"resize": None}, {"min_run_seconds": "3"}, {"ageing_seconds": True},
    ]  # fmt: skip
    for changes in wrong:
        (name,) = changes
        with pytest.raises(ConfigurationError, match=f"semantics: '{name}' is {changes[name]!r}"):
            Semantics(**changes)
    small = Semantics(min_run_costs=np.int8(3), ageing_seconds=np.float32(2), backfill=np.bool_(1))
    assert (small.min_run_costs, small.ageing_seconds, small.backfill) == (3, 2.0, True)
