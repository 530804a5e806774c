"""What public traces do not record: costs of interruptions, estimates, and who may be resized.

A seeded transform of a trace. All policies are judged on the same enriched trace, so that the same
job costs everybody the same. Figures are those of :class:`GpuClusterParameters` where it has them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from envs.workloads.generators.gpu_cluster import GpuClusterParameters
from envs.workloads.profiles import POLLUX_MIX
from envs.workloads.trace import Trace, unplaceable
from orchestrator.errors import ConfigurationError
from orchestrator.semantics import resolve_enums
from orchestrator.workloads.throughput import APPLICATIONS

__all__ = ["CurveMix", "Enrichment", "enrich", "of_tenants"]

_SHARES = ("preemptible_share", "elastic_share")
_SPREADS = ("checkpoint_sigma", "restart_sigma", "regroup_sigma", "estimate_sigma")
_POSITIVE = ("checkpoint_median_s", "restart_median_s", "regroup_median_s", "estimate_median")


class CurveMix(IntEnum):
    """Which throughput curves elastic jobs are dealt."""

    EVEN = 0
    """Each as often as the others."""
    GPU_TIME = 1
    """By their GPU time, as ``profiles.POLLUX_MIX`` has it: curve i is the i-th of
    ``orchestrator.workloads.throughput.APPLICATIONS``."""


@dataclass(frozen=True)
class Enrichment:
    """What is added, and where the defaults come from.

    Parameters
    ----------
    seed : int
    costs : bool
        Draw checkpoints and restarts; False: keep what the trace has.
    checkpoint_intervals_s : tuple of float
        Equally likely times between periodic saves. Assumption, around common practice.
    checkpoint_median_s, checkpoint_sigma : float
        Log-normal cost of a planned checkpoint. Assumption.
    restart_median_s, restart_sigma : float
        Log-normal cost of starting again. The median is the 30 s that Pollux (OSDI 2021)
        charges; the spread is an assumption.
    regroup_median_s, regroup_sigma : float
        Log-normal cost of changing the number of workers without stopping them. Assumption:
        below a restart, since the model stays in memory.
    estimates : bool
        Draw users' estimates; False: keep the trace's (Philly has none: the true duration).
    estimate_median, estimate_sigma : float
        An estimate is the duration times a log-normal error. Assumption: most users ask for
        more than they need.
    estimate_ladder_s : tuple of float
        Estimates are rounded up to these (Tsafrir, Etsion and Feitelson, JSSPP 2005: users type
        round numbers); above the last they are kept as drawn.
    preemptible_share : float or None
        Share of jobs that may be preempted; None: keep what the trace has. Assumption.
    elastic_share : float
        Share of the jobs on several GPUs that may be resized, with one worker for each GPU.
        Assumption: data-parallel training, but not all of it is written to be resized.
    shrink, grow : float
        Fewest and most workers of such a job, relative to those it asks for. Assumption.
    curves : int
        Throughput curves that such jobs are dealt; 0: more workers gain in proportion. What the
        curves are is the scenario's (``envs.Scenario.curves``).
    curve_mix : CurveMix
        Which of them a job is dealt.
    """

    seed: int = 0
    costs: bool = True
    checkpoint_intervals_s: tuple[float, ...] = GpuClusterParameters.checkpoint_intervals_s
    checkpoint_median_s: float = GpuClusterParameters.checkpoint_median_s
    checkpoint_sigma: float = GpuClusterParameters.checkpoint_sigma
    restart_median_s: float = GpuClusterParameters.restart_median_s
    restart_sigma: float = GpuClusterParameters.restart_sigma
    regroup_median_s: float = 5.0
    regroup_sigma: float = 0.5
    estimates: bool = True
    estimate_median: float = GpuClusterParameters.estimate_median
    estimate_sigma: float = GpuClusterParameters.estimate_sigma
    estimate_ladder_s: tuple[float, ...] = field(
        default=GpuClusterParameters.estimate_ladder_s, repr=False
    )
    preemptible_share: float | None = 0.9
    elastic_share: float = 0.5
    shrink: float = 0.5
    grow: float = 2.0
    curves: int = 0
    curve_mix: CurveMix = CurveMix.EVEN

    def __post_init__(self) -> None:
        """Refuse values that describe no distribution."""
        resolve_enums(self, "enrichment")
        for name in ("checkpoint_intervals_s", "estimate_ladder_s"):
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        for name in _SHARES:
            if getattr(self, name) is not None:
                check_finite(f"enrichment: '{name}'", getattr(self, name), 0, 1)
        for name in _SPREADS:
            check_finite(f"enrichment: '{name}'", getattr(self, name), 0)
        for name in _POSITIVE:
            check_finite(f"enrichment: '{name}'", getattr(self, name), above=0)
        if not self.checkpoint_intervals_s or min(self.checkpoint_intervals_s) <= 0:
            raise ConfigurationError(
                "enrichment: 'checkpoint_intervals_s' must hold positive numbers, at least one"
            )
        for name in ("seed", "curves"):
            check_whole(f"enrichment: '{name}'", getattr(self, name), 0)
        if self.curve_mix == CurveMix.GPU_TIME and self.curves != len(APPLICATIONS):
            raise ConfigurationError(
                f"enrichment: 'curves' is {self.curves}, but by GPU time the {len(APPLICATIONS)} "
                f"applications {', '.join(APPLICATIONS)} are dealt; set it to {len(APPLICATIONS)}, "
                "and name them in this order as the scenario's 'curves'"
            )
        check_finite("enrichment: 'shrink'", self.shrink, most=1, above=0)
        check_finite("enrichment: 'grow'", self.grow, 1)


def enrich(trace: Trace, options: Enrichment | None = None) -> Trace:
    """Add what a trace does not record.

    Parameters
    ----------
    trace : Trace
    options : Enrichment or None, optional
        None: the defaults.

    Returns
    -------
    Trace
        The same jobs on the same cluster. What is drawn for a job depends on the seed and on its
        place in the trace only, each quantity on a random stream of its own.
    """
    options = options or Enrichment()
    requests = trace.requests.copy()
    requests.flags.writeable = True
    streams = np.random.SeedSequence(options.seed).spawn(8)
    drawn = [np.random.Generator(np.random.Philox(stream)) for stream in streams]
    if options.costs:
        _add_costs(requests, drawn[:3], options)
    requests["regroup_ms"] = _log_normal(
        drawn[3], len(trace), options.regroup_median_s, options.regroup_sigma
    )
    if options.estimates:
        requests["requested_ms"] = _estimates(drawn[4], requests["duration_ms"], options)
    chance = drawn[5].random(len(trace))
    if options.preemptible_share is not None:
        requests["preemptible"] = chance < options.preemptible_share
    _make_elastic(requests, drawn[6].random(len(trace)), max(trace.gpus, 1), options)
    if options.curves > 0:
        dealt = _deal_curves(requests, drawn[7], options)
        requests["curve"] = np.where(requests["elastic"] != 0, dealt, 0)
    return replace(trace, name=f"{trace.name}, enriched", requests=requests)


def of_tenants(
    trace: Trace, only: Collection[str] | None = None, without: Collection[str] = ()
) -> Trace:
    """Keep certain tenants' jobs, at the times at which they came.

    Parameters
    ----------
    trace : Trace
    only : collection of str or None, optional
        Tenants to keep; None: all.
    without : collection of str, optional
        Of those, tenants to leave out.

    Returns
    -------
    Trace
        With the same tenants and nodes; jobs that could never run on the nodes are left out too.
    """
    for name in (*(only or ()), *without):
        if name not in trace.tenants:
            raise ConfigurationError(
                f"trace '{trace.name}' has no tenant '{name}'; it has {', '.join(trace.tenants)}"
            )
    names = [name for name in (trace.tenants if only is None else only) if name not in without]
    kept = [trace.tenants.index(name) for name in names]
    keep = np.isin(trace.requests["tenant"], kept)
    if trace.nodes:
        keep &= ~unplaceable(trace.requests, trace.nodes)
    if not keep.any():
        raise ConfigurationError(
            f"trace '{trace.name}': nothing is left of its jobs; keep other tenants or more nodes"
        )
    label = trace.name
    if only is not None:
        label += f", only {' '.join(only)}"
    if without:
        label += f", without {' '.join(without)}"
    return replace(trace, name=label, requests=trace.requests[keep])


def _log_normal(
    rng: np.random.Generator, number: int, median_s: float, sigma: float
) -> NDArray[np.int64]:
    """Milliseconds."""
    drawn: NDArray[np.int64] = np.rint(
        1000.0 * median_s * np.exp(sigma * rng.standard_normal(number))
    ).astype(np.int64)
    return drawn


def _add_costs(
    requests: NDArray[np.void], drawn: list[np.random.Generator], options: Enrichment
) -> None:
    number = len(requests)
    intervals = np.array(options.checkpoint_intervals_s) * 1000.0
    requests["checkpoint_interval_ms"] = drawn[0].choice(intervals, number)
    requests["checkpoint_ms"] = _log_normal(
        drawn[1], number, options.checkpoint_median_s, options.checkpoint_sigma
    )
    requests["restart_ms"] = _log_normal(
        drawn[2], number, options.restart_median_s, options.restart_sigma
    )


def _estimates(
    rng: np.random.Generator, duration_ms: NDArray[np.int64], options: Enrichment
) -> NDArray[np.int64]:
    """The duration times an error, rounded up to the ladder, whole seconds in ms."""
    error = options.estimate_median * np.exp(
        options.estimate_sigma * rng.standard_normal(len(duration_ms))
    )
    guess = np.maximum(1.0, np.rint(duration_ms / 1000.0 * error))
    ladder = np.array(options.estimate_ladder_s, np.float64)
    step = np.searchsorted(ladder, guess)
    inside = step < len(ladder)
    guess[inside] = ladder[step[inside]]
    return guess.astype(np.int64) * 1000


def _deal_curves(
    requests: NDArray[np.void], rng: np.random.Generator, options: Enrichment
) -> NDArray[np.int64]:
    """The curve of each job, were it elastic: 1 .. curves."""
    if options.curve_mix == CurveMix.EVEN:
        return rng.integers(1, options.curves + 1, len(requests))
    names, chance = list(APPLICATIONS), rng.random(len(requests))
    gpus = requests["workers"].astype(np.int64) * requests["gpus_per_worker"]
    hours = requests["duration_ms"] / 3.6e6 * gpus
    dealt, above = np.zeros(len(requests), np.int64), -1.0
    for size in POLLUX_MIX:
        curves = np.array([names.index(name) + 1 for name in size.applications])
        mine = (hours >= above) & (hours < size.below_gpu_hours)
        dealt[mine] = curves[(chance[mine] * len(curves)).astype(np.int64)]
        above = size.below_gpu_hours
    return dealt


def _make_elastic(
    requests: NDArray[np.void], chance: NDArray[np.float64], gpus: int, options: Enrichment
) -> None:
    """Give some jobs on several whole GPUs one worker for each, and room to shrink and grow."""
    each = requests["gpus_per_worker"].astype(np.int64)
    asked = requests["workers"].astype(np.int64) * each
    chosen = (asked > 1) & (requests["gpu_milli"] == 1000) & (chance < options.elastic_share)
    per_gpu = np.maximum(each, 1)
    for name in ("cpu_milli", "memory_mib"):
        requests[name] = np.where(chosen, requests[name] // per_gpu, requests[name])
    least = np.maximum(np.ceil(asked * options.shrink), 1).astype(np.int64)
    most = np.maximum(np.minimum(np.floor(asked * options.grow), gpus), asked).astype(np.int64)
    for name, value in (
        ("workers", asked),
        ("min_workers", least),
        ("max_workers", most),
        ("gpus_per_worker", np.ones_like(asked)),
        ("elastic", np.ones_like(asked)),
    ):
        requests[name] = np.where(chosen, value, requests[name])
