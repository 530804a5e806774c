"""Services in the simulator: their ticks, and when there are any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.state.codes import FOREVER_MS, NEVER, EventKind, JobCode, JobKind
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, allocate
from orchestrator.mesh.specs import (
    BreakerSpec,
    LimitSpec,
    RetrySpec,
    ServiceSpec,
    service_records,
)
from tests.kernels.requests import kernel_calls as calls
from tests.naive.requests import NaiveService

_TICK_MS = 60_000


class Row:
    """One row whose services run on fixed replicas, without a cluster below them."""

    def __init__(self, specs, rates, *, others=0, seed=1, first=0, regroup_ms=0):
        self.rates = np.ascontiguousarray(rates, np.float32)
        count = len(specs)
        self.state = allocate(ClusterShape(1, max(count + others, 1), services=max(count, 1)))
        row = self.state.rows
        row["tick_ms"] = _TICK_MS
        row["series_at"] = self.rates.ctypes.data
        row["series_len"] = row["series_stop"] = self.rates.shape[1]
        row["series_first"] = first
        requests = np.zeros(count + others, REQUEST_DTYPE)
        requests["workers"] = [spec.replicas for spec in specs] + [1] * others
        requests["duration_ms"] = FOREVER_MS
        requests["regroup_ms"] = regroup_ms
        requests["kind"][:count] = JobKind.SERVICE
        records = service_records(specs, range(count))
        calls.begin(row, 0, seed, np.zeros(1, NODE_DTYPE), requests, records)
        for s, spec in enumerate(specs):
            self.job(s)["state"] = JobCode.RUNNING
            self.job(s)["workers_now"] = spec.replicas

    def job(self, j):
        return self.state.job[0, j]

    def service(self, s=0):
        return self.state.service[0, s]

    @property
    def row(self):
        return self.state.rows[0]

    def tick(self):
        calls.tick(self.state.rows, 0)


_SPECS = st.builds(
    ServiceSpec,
    name=st.just("s"),
    service_ms=st.sampled_from([50.0, 400.0]),
    replicas=st.integers(1, 6),
    slots=st.sampled_from([1, 4]),
    service_cv2=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    arrival_cv2=st.sampled_from([0.5, 1.0, 4.0]),
    objective_ms=st.sampled_from([300.0, 1000.0]),
    timeout_ms=st.sampled_from([0.0, 500.0, 2000.0]),
    queue_limit=st.sampled_from([0.0, 50.0, 2000.0]),
    limit=st.sampled_from([LimitSpec(), LimitSpec(10.0, 20.0), LimitSpec(60.0, 600.0)]),
    retry=st.sampled_from([RetrySpec(), RetrySpec(attempts=1), RetrySpec(6, budget=1.0)]),
)
_RATES = st.lists(st.sampled_from([0.0, 1.0, 5.0, 12.0, 40.0, 150.0]), min_size=1, max_size=12)


@pytest.mark.property
@given(_SPECS, _RATES)
def test_ticks_equal_their_twin(spec, rates) -> None:
    row, twin = Row([spec], [rates]), NaiveService(spec, spec.replicas)
    for rate in rates:
        row.tick()
        twin.tick(rate, _TICK_MS / 1000.0)
        own = row.service()
        for name in ("offered", "shed", "retried", "failed", "served", "backlog"):
            assert own[name] == pytest.approx(getattr(twin, name), abs=0.05, rel=1e-4), name
        for name in ("within", "violations"):  # the twin's normal quantiles are exact
            scale = 1e-3 * twin.offered + 0.05
            assert own[name] == pytest.approx(getattr(twin, name), abs=scale), name
        assert own["latency_ms"] == pytest.approx(twin.latency, rel=2e-3, abs=1e-6)


@pytest.mark.property
@given(
    _SPECS,
    _SPECS,
    _RATES,
    st.integers(0, 99),
    st.lists(st.integers(0, 6), min_size=12, max_size=12),
)
def test_nothing_is_lost_whatever_happens(one, two, rates, seed, sizes) -> None:
    """With sick replicas, scaling and whole services gone."""
    one = ServiceSpec(**{**one.__dict__, "sick_per_hour": 5.0, "sick_seconds": 150.0})
    row = Row([one, two], [rates, rates[::-1]], seed=seed)
    row.state.service["job"][0] = [0, 1]
    before = 0.0
    for k in range(len(rates)):
        row.job(0)["workers_now"] = sizes[k]
        row.job(1)["state"] = JobCode.RUNNING if sizes[k] % 3 else JobCode.PENDING
        row.tick()
        for s in (0, 1):
            own = row.service(s)
            came = own["offered"] + own["retried"]
            went = own["shed"] + own["failed"] + own["served"] + own["backlog"]
            assert came == pytest.approx(went, rel=1e-9, abs=1e-6)
            assert min(own[n] for n in ("backlog", "shed", "failed", "tokens")) >= 0.0
            assert own["within"] <= own["served"] + 1e-9
            assert own["violations"] >= own["shed"] - 1e-9
            assert 0 <= own["sick"] <= max(own["ready"], 0)
            missed = own["offered"] - own["within"] - own["backlog"]
            assert own["violations"] >= missed - 1e-6
        assert row.row["request_violations"] >= before
        before = row.row["request_violations"]
    for total, name in (
        ("requests_offered", "offered"),
        ("requests_within", "within"),
        ("requests_shed", "shed"),
        ("requests_retried", "retried"),
        ("request_violations", "violations"),
        ("replica_ms", "replica_ms"),
        ("overload_ticks", "overload_ticks"),
    ):
        assert row.row[total] == pytest.approx(row.state.service[0][name].sum()), total


def test_quiet_service_meets_its_objective_and_a_crowded_one_does_not() -> None:
    spec = ServiceSpec("s", 100.0, replicas=4, objective_ms=1000.0)
    row = Row([spec], [[10.0] * 5 + [60.0] * 5 + [10.0] * 5])
    for _ in range(5):
        row.tick()
    assert row.service()["violations"] < 0.001 * row.service()["offered"]
    assert row.service()["utilisation"] == pytest.approx(0.25, abs=1e-3)
    for _ in range(5):
        row.tick()
    # 40 requests/s are served of 60: after 5 minutes 6,000 wait
    assert row.service()["backlog"] == pytest.approx(6000, rel=0.01)
    assert row.service()["overload_ticks"] == row.row["overload_ticks"] == 5
    assert row.service()["latency_ms"] > 60_000
    for _ in range(5):
        row.tick()
    assert row.service()["backlog"] < 1.0
    assert row.row["replica_ms"] == 15 * 4 * _TICK_MS


def test_new_replicas_count_when_they_have_started_up() -> None:
    spec = ServiceSpec("s", 100.0, replicas=2)
    row = Row([spec], np.ones((1, 50)), regroup_ms=90_000)
    assert [_tick_ready(row) for _ in range(3)] == [0, 2, 2]  # 60, 120 and 180 s after the start
    row.job(0)["workers_now"], row.job(0)["resized_ms"] = 5, row.row["now_ms"]
    assert [_tick_ready(row) for _ in range(2)] == [2, 5]
    row.job(0)["workers_now"], row.job(0)["resized_ms"] = 3, row.row["now_ms"]
    assert _tick_ready(row) == 3  # fewer at once
    row.job(0)["state"] = JobCode.PENDING
    assert _tick_ready(row) == 0
    row.job(0)["state"] = JobCode.RUNNING
    row.job(0)["start_ms"] = row.row["now_ms"]  # started anew, all of them
    assert [_tick_ready(row) for _ in range(2)] == [0, 3]


def _tick_ready(row):
    row.tick()
    return row.service()["ready"]


def test_without_replicas_every_request_fails() -> None:
    row = Row([ServiceSpec("s", 100.0, replicas=2)], np.full((1, 9), 30.0))
    row.tick()
    waiting = float(row.service()["backlog"])
    assert waiting > 100
    row.job(0)["state"] = JobCode.PENDING
    row.tick()
    assert row.service()["backlog"] == 0.0
    assert row.service()["failed"] == pytest.approx(1800 + waiting)
    assert row.service()["retried"] == 0.0


def test_a_sick_replica_cannot_cascade() -> None:
    """The breaker opens, the others carry its load and no more, retries stay in their budget."""
    spec = ServiceSpec(
        "s",
        100.0,
        replicas=5,
        slots=2,
        sick_per_hour=1e6,  # one is sick in every tick
        sick_seconds=300.0,
        breaker=BreakerSpec(failures=5, ratio=0.0, open_ms=5000),
        retry=RetrySpec(attempts=3, budget=0.1, reserve=10.0),
    )
    row = Row([spec], np.full((1, 20), 60.0))
    for k in range(5):
        row.tick()
        own = row.service()
        assert own["sick"] == 1
        assert own["breaker_mode"] == BreakerMode.OPEN
        probes = 5 + (k + 1) * _TICK_MS / 5000
        assert own["failed"] <= probes + 1
        assert own["retried"] <= 10.0 + 0.1 * own["offered"]
        # 60 of the 80 requests/s that four replicas can serve, and hardly more for the retries
        assert 0.745 <= own["utilisation"] <= 0.76
    shut_out = row.service()["failed"]
    no_breaker = ServiceSpec(**{**spec.__dict__, "breaker": BreakerSpec(failures=0, ratio=0.0)})
    row = Row([no_breaker], np.full((1, 20), 60.0))
    for _ in range(5):
        row.tick()
    assert row.service()["failed"] > 30 * shut_out
    assert row.service()["retried"] <= 10.0 + 0.1 * row.service()["offered"]


def test_retries_cannot_add_more_load_than_their_budget() -> None:
    """Overloaded, every attempt times out: without a budget each would be made three times."""
    retry = RetrySpec(attempts=3, budget=0.1, reserve=0.0)
    spec = ServiceSpec("s", 100.0, replicas=2, timeout_ms=500.0, queue_limit=500.0, retry=retry)
    row = Row([spec], np.full((1, 30), 40.0))
    for _ in range(30):
        row.tick()
    assert row.service()["retried"] == pytest.approx(0.1 * 29 * 2400, rel=0.03)
    free = ServiceSpec(**{**spec.__dict__, "retry": RetrySpec(attempts=3, budget=10.0)})
    row = Row([free], np.full((1, 30), 40.0))
    for _ in range(30):
        row.tick()
    assert row.service()["retried"] == pytest.approx(2 * 29 * 2400, rel=0.03)


def test_a_well_replica_is_let_in_again() -> None:
    spec = ServiceSpec("s", 100.0, replicas=3, sick_per_hour=1e6, sick_seconds=60.0)
    row = Row([spec], np.full((1, 20), 10.0))
    row.tick()
    assert (row.service()["sick"], row.service()["breaker_mode"]) == (1, BreakerMode.OPEN)
    row.tick()
    assert (row.service()["sick"], row.service()["breaker_mode"]) == (0, BreakerMode.CLOSED)


def test_the_series_is_read_from_where_the_episode_begins() -> None:
    specs = [ServiceSpec("a", 100.0), ServiceSpec("b", 100.0)]
    rates = np.arange(20, dtype=np.float32).reshape(2, 10)
    row = Row(specs, rates, first=7)
    seen = []
    for _ in range(4):
        row.tick()
        seen.append([float(row.service(s)["rate_rps"]) for s in (0, 1)])
    assert seen == [[7, 17], [8, 18], [9, 19], [0, 0]]  # past its end there is no demand


def test_ticks_take_turns_with_other_events() -> None:
    row = Row([ServiceSpec("a", 100.0)], np.ones((1, 3)))
    rows = row.state.rows
    arrival = (0, EventKind.ARRIVAL, 0)
    assert calls.take_next(rows, 0) == arrival
    # all jobs are services: the series is the episode
    for k in (1, 2, 3):
        assert calls.take_next(rows, 0) == (k * _TICK_MS, EventKind.SERVICE_TICK, -1)
        rows["tick"] = k  # the tick itself is not run here
    assert calls.take_next(rows, 0) == (NEVER, EventKind.NONE, -1)


@pytest.mark.parametrize(
    ("service_state", "other_state", "active", "expected"),
    [
        (JobCode.RUNNING, JobCode.RUNNING, 2, True),
        (JobCode.RUNNING, JobCode.PENDING, 2, True),
        (JobCode.RUNNING, JobCode.COMPLETED, 1, False),
        (JobCode.PREEMPTED, JobCode.FAILED, 1, False),
        (JobCode.COMPLETED, JobCode.RUNNING, 1, True),
        (JobCode.COMPLETED, JobCode.COMPLETED, 0, False),
    ],
)
def test_services_alone_do_not_keep_an_episode_going(
    service_state, other_state, active, expected
) -> None:
    row = Row([ServiceSpec("a", 100.0)], np.ones((1, 9)), others=1)
    row.state.rows["next_arrival"] = 2
    row.state.rows["active_jobs"] = active
    ended = (JobCode.COMPLETED, JobCode.FAILED)
    row.state.rows["active_services"] = int(service_state not in ended)
    row.job(0)["state"], row.job(1)["state"] = service_state, other_state
    ticks = calls.peek_next(row.state.rows, 0)[1] == EventKind.SERVICE_TICK
    assert ticks == expected
    row.state.rows["tick_ms"] = 0
    assert calls.peek_next(row.state.rows, 0)[1] == EventKind.NONE


def test_the_end_of_a_job_that_lasts_for_ever_is_not_waited_for() -> None:
    row = Row([ServiceSpec("a", 100.0)], np.ones((1, 1)), others=1)
    rows = row.state.rows
    rows["next_arrival"], rows["tick_ms"] = 2, 0
    calls.push_event(rows, 0, FOREVER_MS, EventKind.COMPLETION, 0)
    assert calls.peek_next(rows, 0) == (NEVER, EventKind.NONE, -1)
    calls.push_event(rows, 0, 5000, EventKind.COMPLETION, 1)
    assert calls.take_next(rows, 0) == (5000, EventKind.COMPLETION, 1)
    assert calls.peek_next(rows, 0) == (NEVER, EventKind.NONE, -1)
