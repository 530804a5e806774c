"""Paired statistics over windows.

Windows are the tasks of rliable's vocabulary. A few hard windows dominate every mean, so the
interquartile mean and the share of windows won stand beside it. Intervals are 95 % percentile
bootstraps over the windows; a pair is drawn together, and the same draws serve every policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError

__all__ = [
    "Comparison",
    "Interval",
    "Sample",
    "Summary",
    "compare",
    "group_improvement",
    "group_ratio",
    "mean_difference",
    "mean_ratio",
    "summarise",
]

_LEVEL = 0.95
_CUT = 0.25  # of the interquartile mean, at each end

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One policy's values over all windows.

    Parameters
    ----------
    mean, iqm : Interval
        Mean and interquartile mean.
    median : float
    """

    mean: Interval
    iqm: Interval
    median: float


@dataclass(frozen=True)
class Sample:
    """A policy's values of a metric, window by window.

    Parameters
    ----------
    policy : str
        Its name in tables.
    values : float64 [M]
    """

    policy: str
    values: Values

    def first(self, count: int) -> Sample:
        """The values of the first windows."""
        return Sample(self.policy, self.values[:count])


@dataclass(frozen=True)
class Comparison:
    """A policy against a baseline on the same windows.

    Parameters
    ----------
    policy, baseline, metric : str
    windows : int
    difference : Interval
        Mean over windows of policy minus baseline.
    ratio : Interval
        Mean of the policy over mean of the baseline.
    iqm_ratio : Interval
        The same of the interquartile means.
    improvement : Interval
        Probability of improvement: share of windows on which the policy is better, ties counting
        half.
    won, tied : float
        Shares of windows.
    """

    policy: str
    baseline: str
    metric: str
    windows: int
    difference: Interval
    ratio: Interval
    iqm_ratio: Interval
    improvement: Interval
    won: float
    tied: float


def summarise(values: Values, seed: int = 0, draws: int = 10_000) -> Summary:
    """Mean and interquartile mean of a policy's values, [M], with intervals."""
    from rliable.metrics import aggregate_iqm

    values = _checked(values)
    drawn = values[_draws(len(values), seed, draws)]
    mean = _interval(float(values.mean()), drawn.mean(axis=1))
    iqm = _interval(float(aggregate_iqm(values[np.newaxis])), _iqm(drawn))
    return Summary(mean, iqm, float(np.median(values)))


def compare(
    mine: Sample,
    other: Sample,
    metric: str,
    *,
    sign: int = -1,
    seed: int = 0,
    draws: int = 10_000,
) -> Comparison:
    """Compare two policies on the same windows.

    Parameters
    ----------
    mine, other : Sample
        The policy and its baseline.
    metric : str
        Its name for the table.
    sign : {-1, 1}, optional
        Whether less (-1) or more (1) is better.
    seed : int, optional
        Of the bootstrap.
    draws : int, optional
        Resamples.

    Returns
    -------
    Comparison
    """
    from rliable.metrics import aggregate_iqm, probability_of_improvement

    values, reference = _checked(mine.values), _checked(other.values)
    if len(values) != len(reference):
        problem = f"has {len(values)} windows, '{other.policy}' {len(reference)}"
        raise ValidationError(
            f"'{mine.policy}'", metric, problem, "evaluate both on the same windows"
        )
    drawn = _draws(len(values), seed, draws)
    ours, theirs = values[drawn], reference[drawn]
    gain = sign * (values - reference)
    better = np.where(gain == 0, 0.5, gain > 0)
    iqm, reference_iqm = (float(aggregate_iqm(v[np.newaxis])) for v in (values, reference))
    improvement = probability_of_improvement(
        sign * values[np.newaxis], sign * reference[np.newaxis]
    )
    return Comparison(
        policy=mine.policy,
        baseline=other.policy,
        metric=metric,
        windows=len(values),
        difference=mean_difference(values, reference, seed, draws),
        ratio=_ratio(values.mean(), reference.mean(), ours.mean(axis=1), theirs.mean(axis=1)),
        iqm_ratio=_ratio(iqm, reference_iqm, _iqm(ours), _iqm(theirs)),
        improvement=_interval(float(improvement), better[drawn].mean(axis=1)),
        won=float((gain > 0).mean()),
        tied=float((gain == 0).mean()),
    )


def mean_difference(
    values: Values, reference: Values, seed: int = 0, draws: int = 10_000
) -> Interval:
    """Mean over windows, [M] each, of one policy minus another, with its interval."""
    gap = _checked(values) - _checked(reference)
    return _interval(float(gap.mean()), gap[_draws(len(gap), seed, draws)].mean(axis=1))


def mean_ratio(values: Values, reference: Values, seed: int = 0, draws: int = 10_000) -> Interval:
    """Mean over windows, [M] each, of one policy over the mean of another, with its interval."""
    mine, other = _checked(values), _checked(reference)
    drawn = _draws(len(mine), seed, draws)
    parts, wholes = mine[drawn].mean(axis=1), other[drawn].mean(axis=1)
    return _ratio(mine.mean(), other.mean(), parts, wholes)


def group_ratio(mine: Values, other: Values, seed: int = 0, draws: int = 10_000) -> Interval:
    """Mean cost of a group of runs over that of another, with its interval.

    Windows are drawn anew, the same for both groups, and so are the runs of each: the interval is
    about other windows and other seeds. With few seeds it is too narrow.

    Parameters
    ----------
    mine, other : float64 [S, M], [T, M]
        Cost of each run (each seed) on each window.
    seed, draws : int, optional
        Of the bootstrap.
    """
    first, second = _checked_group(mine), _checked_group(other)
    windows, runs, others = _group_draws(first, second, seed, draws)
    parts = ((windows @ first.T) * runs).sum(axis=1)
    wholes = ((windows @ second.T) * others).sum(axis=1)
    return _ratio(first.mean(), second.mean(), parts, wholes)


def group_improvement(mine: Values, other: Values, seed: int = 0, draws: int = 10_000) -> Interval:
    """Probability that a run of a group costs less than one of another on the same window.

    The share of all pairs of runs, ties counting half, averaged over windows (Agarwal et al.,
    "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021). Its
    interval is drawn as for :func:`group_ratio`, where their stratified bootstrap takes the
    windows as given.

    Parameters
    ----------
    mine, other : float64 [S, M], [T, M]
    seed, draws : int, optional
    """
    from rliable.metrics import probability_of_improvement

    first, second = _checked_group(mine), _checked_group(other)
    windows, runs, others = _group_draws(first, second, seed, draws)
    gain = second[np.newaxis] - first[:, np.newaxis]
    better = np.where(gain == 0, 0.5, gain > 0).reshape(-1, first.shape[1])
    drawn = (windows @ better.T).reshape(draws, len(first), len(second))
    shares = np.einsum("dst,ds,dt->d", drawn, runs, others)
    return _interval(float(probability_of_improvement(-first, -second)), shares)


def _checked_group(values: Values) -> Values:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        problem = f"have shape {values.shape} or are not finite"
        raise ValidationError("statistics", "values", problem, "give one row for each run")
    return values


def _group_draws(first: Values, second: Values, seed: int, draws: int) -> tuple[Values, ...]:
    """How often each window, each run of one group and of the other is drawn, as shares."""
    rng = np.random.default_rng(seed)
    counts = (first.shape[1], len(first), len(second))
    return tuple(rng.multinomial(n, np.full(n, 1.0 / n), draws) / n for n in counts)


def _checked(values: Values) -> Values:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        problem = f"have shape {values.shape} or are not finite"
        raise ValidationError("statistics", "values", problem, "give one number for each window")
    return values


def _draws(count: int, seed: int, draws: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(count, size=(draws, count))


def _interval(value: float, drawn: Values) -> Interval:
    tail = (1.0 - _LEVEL) / 2.0
    low, high = np.quantile(drawn, (tail, 1.0 - tail))
    return Interval(value, float(low), float(high))


def _iqm(drawn: Values) -> Values:
    from scipy.stats import trim_mean

    trimmed: Values = trim_mean(drawn, _CUT, axis=1)
    return trimmed


def _ratio(part: float, whole: float, parts: Values, wholes: Values) -> Interval:
    """Quotient with its interval; 1 where both are 0 (no preemptions on either side, say)."""
    above, below = np.append(parts, part), np.append(wholes, whole)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where((above == 0) & (below == 0), 1.0, above / below)
    return _interval(float(quotient[-1]), quotient[:-1])
