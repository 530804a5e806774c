"""Synthetic batch workloads after Lublin and Feitelson.

U. Lublin and D. G. Feitelson, "The workload on parallel supercomputers: modeling the
characteristics of rigid jobs", Journal of Parallel and Distributed Computing 63(11), 2003. The
parameter values are the published ones for all jobs together (batch and interactive alike), as
given by the authors' program in the Parallel Workloads Archive.

Size
    A job is serial with a fixed probability; otherwise the binary logarithm of its size is
    two-stage uniform, and rounded to an integer with a fixed probability (powers of two).
Run time
    Its natural logarithm is hyper-gamma: a mixture of two gamma distributions. Larger jobs are
    more often drawn from the second, longer one.
Arrivals
    The logarithm of the time between jobs *in the rush hours' clock* is gamma. That clock runs
    faster or slower over the day: the share of each of 48 half-hours follows a gamma density.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from envs.workloads.readers.swf import processor_pool
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import Stream

__all__ = ["LublinParameters", "daily_weights", "lublin_feitelson", "on_daily_clock"]

_BUCKETS = 48
_BUCKET_S = 1800.0
_LOG_MAX = 20.0
"""ln of the longest run time or gap in seconds that a draw may give: 15 years."""
_MAX_PROCESSORS = 2_000_000
"""Above it, a worker's milli-cores would not fit 32 bits."""


@dataclass(frozen=True)
class LublinParameters:
    """Parameters of the model; the defaults are the published values (but see `gap_log_max`).

    Parameters
    ----------
    serial, power_of_two : float
        Share of serial jobs; of parallel jobs whose size is a power of two (of all jobs).
    size_low, size_medium_below_high, size_first : float
        log2 of the smallest parallel size; distance of the knee of the two-stage uniform
        distribution below log2 of the machine's size; weight of its first stage.
    short_shape, short_scale, long_shape, long_scale : float
        Gamma distributions of ln(run time in s), short and long jobs.
    short_slope, short_intercept : float
        Probability of the short one: slope * processors + intercept, kept in [0, 1].
    run_log_max : float
        Largest ln(run time in s); a larger draw is repeated.
    gap_shape, gap_scale, gap_factor : float
        Gamma distribution of ln(time between arrivals in s) in the rush hours; factor on
        the shape that extends it to the whole day.
    gap_log_max : float
        Largest ln(time between arrivals in s); a larger draw is repeated. Not a parameter of
        the paper: the authors' program cuts at 13. Among the 10,000 jobs of their sample
        ``lublin_256`` none exceeds 11.74, which has probability 0.7 % under that limit and
        17 % under 12; the tail decides the mean gap, and so the offered load.
    cycle_shape, cycle_scale : float
        Gamma density of arrivals over the half-hours of the day.
    cycle_start : int
        First half-hour that the density describes; the ones before are taken from its far end.
    """

    serial: float = 0.244
    power_of_two: float = 0.576
    size_low: float = 0.8
    size_medium_below_high: float = 2.5
    size_first: float = 0.86
    short_shape: float = 4.2
    short_scale: float = 0.94
    long_shape: float = 312.0
    long_scale: float = 0.03
    short_slope: float = -0.0054
    short_intercept: float = 0.78
    run_log_max: float = 12.0
    gap_shape: float = 10.2303
    gap_scale: float = 0.4871
    gap_factor: float = 1.0225
    gap_log_max: float = 12.0
    cycle_shape: float = 8.1737
    cycle_scale: float = 3.9631
    cycle_start: int = 11

    def __post_init__(self) -> None:
        """Refuse values that describe no distribution, or whose draws would hardly end."""
        for name in ("serial", "power_of_two", "size_first"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                _refuse(name, getattr(self, name), "it must be a probability")
        positive = ("_shape", "_scale", "_factor")
        for name in (field.name for field in fields(self) if field.name.endswith(positive)):
            if not 0.0 < getattr(self, name) < float("inf"):
                _refuse(name, getattr(self, name), "it must be positive")
        run = max(self.short_shape * self.short_scale, self.long_shape * self.long_scale)
        gap = self.gap_shape * self.gap_factor * self.gap_scale
        for limit, mean in (("run_log_max", run), ("gap_log_max", gap)):
            if not mean <= getattr(self, limit) <= _LOG_MAX:
                _refuse(limit, getattr(self, limit), f"it must be {mean:.4g} to {_LOG_MAX:g}")


def _refuse(name: str, value: float, remedy: str) -> None:
    raise ConfigurationError(f"lublin: parameter '{name}' is {value}; {remedy}")


def lublin_feitelson(
    jobs: int,
    seed: int,
    *,
    processors: int = 256,
    parameters: LublinParameters | None = None,
    load: float | None = None,
) -> Trace:
    """Draw jobs from the model of Lublin and Feitelson.

    Parameters
    ----------
    jobs : int
        Number of jobs, at least 1.
    seed : int
        Not negative; the same seed gives the same trace.
    processors : int, optional
        Size of the machine.
    parameters : LublinParameters or None, optional
        None takes the published values.
    load : float or None, optional
        Offered load wanted. The arrival times are stretched to give exactly this; None leaves
        them as drawn. Stretching also stretches the daily cycle.

    Returns
    -------
    Trace
        One worker of p cores for a job of p processors, exact estimates, times in whole
        seconds, on one pool of `processors` cores. Time 0 is midnight.
    """
    _check(jobs, seed, processors, load)
    p = parameters or LublinParameters()
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, Stream.WORKLOAD])))
    sizes = _draw_sizes(rng, jobs, processors, p)
    run_s = _draw_run_times(rng, sizes, p)
    submit_s = _draw_arrivals(rng, jobs, p)
    if load is not None:
        submit_s = _stretch(submit_s, float(np.dot(sizes, run_s)), processors, load)
    requests = blank_requests(jobs)
    requests["submit_ms"] = np.floor(submit_s).astype(np.int64) * 1000
    requests["duration_ms"] = requests["requested_ms"] = run_s * 1000
    requests["cpu_milli"] = sizes * 1000
    requests["source_id"] = np.arange(1, jobs + 1)
    return Trace(f"lublin-{processors}-{seed}", requests, nodes=(processor_pool(processors),))


def daily_weights(parameters: LublinParameters) -> NDArray[np.float64]:
    """Relative arrival rate of each half-hour of the day, mean 1.

    Parameters
    ----------
    parameters : LublinParameters
        The model.

    Returns
    -------
    ndarray of float64, shape [48]
        Index 0 is the half-hour from midnight.
    """
    # Bucket i of the paper counts from 1 and is centred on i: its share is the density's mass
    # over [i - 1/2, i + 1/2], for the 48 buckets that follow cycle_start.
    first = parameters.cycle_start
    edges = np.arange(first, first + _BUCKETS + 1, dtype=np.float64) - 0.5
    mass = np.diff(_gamma_cdf(edges, parameters.cycle_shape, parameters.cycle_scale))
    weights = np.empty(_BUCKETS)
    weights[(np.arange(first, first + _BUCKETS) - 1) % _BUCKETS] = mass / mass.mean()
    return weights


def _check(jobs: int, seed: int, processors: int, load: float | None) -> None:
    check_whole("lublin: 'jobs'", jobs, 1)
    check_whole("lublin: 'seed'", seed, 0)
    check_whole("lublin: 'processors'", processors, 4, _MAX_PROCESSORS)
    if load is not None:
        check_finite("lublin: 'load'", load, above=0)


def _gamma_cdf(x: NDArray[np.float64], shape: float, scale: float) -> NDArray[np.float64]:
    from scipy.special import gammainc

    return np.asarray(gammainc(shape, x / scale), dtype=np.float64)


def _gamma_below(
    rng: np.random.Generator, shape: NDArray[np.float64], scale: NDArray[np.float64], limit: float
) -> NDArray[np.float64]:
    """Draw gamma variates, repeating those above the limit."""
    values = rng.gamma(shape, scale)
    while True:
        over = np.flatnonzero(values > limit)
        if len(over) == 0:
            return values
        values[over] = rng.gamma(shape[over], scale[over])


def _draw_sizes(
    rng: np.random.Generator, jobs: int, processors: int, p: LublinParameters
) -> NDArray[np.int64]:
    kind = rng.random(jobs)
    first = rng.random(jobs) <= p.size_first
    place = rng.random(jobs)
    high = np.log2(processors)
    knee = high - p.size_medium_below_high
    if knee < p.size_low + 1.0:
        # A small machine: the authors let the knee lie from 1.5 to 3.5 below the top.
        knee = max(high - 1.5, p.size_low)
    low_end = np.where(first, p.size_low, knee)
    high_end = np.where(first, knee, high)
    exponent = low_end + (high_end - low_end) * place
    power = kind <= p.serial + p.power_of_two
    exponent[power] = np.floor(exponent[power] + 0.5)
    sizes: NDArray[np.int64] = np.floor(np.exp2(exponent) + 0.5).astype(np.int64)
    sizes[kind <= p.serial] = 1
    np.minimum(sizes, processors, out=sizes)
    return sizes


def _draw_run_times(
    rng: np.random.Generator, sizes: NDArray[np.int64], p: LublinParameters
) -> NDArray[np.int64]:
    short = rng.random(len(sizes)) <= np.clip(p.short_slope * sizes + p.short_intercept, 0.0, 1.0)
    shape = np.where(short, p.short_shape, p.long_shape)
    scale = np.where(short, p.short_scale, p.long_scale)
    logarithm = _gamma_below(rng, shape, scale, p.run_log_max)
    seconds: NDArray[np.int64] = np.exp(logarithm).astype(np.int64)
    return seconds


def _draw_arrivals(rng: np.random.Generator, jobs: int, p: LublinParameters) -> NDArray[np.float64]:
    """Arrival times in seconds from midnight."""
    shape = np.full(jobs, p.gap_shape * p.gap_factor)
    scale = np.full(jobs, p.gap_scale)
    gaps_s = np.exp(_gamma_below(rng, shape, scale, p.gap_log_max))
    return on_daily_clock(gaps_s, daily_weights(p))


def on_daily_clock(
    gaps_s: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Arrival times of jobs whose gaps are told on the even clock.

    A gap costs points, one for each half-hour of the even clock; a half-hour of the day pays as
    many points as its weight. So arrival times are the inverse of the cumulated daily weights,
    taken at the cumulated gaps: no loop over jobs or half-hours is needed.

    Parameters
    ----------
    gaps_s : ndarray of float64, shape [jobs]
        Gaps before each job, seconds.
    weights : ndarray of float64, shape [48]
        Relative arrival rate of each half-hour, see :func:`daily_weights`.

    Returns
    -------
    ndarray of float64, shape [jobs]
        Seconds from midnight.
    """
    paid = np.concatenate(([0.0], np.cumsum(weights)))
    days, rest = np.divmod(np.cumsum(gaps_s / _BUCKET_S), paid[-1])
    buckets = days * _BUCKETS + np.interp(rest, paid, np.arange(_BUCKETS + 1))
    seconds: NDArray[np.float64] = buckets * _BUCKET_S
    return seconds


def _stretch(
    submit_s: NDArray[np.float64], work: float, processors: int, load: float
) -> NDArray[np.float64]:
    """Scale the arrival times so that the offered load is as wanted."""
    span = submit_s[-1] - submit_s[0]
    if span <= 0:
        raise ConfigurationError("lublin: 'load' needs at least two jobs that arrive apart")
    stretched: NDArray[np.float64] = submit_s * (work / (processors * load * span))
    return stretched
