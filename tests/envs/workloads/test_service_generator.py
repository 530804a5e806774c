"""Demand of services, generated."""

from __future__ import annotations

import numpy as np
import pytest

from envs.workloads.services import (
    ServiceRhythm,
    generate_services,
)
from orchestrator.errors import ConfigurationError


def test_generated_demand() -> None:
    made = generate_services(4, 1440 * 3, 7)
    again = generate_services(4, 1440 * 3, 7)
    assert (made.rates == again.rates).all()
    assert (made.rates != generate_services(4, 1440 * 3, 8).rates).any()
    assert made.names == ("service-0", "service-1", "service-2", "service-3")
    calm = ServiceRhythm(noise=0.0, bursts_per_day=0.0, spread=0.0, peak_spread_hours=0.0)
    quiet = generate_services(2, 1440, 1, rhythm=calm)
    assert quiet.rates.mean() == pytest.approx(calm.mean_rps, rel=1e-3)
    assert abs(int(quiet.rates[0].argmax()) - 20 * 60) <= 1
    assert quiet.rates.max() / quiet.rates.min() == pytest.approx(1.4 / 0.6, rel=1e-3)
    surge = ServiceRhythm(noise=0.0, bursts_per_day=30.0, spread=0.0, peak_spread_hours=0.0)
    ratio = generate_services(2, 1440, 1, rhythm=surge).rates / quiet.rates
    assert set(np.round(np.unique(ratio), 3)) == {1.0, 3.0}
    noisy = ServiceRhythm(bursts_per_day=0.0, spread=0.0, daily=0.0, noise=0.2)
    log = np.log(generate_services(8, 14_400, 1, rhythm=noisy).rates)
    assert log.std() == pytest.approx(0.2, rel=0.05)
    lag = [np.corrcoef(row[:-30], row[30:])[0, 1] for row in log]
    assert np.mean(lag) == pytest.approx(np.exp(-1), abs=0.05)  # 30 minutes later


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean_rps": 0.0}, "'mean_rps' is 0.0; give a finite number above 0"),
        ({"daily": 1.5}, "'daily' is 1.5; give a finite number from 0.0 to 1.0"),
        ({"noise": -1.0}, "'noise' is -1.0; give a finite number that is at least 0"),
        ({"burst_factor": 0.5}, "'burst_factor' is 0.5; give a finite number that is at least 1"),
        ({"peak_hour": float("nan")}, "'peak_hour' is nan"),
    ],
)
def test_rhythms_that_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ServiceRhythm(**changes)


def test_generator_needs_services_and_ticks() -> None:
    with pytest.raises(ConfigurationError, match="'services' is 0"):
        generate_services(0, 5, 1)
    with pytest.raises(ConfigurationError, match="'tick_s' is -1"):
        generate_services(1, 5, 1, tick_s=-1.0)
