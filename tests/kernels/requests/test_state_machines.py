"""Breaker, retries, limiter and balancer against their twins, and the laws that they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.requests.balance import (
    LatencyState,
    fold_latency,
    second_is_better,
    two_of,
)
from orchestrator.kernels.requests.breaker import (
    BreakerMode,
    BreakerRule,
    breaker_admit,
    breaker_record,
    closed_breaker,
    leaked_requests,
)
from orchestrator.kernels.requests.limiter import (
    LimitRule,
    admitted_amount,
    full_bucket,
    take_token,
)
from orchestrator.kernels.requests.retry import (
    RetryRule,
    backoff_ms,
    budget_earn,
    budget_spend,
    full_budget,
    retried_load,
)
from tests.naive.requests import NaiveBreaker, NaiveBucket

pytestmark = pytest.mark.property
_NAMES = {
    BreakerMode.CLOSED: "closed",
    BreakerMode.OPEN: "open",
    BreakerMode.HALF_OPEN: "half-open",
}
_BREAKERS = st.builds(
    BreakerRule,
    failures=st.integers(0, 5),
    ratio=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    window_ms=st.sampled_from([10, 50, 1000]),
    minimum=st.integers(1, 6),
    open_ms=st.sampled_from([5, 20, 100]),
    probes=st.integers(1, 3),
)
_GAPS = st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), max_size=80)


@given(_BREAKERS, st.integers(0, 10**12), _GAPS)
def test_breaker_equals_its_twin(rule, begin_ms, steps) -> None:
    state, twin, now = closed_breaker(begin_ms), NaiveBreaker(rule, begin_ms), begin_ms
    for gap, asks, good in steps:
        now += gap
        if asks:
            allowed, state = breaker_admit(rule, state, now)
            assert allowed == twin.admit(now)
        else:  # an answer to whatever was asked before, possibly long ago
            state = breaker_record(rule, state, now, good, 1)
            twin.record(now, good)
        assert (_NAMES[BreakerMode(state.mode)], state.since_ms) == (twin.mode, twin.since)


@given(_BREAKERS, st.integers(1, 12))
def test_many_failures_at_once_are_as_many_single_ones(rule, count) -> None:
    once = breaker_record(rule, closed_breaker(0), 7, False, count)
    each = closed_breaker(0)
    for _ in range(count):
        each = breaker_record(rule, each, 7, False, 1)
    assert once == each


@given(
    failures=st.integers(1, 8),
    open_ms=st.sampled_from([500, 2000, 5000]),
    gap_ms=st.sampled_from([1, 5, 20]),
)
def test_what_leaks_to_a_sick_backend_is_what_single_requests_would(
    failures, open_ms, gap_ms
) -> None:
    rule, span = BreakerRule(failures, 0.0, 1000, 1, open_ms, 1), 60_000
    state, reached = closed_breaker(0), 0
    for now in range(0, span, gap_ms):
        allowed, state = breaker_admit(rule, state, now)
        if allowed:
            reached += 1
            state = breaker_record(rule, state, now, False, 1)
    leaked, after = leaked_requests(rule, closed_breaker(0), 0, span, 1000.0 / gap_ms)
    late = 1 + span / open_ms * (gap_ms / open_ms)  # probes wait for the next request to come
    assert abs(leaked - reached) <= late
    assert after.mode == state.mode == BreakerMode.OPEN
    assert abs(after.since_ms - state.since_ms) <= open_ms


_LIMITS = st.builds(LimitRule, st.sampled_from([1.0, 5.0, 50.0]), st.sampled_from([1.0, 2.5, 10.0]))


@given(_LIMITS, st.lists(st.integers(0, 300), max_size=60))
def test_limiter_equals_its_twin_and_its_law(rule, gaps) -> None:
    state, twin, now, passed = full_bucket(rule, 5), NaiveBucket(rule, 5), 5, 0
    for gap in gaps:
        now += gap
        allowed, state = take_token(rule, state, now)
        if abs(state.tokens + allowed - 1.0) > 1e-6:  # not at the very edge of a token
            assert allowed == twin.take(now)
        else:
            twin.take(now)
            twin.tokens = state.tokens
        passed += allowed
        assert passed <= rule.burst + rule.rate_rps * (now - 5) / 1000.0 + 1e-6


@given(_LIMITS, st.integers(1, 200), st.integers(1, 20))
def test_limiter_for_a_fluid_is_the_limit_of_single_requests(rule, rate, seconds) -> None:
    scale = 50  # so many small requests for one
    fine = LimitRule(rule.rate_rps * scale, rule.burst * scale)
    state, passed = full_bucket(fine, 0), 0
    for now in range(1, 1000 * seconds + 1):
        for _ in range(
            math.floor(rate * scale * now / 1000) - math.floor(rate * scale * (now - 1) / 1000)
        ):
            allowed, state = take_token(fine, state, now)
            passed += allowed
            if not allowed:
                break
    amount, after = admitted_amount(
        rule, full_bucket(rule, 0), 1000 * seconds, float(rate * seconds)
    )
    assert amount == pytest.approx(passed / scale, abs=0.1 + 0.002 * rule.rate_rps)
    assert 0.0 <= after.tokens <= rule.burst


def test_no_limit_lets_everything_through() -> None:
    rule = LimitRule(0.0, 1.0)
    state = full_bucket(rule, 0)
    assert admitted_amount(rule, state, 1000, 1e9) == (1e9, state)
    assert all(take_token(rule, state, 0)[0] for _ in range(10))


_RETRIES = st.builds(
    RetryRule,
    attempts=st.integers(1, 6),
    base_ms=st.sampled_from([0.0, 10.0, 25.0]),
    factor=st.sampled_from([1.0, 2.0, 3.0]),
    cap_ms=st.sampled_from([10.0, 100.0, 1e6]),
    jitter=st.sampled_from([0.0, 0.5, 1.0]),
    budget=st.sampled_from([0.0, 0.1, 0.5]),
    floor_rps=st.sampled_from([0.0, 1.0]),
    reserve=st.sampled_from([0.0, 3.0, 10.0]),
)


@given(_RETRIES, st.integers(0, 20), st.floats(0, 1, exclude_max=True))
def test_backoff_is_exponential_up_to_its_cap(rule, retry, draw) -> None:
    longest = min(rule.base_ms * rule.factor**retry, rule.cap_ms)
    wait = backoff_ms(rule, retry, draw)
    assert wait == pytest.approx(longest * (1 - rule.jitter * draw), abs=1e-9)
    assert longest * (1 - rule.jitter) - 1e-9 <= wait <= longest + 1e-9


@given(_RETRIES, st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=80))
def test_retries_never_exceed_their_budget(rule, steps) -> None:
    state, now, asked, retried = full_budget(rule, 0), 0, 0, 0
    for gap, fresh in steps:
        now += gap
        if fresh:
            asked += 1
            state = budget_earn(rule, state, now, 1.0)
        else:
            allowed, state = budget_spend(state)
            retried += allowed
        assert 0.0 <= state.balance <= rule.reserve
        earned = rule.reserve + rule.budget * asked + rule.floor_rps * now / 1000.0
        assert retried <= earned + 1e-9


@given(_RETRIES, st.floats(0, 1e5), st.floats(0, 1))
def test_retried_load_is_a_geometric_sum_within_the_budget(rule, requests, failure) -> None:
    load, after = retried_load(rule, full_budget(rule, 0), 1000, requests, failure)
    wanted = sum(requests * failure**k for k in range(1, rule.attempts))
    purse = rule.reserve + rule.budget * requests + rule.floor_rps
    assert load == pytest.approx(min(wanted, purse))
    assert after.balance == pytest.approx(min(purse - load, rule.reserve), abs=1e-6)


@given(st.integers(0, 2**64 - 1), st.integers(1, 100))
def test_two_draws_differ(bits, count) -> None:
    first, second = two_of(np.uint64(bits), count)
    assert 0 <= first < count
    assert 0 <= second < count
    assert (first != second) == (count > 1)


def test_draws_are_even() -> None:
    rng = np.random.default_rng(1)
    seen = np.zeros((5, 5))
    for bits in rng.integers(0, 2**64, 20_000, dtype=np.uint64):
        seen[two_of(bits, 5)] += 1
    pairs = seen[~np.eye(5, dtype=bool)]
    assert pairs.sum() == 20_000
    assert np.abs(pairs / 1000 - 1).max() < 0.15  # 1,000 expected, standard deviation 31


def test_balancer_prefers_the_cheaper_one_and_the_first_of_equals() -> None:
    assert not second_is_better(10.0, 0, 10.0, 0)
    assert second_is_better(10.0, 1, 10.0, 0)
    assert second_is_better(30.0, 0, 10.0, 1)
    assert not second_is_better(0.0, 5, 10.0, 0)  # nothing known of the first: it is tried


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0.1, 1000)), min_size=1, max_size=40))
def test_latency_average_jumps_up_and_decays(samples) -> None:
    state, mean, now, last = LatencyState(0.0, 0), 0.0, 0, 0
    for gap, sample in samples:
        now += gap
        state = fold_latency(state, now, sample, 1000.0)
        if sample > mean:
            mean = sample
        else:
            weight = math.exp(-max(now - last, 1) / 1000.0)
            mean = mean * weight + sample * (1 - weight)
        last = now
        assert state.mean_ms == pytest.approx(mean)
        assert state.mean_ms >= sample - 1e-9
