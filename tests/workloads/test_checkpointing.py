"""Young's interval against the minimum of Daly's cost, and against a simulation of failures."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.errors import ValidationError
from orchestrator.workloads.advice import checkpoint_interval_ms, expected_overhead, gang_mtbf_ms

HOUR = 3_600_000


def test_known_values() -> None:
    # sqrt(2 * 60 s * 24 h) = sqrt(120 * 86400) s = 3219.9 s
    assert checkpoint_interval_ms(60_000, 24 * HOUR) == pytest.approx(3_219_938, abs=1)
    assert checkpoint_interval_ms(0, HOUR) == 1
    assert checkpoint_interval_ms(10 * HOUR, HOUR) == HOUR
    assert gang_mtbf_ms(100 * HOUR, 50) == 2 * HOUR


def test_it_is_the_minimum_of_the_expected_cost() -> None:
    cost, restart, mtbf = 30_000.0, 60_000.0, 20.0 * HOUR
    intervals = np.geomspace(60_000, 10 * HOUR, 4000)
    losses = [expected_overhead(tau, cost, restart, mtbf) for tau in intervals]
    best = intervals[int(np.argmin(losses))]
    assert checkpoint_interval_ms(cost, mtbf) == pytest.approx(best, rel=0.03)


def test_the_expected_cost_is_what_a_simulation_loses() -> None:
    rng = np.random.default_rng(1)
    tau, cost, restart, mtbf = 100.0, 5.0, 20.0, 400.0
    segments, total = 20_000, 0.0
    for _ in range(segments):
        need = tau + cost
        while (failure := rng.exponential(mtbf)) < need:
            total += failure
            # A failure while restarting begins the restart, and nothing else, again.
            while (again := rng.exponential(mtbf)) < restart:
                total += again
            total += restart
        total += need
    # Daly's formula lets a restart that fails repeat together with the segment: both within 3 %.
    assert total / (segments * tau) - 1 == pytest.approx(
        expected_overhead(tau, cost, restart, mtbf), rel=0.06
    )


def test_faults_are_named() -> None:
    with pytest.raises(ValidationError, match="mtbf_ms"):
        checkpoint_interval_ms(1, 0)
    with pytest.raises(ValidationError, match="cost_ms"):
        checkpoint_interval_ms(-1, 1)
    with pytest.raises(ValidationError, match="nodes"):
        gang_mtbf_ms(1, 0)
    with pytest.raises(ValidationError, match="interval_ms"):
        expected_overhead(0, 1, 1, 1)
