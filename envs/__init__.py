"""Gymnasium environments over the orchestrator's engine, and the workloads that they play.

Importing this package registers ``quartermaster/JobOrdering-v0``, ``quartermaster/Cluster-v0``,
``quartermaster/Placement-v0`` and ``quartermaster/Autoscaling-v0``. The names below are what
programs are written with; they are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
    from envs.gym import SchedulingEnv, SchedulingVectorEnv, part_starts
    from envs.reward import TERMS, RewardConfig
    from envs.sb3 import SchedulingVecEnv
    from envs.scenario import (
        FleetPlan,
        Scenario,
        ServiceMix,
        forecast_from_tables,
        seasonal_rates,
    )
    from envs.session import Session
    from envs.workloads.demand import read_client_demand, read_spot_hourly
    from envs.workloads.enrich import Enrichment, enrich, of_tenants
    from envs.workloads.failures import (
        FAILURE_MODELS,
        FailureModel,
        FaultLog,
        read_faults,
        sample_failures,
    )
    from envs.workloads.generators.gpu_cluster import GpuClusterParameters, gpu_cluster
    from envs.workloads.generators.gpu_pods import gpu_pods
    from envs.workloads.generators.lublin import LublinParameters, lublin_feitelson
    from envs.workloads.prediction import PredictionError, predict_durations, prediction_error
    from envs.workloads.profiles import (
        PHILLY_TENANTS,
        StepTimes,
        TenantProfile,
        fit_error,
        fit_throughput,
        read_gavel_ratios,
        read_noise_scale,
        read_step_times,
    )
    from envs.workloads.readers.gpu_jobs import read_tiresias
    from envs.workloads.readers.openb import inflate, read_openb, read_openb_orders, typical_pods
    from envs.workloads.readers.pai import read_pai
    from envs.workloads.readers.philly import read_philly, read_philly_json
    from envs.workloads.readers.slurm import read_acme, read_helios
    from envs.workloads.readers.swf import processor_pool, read_swf
    from envs.workloads.registry import WORKLOADS, load_workload
    from envs.workloads.services.generator import ServiceRhythm, generate_services
    from envs.workloads.services.readers import AzureService, read_azure_llm, read_servegen
    from envs.workloads.services.series import GapFill, ServiceSeries
    from envs.workloads.table import COLUMNS, Column, blank_requests
    from envs.workloads.trace import Trace, unplaceable
    from envs.workloads.windows import Part, WindowSplit

_HOMES = {
    "envs.config": ("AUTOSCALING", "CLUSTER", "JOB_ORDERING", "PLACEMENT", "EnvConfig"),
    "envs.gym": ("SchedulingEnv", "SchedulingVectorEnv", "part_starts"),
    "envs.reward": ("TERMS", "RewardConfig"),
    "envs.sb3": ("SchedulingVecEnv",),
    "envs.scenario": (
        "FleetPlan",
        "Scenario",
        "ServiceMix",
        "forecast_from_tables",
        "seasonal_rates",
    ),
    "envs.session": ("Session",),
    "envs.workloads.demand": ("read_client_demand", "read_spot_hourly"),
    "envs.workloads.enrich": ("Enrichment", "enrich", "of_tenants"),
    "envs.workloads.failures": (
        "FAILURE_MODELS",
        "FailureModel",
        "FaultLog",
        "read_faults",
        "sample_failures",
    ),
    "envs.workloads.generators.gpu_cluster": ("GpuClusterParameters", "gpu_cluster"),
    "envs.workloads.generators.gpu_pods": ("gpu_pods",),
    "envs.workloads.generators.lublin": ("LublinParameters", "lublin_feitelson"),
    "envs.workloads.prediction": ("PredictionError", "predict_durations", "prediction_error"),
    "envs.workloads.profiles": (
        "PHILLY_TENANTS",
        "StepTimes",
        "TenantProfile",
        "fit_error",
        "fit_throughput",
        "read_gavel_ratios",
        "read_noise_scale",
        "read_step_times",
    ),
    "envs.workloads.readers.gpu_jobs": ("read_tiresias",),
    "envs.workloads.readers.openb": (
        "inflate",
        "read_openb",
        "read_openb_orders",
        "typical_pods",
    ),
    "envs.workloads.readers.pai": ("read_pai",),
    "envs.workloads.readers.philly": ("read_philly", "read_philly_json"),
    "envs.workloads.readers.slurm": ("read_acme", "read_helios"),
    "envs.workloads.readers.swf": ("processor_pool", "read_swf"),
    "envs.workloads.registry": ("WORKLOADS", "load_workload"),
    "envs.workloads.services.generator": ("ServiceRhythm", "generate_services"),
    "envs.workloads.services.readers": ("AzureService", "read_azure_llm", "read_servegen"),
    "envs.workloads.services.series": ("GapFill", "ServiceSeries"),
    "envs.workloads.table": ("COLUMNS", "Column", "blank_requests"),
    "envs.workloads.trace": ("Trace", "unplaceable"),
    "envs.workloads.windows": ("Part", "WindowSplit"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AUTOSCALING",
    "CLUSTER",
    "COLUMNS",
    "FAILURE_MODELS",
    "JOB_ORDERING",
    "PHILLY_TENANTS",
    "PLACEMENT",
    "TERMS",
    "WORKLOADS",
    "AzureService",
    "Column",
    "Enrichment",
    "EnvConfig",
    "FailureModel",
    "FaultLog",
    "FleetPlan",
    "GapFill",
    "GpuClusterParameters",
    "LublinParameters",
    "Part",
    "PredictionError",
    "RewardConfig",
    "Scenario",
    "SchedulingEnv",
    "SchedulingVecEnv",
    "SchedulingVectorEnv",
    "ServiceMix",
    "ServiceRhythm",
    "ServiceSeries",
    "Session",
    "StepTimes",
    "TenantProfile",
    "Trace",
    "WindowSplit",
    "blank_requests",
    "enrich",
    "fit_error",
    "fit_throughput",
    "forecast_from_tables",
    "generate_services",
    "gpu_cluster",
    "gpu_pods",
    "inflate",
    "load_workload",
    "lublin_feitelson",
    "of_tenants",
    "part_starts",
    "predict_durations",
    "prediction_error",
    "processor_pool",
    "read_acme",
    "read_azure_llm",
    "read_client_demand",
    "read_faults",
    "read_gavel_ratios",
    "read_helios",
    "read_noise_scale",
    "read_openb",
    "read_openb_orders",
    "read_pai",
    "read_philly",
    "read_philly_json",
    "read_servegen",
    "read_spot_hourly",
    "read_step_times",
    "read_swf",
    "read_tiresias",
    "sample_failures",
    "seasonal_rates",
    "typical_pods",
    "unplaceable",
]

for _name, _entry in (
    ("JobOrdering", "job_ordering"),
    ("Cluster", "cluster"),
    ("Placement", "placement"),
    ("Autoscaling", "autoscaling"),
):
    gymnasium.register(
        id=f"quartermaster/{_name}-v0",
        entry_point=f"envs.gym:{_entry}_env",
        vector_entry_point=f"envs.gym:{_entry}_vector_env",
        # The checker copies and compares every observation; tests run it explicitly.
        disable_env_checker=True,
    )


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)
