"""What an environment is made from when nothing is given: a workload, services, a fleet."""

from __future__ import annotations

import numpy as np

from envs.config import EnvConfig
from envs.scaling import FleetPlan, ServiceMix, seasonal_rates
from envs.scenario import Scenario
from envs.workloads import Trace, gpu_cluster, gpu_pods, lublin_feitelson
from envs.workloads.services.generator import generate_services
from orchestrator.mesh.specs import ServiceSpec

__all__ = ["default_scenario", "default_trace"]

_JOBS = 20_000
_SEED = 1
_SERVICES = 4
_NODES = 4
_DAY = 1440  # ticks
_DAYS = 30
_AHEAD = 3  # ticks: a replica is up one after it was asked for, and serves in the next
_USUAL_REPLICAS = 6
_TARGET = 0.7


def default_trace(config: EnvConfig) -> Trace:
    """The embedded workload.

    Lublin-Feitelson for job ordering, pods of a GPU-sharing cluster where nodes are chosen, a GPU
    cluster otherwise. Of an environment without jobs it is the cluster: four nodes of eight GPUs.
    """
    if config.commitment:
        return lublin_feitelson(_JOBS, _SEED)
    if config.episode_jobs == 0:
        return gpu_cluster(2, _SEED, nodes=_NODES)
    if config.choose_node:
        return gpu_pods(_JOBS, _SEED)
    return gpu_cluster(_JOBS, _SEED)


def default_scenario(config: EnvConfig, trace: Trace) -> Scenario:
    """Services with a daily rhythm on a fleet that may double; nothing, if there are no services.

    Thirty days of ticks of a minute. A replica takes one GPU and is so fast that a service needs
    six of them at its mean rate: 3 to 10 in the course of a day, and more in a burst. The forecast
    is yesterday's demand at the same time.
    """
    if config.services == 0 and config.episode_jobs > 0:
        return Scenario()
    series = generate_services(config.services or _SERVICES, _DAYS * _DAY, _SEED)
    usual = series.rates.mean(axis=1, dtype=np.float64)
    specs = tuple(
        ServiceSpec(
            name,
            service_ms=1000.0 * _USUAL_REPLICAS * _TARGET / float(rate),
            replicas=_USUAL_REPLICAS,
            max_replicas=16,
        )
        for name, rate in zip(series.names, usual, strict=True)
    )
    forecast = seasonal_rates(series, period=_DAY, ahead=_AHEAD)
    services = ServiceMix(specs, series, target_utilisation=_TARGET, forecast=forecast)
    return Scenario(services=services, fleet=FleetPlan(spare=len(trace.nodes)))
