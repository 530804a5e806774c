"""LAS, Tiresias, Gittins, QSSF and DRF: what each does first, and the Gittins index itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ValidationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode, RuleKey
from orchestrator.kernels.state.records import INCIDENT_DTYPE, NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.scheduling.gittins import gittins_index, gittins_table
from orchestrator.scheduling.rules import RULES
from tests.twins import kernel_calls
from tests.twins.cases import Case, assert_same, begin, nodes_buffer, scratch

SECOND = 1000


def case_of(gpus: int, jobs: list[dict[str, Any]], **config: int) -> Case:
    nodes = np.zeros(1, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = gpus, NodeCode.UP
    requests = np.zeros(len(jobs), REQUEST_DTYPE)
    defaults = {"gpu_milli": 1000, "gpus_per_worker": 1, "workers": 1, "preemptible": 1}
    for name, value in defaults.items():
        requests[name] = value
    for record, fields in zip(requests, jobs, strict=True):
        for name, value in fields.items():
            record[name] = value
    requests["requested_ms"] = np.where(
        requests["requested_ms"] > 0, requests["requested_ms"], requests["duration_ms"]
    )
    base = {"information": 1, "keep_log": 1, "slowdown_bound_ms": 10_000, "preemption_limit": 8}
    return Case(nodes, requests, np.zeros(0, INCIDENT_DTYPE), base | config, 7)


def replayed(case: Case, name: str) -> ClusterState:
    """Replay under a rule, and demand that the twin comes to the same."""
    state, twin = begin(case)
    entry.replay(state.rows, 0, RULES[name].to_record(), nodes_buffer(), scratch())
    twin.replay(RULES[name])
    assert_same(state, 0, twin)
    return state


def ends(state: ClusterState) -> list[int]:
    return (state.job[0, : state.rows[0]["num_jobs"]]["end_ms"] // SECOND).tolist()


def test_las_lets_the_newcomer_in() -> None:
    jobs = [{"duration_ms": 50_000}, {"duration_ms": 10_000, "submit_ms": 20_000}]
    state = replayed(case_of(1, jobs), "las")
    # The first has had 20 s when the second comes with none; it goes on when that is done.
    assert ends(state) == [60, 30]
    assert state.job[0, 0]["preemptions"] == 1


def test_tiresias_does_not_preempt_within_a_queue() -> None:
    jobs = [{"duration_ms": 50_000}, {"duration_ms": 10_000, "submit_ms": 20_000}]
    same = replayed(case_of(1, jobs, las_first_s=30, las_second_s=60), "tiresias")
    assert ends(same) == [50, 60]
    demoted = replayed(case_of(1, jobs, las_first_s=20, las_second_s=60), "tiresias")
    assert ends(demoted) == [60, 30]


def test_tiresias_counts_gpus_as_well_as_time() -> None:
    wide = [
        {"duration_ms": 50_000, "gpus_per_worker": 4},
        {"duration_ms": 10_000, "gpus_per_worker": 4, "submit_ms": 10_000},
    ]
    state = replayed(case_of(4, wide, las_first_s=40, las_second_s=4000), "tiresias")
    assert ends(state) == [60, 20]


def test_tiresias_promotes_the_starving() -> None:
    # Short jobs keep coming; the long one, demoted at 10 s, starves until it has waited twice that.
    shorts = [{"duration_ms": 9_000, "submit_ms": 1000 * t} for t in range(10, 100, 9)]
    jobs = [{"duration_ms": 40_000}, *shorts]
    config = {"las_first_s": 10, "las_second_s": 1000}
    starving = replayed(case_of(1, jobs, **config), "tiresias")
    helped = replayed(case_of(1, jobs, **config, las_promote=2), "tiresias")
    assert ends(starving)[0] == max(ends(starving))
    assert ends(helped)[0] < ends(starving)[0]
    assert helped.job[0, 0]["preemptions"] >= 1


def test_gittins_prefers_a_job_that_may_be_done_soon() -> None:
    # Services of 10 s and 1000 s: a job that has had 15 s will last, a new one may be short.
    case = case_of(1, [{"duration_ms": 60_000}, {"duration_ms": 10_000, "submit_ms": 15_000}])
    table = gittins_table([10.0] * 9 + [1000.0])
    state, twin = begin(case)
    kernel_calls.load_gittins(state.rows, 0, table)
    twin.gittins = [(float(a), float(b)) for a, b in table.tolist()]
    entry.replay(state.rows, 0, RULES["gittins"].to_record(), nodes_buffer(), scratch())
    twin.replay(RULES["gittins"])
    assert_same(state, 0, twin)
    assert ends(state) == [70, 25]


def test_qssf_orders_by_predicted_service() -> None:
    jobs = [
        {"duration_ms": 10_000, "gpus_per_worker": 2},
        {"duration_ms": 30_000, "requested_ms": 5_000, "gpus_per_worker": 2, "submit_ms": 1000},
        {"duration_ms": 8_000, "gpus_per_worker": 1, "submit_ms": 2000},
    ]
    state = replayed(case_of(2, jobs), "qssf")
    # 8 GPU-s before the wrongly predicted 10 GPU-s, which is really 60.
    assert ends(state) == [10, 48, 18]


def drf_state() -> ClusterState:
    """Tenant 0 holds a third of the GPUs, tenant 1 half of the memory."""
    state = allocate(ClusterShape(envs=1, jobs=4, workers=4, nodes=1, devices=12, tenants=3))
    nodes = np.zeros(1, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = 12, NodeCode.UP
    nodes["cpu_cap_milli"], nodes["memory_cap_mib"] = 24_000, 1000
    asks = np.zeros(4, REQUEST_DTYPE)
    asks["duration_ms"] = asks["requested_ms"] = 100_000
    asks["workers"], asks["gpus_per_worker"], asks["gpu_milli"] = 1, 1, 1000
    asks["tenant"] = [0, 1, 0, 1]
    asks["gpus_per_worker"] = [4, 1, 1, 1]
    asks["memory_mib"] = [10, 500, 10, 10]
    entry.begin_episode(state.rows, 0, 0, nodes, asks)
    state.rows["num_tenants"] = 2
    return state


def test_drf_serves_the_lowest_dominant_share() -> None:
    state = drf_state()
    assert entry.advance(state.rows, 0, nodes_buffer()) == 0
    for j in (0, 1):
        assert entry.commit(state.rows, 0, 1, j, 0, nodes_buffer()) == 0
    found = [kernel_calls.job_score(state.rows, 0, j, RuleKey.DRF) for j in (2, 3)]
    assert found == pytest.approx([4 / 12, 0.5])
    kind, j, _ = entry.rule_action(state.rows, 0, RULES["drf"].to_record(), scratch())
    assert (kind, j) == (1, 2)
    # Twice the weight, half the share: now tenant 1 is behind.
    state.tenant[0, 1]["weight"] = 2.0
    kind, j, _ = entry.rule_action(state.rows, 0, RULES["drf"].to_record(), scratch())
    assert (kind, j) == (1, 3)
    state.rows["num_tenants"] = 0
    assert kernel_calls.job_score(state.rows, 0, 3, RuleKey.DRF) == 0.0


@pytest.mark.property
@given(
    services=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=12),
    attained=st.floats(0.0, 110.0),
)
def test_the_gittins_index_is_its_formula(services: list[float], attained: float) -> None:
    left = [s - attained for s in services if s > attained]
    best = 0.0
    # The ratio is largest at a service that was seen; a fine grid must not beat it.
    for d in [*left, *np.linspace(0.05, 110.0, 300)]:
        if left:
            chance = sum(x <= d for x in left) / len(left)
            cost = sum(min(x, d) for x in left) / len(left)
            best = max(best, chance / cost)
    assert gittins_index(services, attained) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_the_table_holds_the_index_at_its_steps() -> None:
    services = np.random.default_rng(3).lognormal(3.0, 2.0, 500)
    table = gittins_table(services)
    assert 2 <= len(table) <= 64
    assert table["service"][0] == 0
    assert (np.diff(table["service"]) > 0).all()
    for row in table:
        assert row["index"] == pytest.approx(gittins_index(services, float(row["service"])))
    assert table["index"][-1] == 0
    # A lognormal's hazard falls in its tail: who has had much is served later.
    assert table["index"][40] < table["index"][10]
    for wrong in ([], [0.0]):
        with pytest.raises(ValidationError, match="services"):
            gittins_table(wrong)
    with pytest.raises(ValidationError, match="entries"):
        gittins_table([1.0], 1)
