"""Synthetic deep-learning workloads for a GPU cluster, calibrated to Microsoft's Philly trace.

Jobs come in *bursts*: a tenant submits one job or, at the extreme, a sweep of hundreds, all of the
same shape and of similar duration. This one mechanism gives the heavy-tailed gaps, the crowded
hours and the correlation between neighbours that independent draws lack. Who submits what is
measured: see :mod:`envs.workloads.profiles`.

What Philly does not record is taken from elsewhere or assumed; :class:`GpuClusterParameters` says
which for every parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from envs.workloads.profiles import PHILLY_TENANTS, TenantProfile
from envs.workloads.readers.gpu_jobs import split_gpus
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import Stream
from orchestrator.types import JobPriority, NodeSpec

__all__ = ["GpuClusterParameters", "gpu_cluster"]

_DAY_H = 24
_WEEK_DAYS = 7
_DAY_S = 86_400.0
_HOUR_S = 3600.0
_PHILLY_GPUS = 2490
_NODES_PER_RACK = 8
_RACKS_PER_SPINE = 8


@dataclass(frozen=True)
class GpuClusterParameters:
    """Parameters of the generator, and where their defaults come from.

    Parameters
    ----------
    tenants : tuple of TenantProfile
        Philly (measured). GPU counts that the cluster cannot hold are left out.
    duration_max_days : float
        Longer draws are repeated. Philly: with 30 days the mean GPU time of a job comes out
        within a few per cent of the trace's 69,681 GPU-seconds.
    burst_max : int
        Most jobs of a burst, on Philly's 2,490 GPUs (measured: about 1,000); scaled to the
        cluster, but never below 16.
    gap_median_s, gap_sigma : float
        Log-normal time between jobs of a burst. Philly (measured).
    hours, days : tuple of float
        Relative rate of bursts by hour from midnight (24) and by day from Monday (7). Philly
        (measured, without tenant 11cb48, whose jobs are submitted by a timer).
    activity_cv : float
        Coefficient of variation of a tenant's rate from day to day (gamma, independent), on
        top of hour and weekday. Philly: 0.45 to 1.4 for all tenants but the timer.
    users_per_tenant : int
        Users follow Zipf's law within a tenant. Assumption; Philly's list names no users.
    applications_per_user : int
        Models of a user, equally likely. Assumption.
    priority_shares : tuple of four floats
        Shares of bursts by priority, most important first. Critical: the 1.3 % of pods in the
        two highest classes of service in Alibaba's openb trace (2023); best effort: the 11 %
        of spot jobs in Alibaba's 2026 trace; the split of the rest is an assumption.
    preemptible_shares : tuple of four floats
        Share of bursts that may be preempted, by priority. Assumption: best effort always,
        critical never.
    checkpoint_intervals_s : tuple of float
        Equally likely times between saves. Assumption, around common practice.
    checkpoint_median_s, checkpoint_sigma : float
        Log-normal cost of a planned checkpoint. Assumption.
    restart_median_s, restart_sigma : float
        Log-normal cost of starting again; the median is the 30 s that Pollux (OSDI 2021)
        charges. The spread is an assumption.
    estimate_median, estimate_sigma : float
        The user's estimate is the duration times a log-normal error. Assumption: most users
        ask for more than they need.
    estimate_ladder_s : tuple of float
        Estimates are rounded up to these: users type round numbers (Tsafrir, Etsion and
        Feitelson, JSSPP 2005: twenty values cover about 90 % of jobs). Above the last one,
        and for an empty ladder, they are kept as drawn.
    fractional_share : float
        Share of one-GPU bursts that need a part of a GPU. Philly: none; openb: 0.44.
    gpu_milli : tuple of int
        Those parts. The most frequent ones of openb, by frequency.
    cpu_per_gpu_milli, cpu_shares : tuples
        CPU that comes with a GPU, and how often. The most frequent values of openb.
    memory_per_gpu_mib, memory_shares : tuples
        Host memory that comes with a GPU. Rounded quantiles of openb.
    cpu_cores_per_gpu, memory_gb_per_gpu, gpu_memory_gb : int, float, float
        What the nodes have. openb: 96 cores and 384 GiB are its typical machine, here for 8
        GPUs, with memory raised to 512 GiB.
    """

    tenants: tuple[TenantProfile, ...] = PHILLY_TENANTS
    duration_max_days: float = 30.0
    burst_max: int = 1000
    gap_median_s: float = 6.5
    gap_sigma: float = 1.6
    hours: tuple[float, ...] = (
        *(1.10, 1.05, 1.12, 1.11, 0.97, 1.16, 1.28, 1.37, 1.43, 1.15, 0.93, 0.70),
        *(0.63, 0.67, 0.60, 0.67, 0.87, 0.98, 1.08, 0.89, 0.94, 1.12, 1.08, 1.07),
    )
    days: tuple[float, ...] = (1.07, 1.28, 1.22, 1.23, 1.12, 0.67, 0.42)
    activity_cv: float = 0.8
    users_per_tenant: int = 20
    applications_per_user: int = 4
    priority_shares: tuple[float, float, float, float] = (0.013, 0.20, 0.677, 0.11)
    preemptible_shares: tuple[float, float, float, float] = (0.0, 0.25, 0.75, 1.0)
    checkpoint_intervals_s: tuple[float, ...] = (600.0, 1800.0, 3600.0, 7200.0)
    checkpoint_median_s: float = 20.0
    checkpoint_sigma: float = 0.6
    restart_median_s: float = 30.0
    restart_sigma: float = 0.5
    estimate_median: float = 1.5
    estimate_sigma: float = 0.7
    estimate_ladder_s: tuple[float, ...] = (
        *(300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10800.0, 14400.0, 21600.0, 28800.0),
        *(43200.0, 64800.0, 86400.0, 129600.0, 172800.0, 259200.0, 432000.0, 604800.0),
        *(1209600.0, 2592000.0),
    )
    fractional_share: float = 0.0
    gpu_milli: tuple[int, ...] = (810, 470, 320, 650, 230, 460)
    cpu_per_gpu_milli: tuple[int, ...] = (11300, 3152, 12000, 9810)
    cpu_shares: tuple[float, ...] = (0.60, 0.19, 0.13, 0.08)
    memory_per_gpu_mib: tuple[int, ...] = (8192, 24576, 49152, 65536)
    memory_shares: tuple[float, ...] = (0.1, 0.2, 0.5, 0.2)
    cpu_cores_per_gpu: int = 12
    memory_gb_per_gpu: float = 64.0
    gpu_memory_gb: float = 80.0

    def __post_init__(self) -> None:
        """Refuse values that describe no distribution, or whose draws would hardly end."""
        if not self.tenants:
            raise ConfigurationError("gpu_cluster: parameter 'tenants' is empty; give at least one")
        limit = np.log(self.duration_max_days * _DAY_S) if self.duration_max_days > 0 else -np.inf
        for tenant in self.tenants:
            if max(tenant.single[0], tenant.multi[0]) > limit:
                raise ConfigurationError(
                    f"gpu_cluster: parameter 'duration_max_days' is {self.duration_max_days}, "
                    f"below the median duration of tenant '{tenant.name}'; raise it"
                )
        for name in ("priority_shares", "preemptible_shares"):
            if len(getattr(self, name)) != len(JobPriority):
                raise ConfigurationError(
                    f"gpu_cluster: parameter '{name}' has {len(getattr(self, name))} values; "
                    f"give one for each of {[p.name for p in JobPriority]}"
                )
        if len(self.hours) != _DAY_H or len(self.days) != _WEEK_DAYS:
            raise ConfigurationError(
                f"gpu_cluster: parameters 'hours' and 'days' have {len(self.hours)} and "
                f"{len(self.days)} values; give {_DAY_H} and {_WEEK_DAYS}"
            )


@dataclass(frozen=True)
class _Bursts:
    """One entry per burst, all arrays of shape [bursts]."""

    tenant: NDArray[np.int64]
    count: NDArray[np.int64]
    gpus: NDArray[np.int64]


def gpu_cluster(
    jobs: int,
    seed: int,
    *,
    nodes: int = 16,
    gpus_per_node: int = 8,
    load: float = 0.9,
    parameters: GpuClusterParameters | None = None,
) -> Trace:
    """Draw a deep-learning workload, and the homogeneous cluster that it is for.

    Parameters
    ----------
    jobs : int
        Number of jobs, at least 2.
    seed : int
        Not negative; the same seed gives the same trace.
    nodes, gpus_per_node : int, optional
        Size of the cluster.
    load : float, optional
        Offered load of the whole trace (GPU time asked for over GPU time available while jobs
        arrive), met exactly. Durations are heavy-tailed, so parts of the trace differ much.
    parameters : GpuClusterParameters or None, optional
        None takes the defaults.

    Returns
    -------
    Trace
        Time 0 is the first submission; the week began shortly before it, on Monday at midnight.
        A job of at most `gpus_per_node` GPUs is one worker; a larger one a gang.
    """
    p = parameters or GpuClusterParameters()
    _check(jobs, seed, nodes, gpus_per_node, load)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, Stream.WORKLOAD])))
    bursts = _draw_bursts(rng, jobs, nodes, gpus_per_node, p)
    burst = np.repeat(np.arange(len(bursts.count)), bursts.count)
    duration_s = _draw_durations(rng, bursts, burst, p)
    requests = blank_requests(jobs)
    requests["tenant"] = bursts.tenant[burst]
    _set_resources(rng, requests, bursts.gpus, burst, gpus_per_node, p)
    _set_policy(rng, requests, bursts, burst, p)
    requests["duration_ms"] = duration_s * 1000
    requests["requested_ms"] = _estimates(rng, duration_s, p) * 1000
    size = requests["workers"] * requests["gpus_per_worker"] * (requests["gpu_milli"] / 1000.0)
    span_s = float(np.dot(size, duration_s)) / (nodes * gpus_per_node * load)
    requests["submit_ms"] = np.rint(_draw_submissions(rng, bursts, burst, span_s, p) * 1000)
    order = np.argsort(requests["submit_ms"], kind="stable")
    requests = requests[order]
    requests["source_id"] = np.arange(jobs)
    name = f"gpu-cluster-{nodes}x{gpus_per_node}-{seed}"
    tenants = tuple(tenant.name for tenant in p.tenants)
    return Trace(name, requests, tenants, _cluster(nodes, gpus_per_node, p))


def _check(jobs: int, seed: int, nodes: int, gpus_per_node: int, load: float) -> None:
    for name, value, low, high in (
        ("jobs", jobs, 2, 1 << 40),
        ("seed", seed, 0, 1 << 62),
        ("nodes", nodes, 1, 1 << 20),
        ("gpus_per_node", gpus_per_node, 1, 64),
    ):
        check_whole(f"gpu_cluster: '{name}'", value, low, high)
    check_finite("gpu_cluster: 'load'", load, above=0)


def _cluster(nodes: int, gpus_per_node: int, p: GpuClusterParameters) -> tuple[NodeSpec, ...]:
    return tuple(
        NodeSpec(
            node_id=f"node-{i:05d}",
            gpus=gpus_per_node,
            gpu_memory_gb=p.gpu_memory_gb,
            cpu_cores=p.cpu_cores_per_gpu * gpus_per_node,
            memory_gb=p.memory_gb_per_gpu * gpus_per_node,
            network_bandwidth_gbps=100.0,
            gpu_topology="NVLink",
            rack=i // _NODES_PER_RACK,
            spine=i // (_NODES_PER_RACK * _RACKS_PER_SPINE),
        )
        for i in range(nodes)
    )


def _draw_bursts(
    rng: np.random.Generator, jobs: int, nodes: int, gpus_per_node: int, p: GpuClusterParameters
) -> _Bursts:
    """Draw bursts until they hold the jobs wanted; the last one is cut short."""
    limit = max(16, round(p.burst_max * nodes * gpus_per_node / _PHILLY_GPUS))
    tail = np.array([tenant.burst_tail for tenant in p.tenants])
    # Number of jobs of a burst: whole part of a Pareto variate cut off at `limit` + 1.
    cut = 1.0 - (limit + 1.0) ** -tail
    at_least = (np.arange(1, limit + 1)[:, None] ** -tail - (1.0 - cut)) / cut
    weight = np.array([tenant.share for tenant in p.tenants]) / at_least.sum(axis=0)
    weight /= weight.sum()
    mean = float(np.dot(weight, at_least.sum(axis=0)))
    tenants: list[NDArray[np.int64]] = []
    counts: list[NDArray[np.int64]] = []
    have = 0
    while have < jobs:
        number = int((jobs - have) / mean) + 16
        tenant = rng.choice(len(weight), number, p=weight)
        power = (1.0 - rng.random(number) * cut[tenant]) ** (-1.0 / tail[tenant])
        tenants.append(tenant)
        counts.append(np.clip(np.floor(power), 1, limit).astype(np.int64))
        have += int(counts[-1].sum())
    tenant, count = np.concatenate(tenants), np.concatenate(counts)
    last = int(np.searchsorted(np.cumsum(count), jobs))
    tenant, count = tenant[: last + 1], count[: last + 1]
    count[last] -= int(count.sum()) - jobs
    return _Bursts(tenant, count, _draw_gpus(rng, tenant, nodes, gpus_per_node, p))


def _draw_gpus(
    rng: np.random.Generator,
    tenant: NDArray[np.int64],
    nodes: int,
    gpus_per_node: int,
    p: GpuClusterParameters,
) -> NDArray[np.int64]:
    """Draw the GPU count of each burst among those that the cluster can hold."""
    place = rng.random(len(tenant))
    gpus = np.empty(len(tenant), np.int64)
    for i, profile in enumerate(p.tenants):
        sizes = np.array(profile.gpus, np.int64)
        per_worker = split_gpus(sizes, gpus_per_node)
        fits = (gpus_per_node // per_worker) * nodes >= sizes // per_worker
        if not fits.any():
            sizes, fits = np.array([1]), np.array([True])
            shares = np.array([1.0])
        else:
            shares = np.array(profile.gpu_shares)
        edges = np.cumsum(shares[fits]) / shares[fits].sum()
        mine = tenant == i
        which = np.searchsorted(edges, place[mine], side="right")
        gpus[mine] = sizes[fits][np.minimum(which, len(edges) - 1)]
    return gpus


def _draw_durations(
    rng: np.random.Generator, bursts: _Bursts, burst: NDArray[np.int64], p: GpuClusterParameters
) -> NDArray[np.int64]:
    """Draw durations in whole seconds, alike within a burst, none above the limit."""
    limit = np.log(p.duration_max_days * _DAY_S)
    single = np.array([tenant.single for tenant in p.tenants])[bursts.tenant]
    multi = np.array([tenant.multi for tenant in p.tenants])[bursts.tenant]
    mean, sigma = np.where((bursts.gpus > 1)[:, None], multi, single).T
    alike = np.array([tenant.alike for tenant in p.tenants])[bursts.tenant]
    common = rng.standard_normal(len(bursts.count))
    redraw = np.flatnonzero(mean + sigma * common > limit)
    while len(redraw):
        common[redraw] = rng.standard_normal(len(redraw))
        redraw = redraw[(mean + sigma * common)[redraw] > limit]
    centre = (mean + sigma * np.sqrt(alike) * common)[burst]
    spread = (sigma * np.sqrt(1.0 - alike))[burst]
    logarithm = centre + spread * rng.standard_normal(len(burst))
    redraw = np.flatnonzero(logarithm > limit)
    while len(redraw):
        logarithm[redraw] = centre[redraw] + spread[redraw] * rng.standard_normal(len(redraw))
        redraw = redraw[logarithm[redraw] > limit]
    seconds: NDArray[np.int64] = np.maximum(1, np.rint(np.exp(logarithm))).astype(np.int64)
    return seconds


def _set_resources(
    rng: np.random.Generator,
    requests: NDArray[np.void],
    burst_gpus: NDArray[np.int64],
    burst: NDArray[np.int64],
    gpus_per_node: int,
    p: GpuClusterParameters,
) -> None:
    """Set workers, GPUs, CPU and memory; never more per GPU than a node has per GPU."""
    number = len(burst_gpus)
    per_worker = split_gpus(burst_gpus, gpus_per_node)
    requests["gpus_per_worker"] = per_worker[burst]
    for field in ("workers", "min_workers", "max_workers"):
        requests[field] = (burst_gpus // per_worker)[burst]
    part = rng.choice(np.array(p.gpu_milli), number)
    shared = (burst_gpus == 1) & (rng.random(number) < p.fractional_share)
    requests["gpu_milli"] = np.where(shared, part, 1000)[burst]
    cpu = _choose(rng, number, p.cpu_per_gpu_milli, p.cpu_shares)
    memory = _choose(rng, number, p.memory_per_gpu_mib, p.memory_shares)
    cpu = np.minimum(cpu, p.cpu_cores_per_gpu * 1000) * per_worker
    memory = np.minimum(memory, int(p.memory_gb_per_gpu * 1024)) * per_worker
    share = requests["gpu_milli"] / 1000.0
    requests["cpu_milli"] = np.floor(cpu[burst] * share)
    requests["memory_mib"] = np.floor(memory[burst] * share)


def _choose(
    rng: np.random.Generator, number: int, values: tuple[int, ...], shares: tuple[float, ...]
) -> NDArray[np.int64]:
    weight = np.array(shares)
    return rng.choice(np.array(values, np.int64), number, p=weight / weight.sum())


def _set_policy(
    rng: np.random.Generator,
    requests: NDArray[np.void],
    bursts: _Bursts,
    burst: NDArray[np.int64],
    p: GpuClusterParameters,
) -> None:
    """Set user, application, priority, preemptibility and the costs of checkpoints."""
    number = len(bursts.count)
    zipf = 1.0 / np.arange(1, p.users_per_tenant + 1)
    user = rng.choice(p.users_per_tenant, number, p=zipf / zipf.sum())
    user = bursts.tenant * p.users_per_tenant + user
    application = user * p.applications_per_user + rng.integers(
        p.applications_per_user, size=number
    )
    shares = np.array(p.priority_shares)
    priority = rng.choice(len(JobPriority), number, p=shares / shares.sum())
    preemptible = rng.random(number) < np.array(p.preemptible_shares)[priority]
    interval = rng.choice(np.array(p.checkpoint_intervals_s), number)
    save = p.checkpoint_median_s * np.exp(p.checkpoint_sigma * rng.standard_normal(number))
    restart = p.restart_median_s * np.exp(p.restart_sigma * rng.standard_normal(number))
    for field, values in (
        ("user", user),
        ("application", application),
        ("priority", priority),
        ("preemptible", preemptible),
        ("checkpoint_interval_ms", interval * 1000),
        ("checkpoint_ms", np.rint(save) * 1000),
        ("restart_ms", np.rint(restart) * 1000),
    ):
        requests[field] = values[burst]


def _estimates(
    rng: np.random.Generator, duration_s: NDArray[np.int64], p: GpuClusterParameters
) -> NDArray[np.int64]:
    """Estimates in whole seconds: the duration times an error, rounded up to the ladder."""
    error = p.estimate_median * np.exp(p.estimate_sigma * rng.standard_normal(len(duration_s)))
    guess = np.maximum(1.0, np.rint(duration_s * error))
    ladder = np.array(p.estimate_ladder_s, dtype=np.float64)
    step = np.searchsorted(ladder, guess)
    inside = step < len(ladder)
    guess[inside] = ladder[step[inside]]
    return guess.astype(np.int64)


def _draw_submissions(
    rng: np.random.Generator,
    bursts: _Bursts,
    burst: NDArray[np.int64],
    span_s: float,
    p: GpuClusterParameters,
) -> NDArray[np.float64]:
    """Submission times in seconds that begin at 0 and end at the span, in no order."""
    start_s = np.empty(len(bursts.count))
    for tenant in range(len(p.tenants)):
        mine = np.flatnonzero(bursts.tenant == tenant)
        start_s[mine] = _draw_starts(rng, len(mine), span_s, p)
    gap = p.gap_median_s * np.exp(p.gap_sigma * rng.standard_normal(len(burst)))
    first = np.cumsum(bursts.count) - bursts.count
    gap[first] = 0.0
    offset = np.cumsum(gap)
    times: NDArray[np.float64] = start_s[burst] + offset - offset[first][burst]
    times -= times.min()
    # Nearly 1 for long traces: it makes the offered load exact.
    times *= span_s / max(float(times.max()), 1e-9)
    return times


def _draw_starts(
    rng: np.random.Generator, number: int, span_s: float, p: GpuClusterParameters
) -> NDArray[np.float64]:
    """Draw when one tenant's bursts begin, seconds.

    They fall uniformly on a clock that runs with the tenant's rate, so that real times follow
    the rate without any rejection.
    """
    hours = int(span_s / _HOUR_S) + 1
    days = hours // _DAY_H + 1
    shape = 1.0 / max(p.activity_cv, 1e-3) ** 2
    activity = rng.gamma(shape, 1.0 / shape, days) * np.resize(np.array(p.days), days)
    rate = np.outer(activity, np.array(p.hours)).reshape(-1)[:hours]
    # An idle tenant's clock must still advance, or its inverse would not be defined.
    clock = np.concatenate(([0.0], np.cumsum(rate + 1e-6)))
    edges = np.minimum(np.arange(hours + 1) * _HOUR_S, span_s)
    starts: NDArray[np.float64] = np.interp(rng.random(number) * clock[-1], clock, edges)
    return starts
