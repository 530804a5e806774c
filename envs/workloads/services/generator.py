"""Synthetic demand of services: a daily rhythm, bursts and noise.

The shape follows what ServeGen (arXiv 2505.09999) and this project's statistics of its tables
show: a peak in the evening at about twice the trough, short surges of single clients to several
times the usual rate, and fluctuations that last for tens of minutes. It is a model of ours, not a
fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envs.checks import check_finite, check_whole
from envs.workloads.services.series import ServiceSeries
from orchestrator.kernels.state.codes import Stream

__all__ = ["ServiceRhythm", "generate_services"]

_DAY_S = 86_400.0


@dataclass(frozen=True)
class ServiceRhythm:
    """How demand goes.

    Parameters
    ----------
    mean_rps : float
        Median over services of their mean rate without bursts.
    spread : float
        Standard deviation of the logarithm of that rate between services.
    daily : float
        Amplitude of the day's cosine relative to its mean, 0 to 1.
    peak_hour, peak_spread_hours : float
        When the day peaks, and how far single services are apart in that (standard deviation).
    noise, noise_minutes : float
        Standard deviation of the logarithm of the fluctuations, and their correlation time.
    bursts_per_day, burst_minutes, burst_factor : float
        How often demand surges, for how long (mean, exponential), to how many times its rate.
    """

    mean_rps: float = 20.0
    spread: float = 0.5
    daily: float = 0.4
    peak_hour: float = 20.0
    peak_spread_hours: float = 1.0
    noise: float = 0.1
    noise_minutes: float = 30.0
    bursts_per_day: float = 2.0
    burst_minutes: float = 10.0
    burst_factor: float = 3.0

    def __post_init__(self) -> None:
        """Refuse values that describe no demand."""
        at_least = {"daily": 0.0, "spread": 0.0, "noise": 0.0, "burst_factor": 1.0}
        at_least |= {"bursts_per_day": 0.0, "peak_hour": 0.0, "peak_spread_hours": 0.0}
        for name in self.__dataclass_fields__:
            what, value = f"ServiceRhythm: '{name}'", getattr(self, name)
            if name in at_least:
                check_finite(what, value, at_least[name], 1.0 if name == "daily" else None)
            else:
                check_finite(what, value, above=0)


def _check(services: int, ticks: int, seed: int, tick_s: float) -> None:
    for name, value, least in (("services", services, 1), ("ticks", ticks, 1), ("seed", seed, 0)):
        check_whole(f"generate_services: '{name}'", value, least)
    check_finite("generate_services: 'tick_s'", tick_s, above=0)


def generate_services(
    services: int,
    ticks: int,
    seed: int,
    *,
    tick_s: float = 60.0,
    rhythm: ServiceRhythm | None = None,
) -> ServiceSeries:
    """Draw the demand of some services, beginning at midnight.

    Parameters
    ----------
    services, ticks : int
        How many of each.
    seed : int
        The same arguments give the same series.
    tick_s : float, optional
        Length of a tick.
    rhythm : ServiceRhythm or None, optional
        How demand goes.

    Returns
    -------
    ServiceSeries
        Services ``service-0`` and so on.
    """
    _check(services, ticks, seed, tick_s)
    p = rhythm if rhythm is not None else ServiceRhythm()
    entropy = np.random.SeedSequence([seed, Stream.WORKLOAD, Stream.SERVICES])
    rng = np.random.Generator(np.random.Philox(entropy))
    base = p.mean_rps * np.exp(p.spread * rng.standard_normal(services))
    peak_s = 3600.0 * (p.peak_hour + p.peak_spread_hours * rng.standard_normal(services))
    time_s = (np.arange(ticks) + 0.5) * tick_s
    cosine = np.cos(2.0 * np.pi * (time_s[None] - peak_s[:, None]) / _DAY_S)
    rates = base[:, None] * (1.0 + p.daily * cosine)

    keep = math.exp(-tick_s / (60.0 * p.noise_minutes))  # autoregressive of order one
    shocks = rng.standard_normal((services, ticks))
    shocks[:, 1:] *= math.sqrt(1.0 - keep * keep)
    for k in range(1, ticks):
        shocks[:, k] += keep * shocks[:, k - 1]
    rates *= np.exp(p.noise * shocks - 0.5 * p.noise**2)

    for row in rates:
        count = int(rng.poisson(p.bursts_per_day * ticks * tick_s / _DAY_S))
        surge = np.ones(ticks)
        for begin_s, length_s in zip(
            rng.uniform(0.0, ticks * tick_s, count),
            rng.exponential(60.0 * p.burst_minutes, count),
            strict=True,
        ):
            inside = (time_s >= begin_s) & (time_s < begin_s + length_s)
            surge[inside] = p.burst_factor
        row *= surge
    names = tuple(f"service-{s}" for s in range(services))
    return ServiceSeries(tick_s, names, rates.astype(np.float32))
