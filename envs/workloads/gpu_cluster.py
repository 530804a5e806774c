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

from envs.workloads.columns import blank_requests
from envs.workloads.gpu_parameters import GpuClusterParameters
from envs.workloads.philly import split_gpus
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import Stream
from orchestrator.types import JobPriority, NodeSpec

__all__ = ["gpu_cluster"]

_HOUR_S = 3600.0
_DAY_H = 24
_WEEK_DAYS = 7
_DAY_S = 86_400.0
_PHILLY_GPUS = 2490
_NODES_PER_RACK = 8
_RACKS_PER_SPINE = 8


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
        if not low <= value <= high:
            message = f"gpu_cluster: '{name}' is {value}; it must be {low} to {high}"
            raise ConfigurationError(message)
    if not 0.0 < load < float("inf"):
        raise ConfigurationError(f"gpu_cluster: 'load' is {load}; it must be positive")


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
