"""Waiting times against closed forms, a twin, and exact simulations with a stated error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gamma, norm

from orchestrator.kernels.requests.queueing import (
    Response,
    erlang_c,
    normal_quantile,
    quantile_ms,
    queue_after,
    response_moments,
    share_within,
    steady_queue,
)
from tests.naive import requests as naive
from tests.naive.requests import simulate, two_choices, waiting_over_time


def steady_wait(servers: int, rate: float, service: float, scatter: float) -> float:
    """Mean wait before service in steady state: Little's law on ``steady_queue``."""
    use = rate * service / servers
    if rate <= 0.0:
        return 0.0
    return math.inf if use >= 1.0 else steady_queue(servers, use, scatter) / rate


@given(st.integers(1, 100), st.floats(0.01, 0.999))
def test_erlang_c_equals_the_textbook_sum(servers, use) -> None:
    assert erlang_c(servers, use * servers) == pytest.approx(
        naive.erlang_c(servers, use * servers), rel=1e-9
    )


def test_known_probabilities_of_waiting() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)  # 2 rho^2 / (1 + rho)
    assert erlang_c(3, 2.0) == pytest.approx(4 / 9)
    assert erlang_c(5, 0.0) == 0.0
    assert erlang_c(5, 5.0) == erlang_c(5, 9.0) == 1.0


@given(st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0, 4))
def test_wait_is_exact_for_one_server_and_poisson_arrivals(use, service, cv2) -> None:
    """Pollaczek and Khinchine."""
    rate = use / service
    exact = rate * service**2 * (1 + cv2) / (2 * (1 - use))
    assert steady_wait(1, rate, service, 0.5 * (1 + cv2)) == pytest.approx(exact)


def test_an_overloaded_queue_has_no_steady_state() -> None:
    assert steady_wait(2, 2.0, 1.0, 1.0) == math.inf
    assert steady_wait(2, 0.0, 1.0, 1.0) == 0.0


@pytest.mark.property
@given(st.integers(1, 40), st.floats(0, 5000), st.floats(0.5, 5000), st.floats(0.1, 5))
def test_queue_over_time_equals_its_twin_and_conserves(servers, work, capacity, scatter) -> None:
    queue, served, use = queue_after(servers, work, capacity, scatter)
    expected = naive.queue_after(servers, work, capacity, scatter)
    assert queue + served == pytest.approx(work)
    assert 0.0 <= use <= 1.0
    assert min(queue, served) >= 0.0
    assert (queue, served) == pytest.approx(expected[:2], abs=1e-6 * (capacity + 1), rel=1e-5)


@given(st.integers(1, 40), st.floats(0.05, 0.95), st.floats(0.2, 3))
def test_the_steady_queue_stays_as_it_is(servers, use, scatter) -> None:
    queue = steady_queue(servers, use, scatter)
    capacity = 100.0 * servers
    after, served, busy = queue_after(servers, queue + use * capacity, capacity, scatter)
    assert after == pytest.approx(queue, abs=1e-5, rel=1e-5)
    assert busy == pytest.approx(use, abs=1e-6)
    assert served == pytest.approx(use * capacity, rel=1e-6)


def test_overload_is_a_fluid() -> None:
    queue, _, use = queue_after(4, 2000.0, 1000.0, 1.0)
    assert use == pytest.approx(1.0, abs=0.002)
    assert queue == pytest.approx(1000.0, rel=0.002)


@given(st.floats(0.5, 100), st.floats(0.05, 4), st.floats(0.02, 0.995))
def test_share_and_quantile_are_inverse_and_near_the_gamma_distribution(mean, cv2, share) -> None:
    response = Response(mean, cv2 * mean**2)
    z = norm.ppf(share)
    limit = quantile_ms(response, z)
    if limit > 1e-3 * mean:
        assert share_within(response, limit) == pytest.approx(share, abs=1e-6)
    exact = gamma.cdf(mean * 1.7, 1 / cv2, scale=cv2 * mean)
    assert share_within(response, 1.7 * mean) == pytest.approx(exact, abs=0.02)


@given(st.floats(0.0001, 0.9999))
def test_normal_quantile(share) -> None:
    assert normal_quantile(share) == pytest.approx(norm.ppf(share), abs=4.6e-4)


def test_without_time_there_is_nothing_to_answer() -> None:
    assert share_within(Response(1.0, 1.0), 0.0) == 0.0
    assert share_within(Response(0.0, 0.0), 1.0) == 1.0
    assert quantile_ms(Response(0.0, 0.0), 1.6) == 0.0


_GRID = [(c, use) for c in (1, 2, 4, 8, 32) for use in (0.3, 0.5, 0.7, 0.8, 0.9)]
# Errors of (mean response, its 95th percentile, its 99th, share within 3 service times): at most.
_BOUNDS = {
    (1.0, 1.0): (0.05, 0.07, 0.08, 0.02),
    (1.0, 0.25): (0.07, 0.08, 0.14, 0.03),
    (1.0, 2.0): (0.03, 0.06, 0.12, 0.02),
    (0.25, 0.5): (0.13, 0.09, 0.09, 0.05),
    (4.0, 1.0): (0.28, 0.19, 0.14, 0.13),
}


@pytest.mark.parametrize(("arrival_cv2", "service_cv2"), list(_BOUNDS))
def test_response_times_against_an_exact_simulation(arrival_cv2, service_cv2) -> None:
    """Gamma distributed gaps and service times, 300,000 requests at each point of the grid.

    At 90 % load, some of the error is the simulation's own: its standard error is about 3 %.
    """
    worst = np.zeros(4)
    for servers, use in _GRID:
        seen = simulate(1, servers, use, arrival_cv2, service_cv2, 300_000)
        wait = steady_wait(servers, use * servers, 1.0, 0.5 * (arrival_cv2 + service_cv2))
        response = response_moments(servers, use, wait, 0.0, 1.0, service_cv2)
        p95, p99 = np.quantile(seen, [0.95, 0.99])
        errors = [
            abs(response.mean / seen.mean() - 1),
            abs(quantile_ms(response, norm.ppf(0.95)) / p95 - 1),
            abs(quantile_ms(response, norm.ppf(0.99)) / p99 - 1),
            abs(share_within(response, 3.0) - (seen <= 3.0).mean()),
        ]
        worst = np.maximum(worst, errors)
    print(f"ca2 {arrival_cv2} cs2 {service_cv2}: worst errors {np.round(worst, 3)}")
    assert (worst <= _BOUNDS[arrival_cv2, service_cv2]).all()


_LOADS = [0.5, 0.8, 0.95, 1.2, 1.5, 0.9, 0.6, 0.3, 0.5]


@pytest.mark.parametrize(("servers", "tick"), [(1, 60.0), (4, 60.0), (16, 60.0)])
def test_a_surge_against_an_exact_simulation(servers, tick) -> None:
    """The queue through overload and back: within 10 % of the surge's peak at all times."""
    seen = waiting_over_time(1, servers, _LOADS, tick, 100)
    queue, found = 0.0, []
    for load in _LOADS:
        capacity = servers * tick
        queue, _, _ = queue_after(servers, queue + load * capacity, capacity, 1.0)
        found.append(queue)
    error = np.abs(np.array(found) - seen).max() / seen.max()
    print(f"{servers} servers: simulated {np.round(seen, 1)}, formula {np.round(found, 1)}")
    assert error <= 0.10


@pytest.mark.parametrize(("servers", "most"), [(2, 1.15), (4, 1.35), (8, 1.70)])
def test_what_one_queue_for_all_hides(servers, most) -> None:
    """The formula has one queue; live, each replica has its own, and two choices balance them.

    The mean response time of the latter is larger, by at most this factor up to 90 % load.
    """
    ratios = []
    for use in (0.5, 0.7, 0.9):
        wait = steady_wait(servers, use * servers, 1.0, 1.0)
        ratios.append(two_choices(1, servers, use, 200_000).mean() / (wait + 1.0))
    print(f"{servers} replicas of one slot: {np.round(ratios, 2)} times the formula")
    assert min(ratios) >= 1.0
    assert max(ratios) <= most
