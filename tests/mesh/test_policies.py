"""Balancers and breakers by themselves: what grows old, who is new, whose answer still counts."""

from __future__ import annotations

import math

import pytest

from orchestrator.kernels.requests.breaker import BreakerMode, breaker_admit, closed_breaker
from orchestrator.kernels.requests.limiter import full_bucket, take_token
from orchestrator.kernels.requests.retry import budget_earn, full_budget
from orchestrator.mesh import (
    BreakerSpec,
    CircuitBreaker,
    LimitSpec,
    LoadBalancer,
    RetryPolicy,
    RetrySpec,
)


def _answer(
    balancer: LoadBalancer, address: str, now_ms: int, took_ms: float, *, good: bool = True
) -> None:
    balancer.begin(address)
    balancer.end(address, now_ms, took_ms, good=good)


@pytest.mark.parametrize("decay_ms", [1000.0, 10_000.0])
@pytest.mark.parametrize("elapsed_ms", [0, 1, 2500, 40_000])
def test_an_average_fades_while_nothing_is_asked(decay_ms: float, elapsed_ms: int) -> None:
    balancer = LoadBalancer(decay_ms)
    _answer(balancer, "a", 500, 80.0)
    wanted = 80.0 * math.exp(-elapsed_ms / decay_ms)
    assert balancer.latency_ms("a", 500 + elapsed_ms) == pytest.approx(wanted)
    assert balancer.latency_ms("a", 500) == 80.0  # reading it changes nothing


def test_an_endpoint_that_was_slow_once_is_chosen_again() -> None:
    balancer = LoadBalancer()
    _answer(balancer, "a", 0, 20.0)
    _answer(balancer, "b", 0, 5000.0)
    assert {balancer.choose(["a", "b"], 1000)[0] for _ in range(50)} == {"a"}
    _answer(balancer, "a", 60_000, 20.0)
    assert {balancer.choose(["a", "b"], 60_000)[0] for _ in range(50)} == {"b"}


def test_an_endpoint_that_hangs_does_not_look_fast() -> None:
    balancer = LoadBalancer()
    for address in ("a", "b"):
        _answer(balancer, address, 0, 20.0)
    balancer.begin("b")
    _answer(balancer, "a", 90_000, 20.0)
    assert balancer.latency_ms("b", 90_000) == pytest.approx(20.0)
    assert {balancer.choose(["a", "b"], 90_000)[0] for _ in range(50)} == {"a"}


def test_slow_peers_do_not_make_a_busy_endpoint_slow() -> None:
    balancer = LoadBalancer()
    _answer(balancer, "a", 0, 20.0)
    _answer(balancer, "b", 0, 9000.0)
    balancer.begin("a")
    assert balancer.latency_ms("a", 5000) == 20.0


@pytest.mark.parametrize("times_ms", [(30.0,), (10.0, 50.0), (5.0, 20.0, 200.0)])
def test_a_newcomer_counts_as_its_peers_do(times_ms: tuple[float, ...]) -> None:
    balancer = LoadBalancer()
    assert balancer.latency_ms("new") == 0.0
    for k, took_ms in enumerate(times_ms):
        _answer(balancer, f"e{k}", 100, took_ms)
    assert balancer.latency_ms("new", 100) == pytest.approx(sum(times_ms) / len(times_ms))
    _answer(balancer, "new", 100, 7.0)
    assert balancer.latency_ms("new", 100) == 7.0


@pytest.mark.parametrize(("open_there", "most"), [(3, 1), (24, 4), (255, 15)])
def test_a_newcomer_has_few_requests_open(open_there: int, most: int) -> None:
    balancer = LoadBalancer()
    _answer(balancer, "old", 0, 20.0)
    for _ in range(open_there):
        balancer.begin("old")
    while balancer.choose(["old", "new"], 0)[0] == "new" and balancer.in_flight("new") < 999:
        balancer.begin("new")
    assert most - 1 <= balancer.in_flight("new") <= most + 1


def test_failing_at_once_is_not_fast() -> None:
    balancer = LoadBalancer()
    _answer(balancer, "bad", 0, 0.0, good=False)
    assert balancer.typical_ms() is None  # that was no answer
    _answer(balancer, "a", 0, 40.0)
    for now_ms in range(0, 60_000, 1000):
        _answer(balancer, "a", now_ms, 40.0)
        _answer(balancer, "bad", now_ms, 1.0, good=False)
    assert balancer.latency_ms("bad", 60_000) >= balancer.latency_ms("a", 60_000)
    _answer(balancer, "bad", 60_000, 900.0, good=False)  # a timeout
    assert balancer.latency_ms("bad", 60_000) == 900.0


def test_what_is_forgotten_is_new() -> None:
    balancer = LoadBalancer()
    _answer(balancer, "a", 0, 40.0)
    _answer(balancer, "b", 0, 4000.0)
    balancer.begin("b")
    balancer.forget("b")
    assert (balancer.latency_ms("b"), balancer.in_flight("b")) == (40.0, 0)


@pytest.mark.parametrize("good", [True, False])
def test_answers_of_an_earlier_mode_change_nothing(good: bool) -> None:
    breaker = CircuitBreaker(BreakerSpec(failures=2, ratio=0.0, open_ms=100))
    assert breaker.admit(0)
    first = breaker.generation
    for _ in range(2):
        breaker.record(1, False, first)
    assert breaker.mode == BreakerMode.OPEN
    assert breaker.admit(101)
    probe = breaker.generation
    breaker.record(102, good, first)
    assert breaker.mode == BreakerMode.HALF_OPEN
    breaker.record(103, True, probe)
    assert breaker.mode == BreakerMode.CLOSED
    for _ in range(5):  # requests of the first mode of that name, and late probes
        breaker.record(104, False, first)
        breaker.record(104, False, probe)
    assert breaker.mode == BreakerMode.CLOSED
    breaker.record(105, False)
    breaker.record(105, False, breaker.generation)
    assert breaker.mode == BreakerMode.OPEN


def test_a_slow_probe_still_closes_after_others_were_sent() -> None:
    breaker = CircuitBreaker(BreakerSpec(failures=1, ratio=0.0, open_ms=100))
    breaker.record(0, False)
    assert breaker.admit(100)
    probe = breaker.generation
    assert not breaker.admit(150)
    assert breaker.admit(200)  # not answered within open_ms: another one
    breaker.record(250, True, probe)
    assert breaker.mode == BreakerMode.CLOSED


def test_a_probe_that_is_given_up_makes_room_for_another() -> None:
    breaker = CircuitBreaker(BreakerSpec(failures=1, ratio=0.0, open_ms=100))
    old = breaker.generation
    breaker.record(0, False)
    assert breaker.admit(100)
    breaker.give_up(old)
    assert not breaker.admit(101)
    breaker.give_up(breaker.generation)
    assert breaker.admit(101)
    assert not breaker.admit(102)


def test_what_is_answered_without_the_kernels_is_what_they_say() -> None:
    rule, limit, retry = BreakerSpec().rule, LimitSpec(0.0).rule, RetrySpec(floor_rps=3.0)
    for now_ms in (0, 5, 70, 10_000):
        closed = closed_breaker(3)
        assert breaker_admit(rule, closed, now_ms) == (True, closed)
        bucket = full_bucket(limit, 0)
        assert take_token(limit, bucket, now_ms) == (True, bucket)
        policy = RetryPolicy(retry, 9)
        expected = budget_earn(retry.rule, full_budget(retry.rule, 9), now_ms, 1.0)
        policy.earn(now_ms)
        assert policy._state == expected
