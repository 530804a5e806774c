"""Workloads: traces of real clusters, and generators of synthetic ones.

Whatever its source, a workload is a :class:`Trace`: jobs in the order of their submission, and the
cluster that belongs to them.
"""

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
from envs.workloads.generators.mixture import lublin_mixture
from envs.workloads.prediction import PredictionError, predict_durations, prediction_error
from envs.workloads.profiles import PHILLY_TENANTS, TenantProfile
from envs.workloads.readers.gpu_jobs import read_tiresias
from envs.workloads.readers.openb import inflate, read_openb, read_openb_orders, typical_pods
from envs.workloads.readers.pai import read_pai
from envs.workloads.readers.philly import read_philly, read_philly_json
from envs.workloads.readers.slurm import read_acme, read_helios
from envs.workloads.readers.swf import processor_pool, read_swf
from envs.workloads.registry import WORKLOADS, load_workload
from envs.workloads.trace import Trace, unplaceable
from envs.workloads.windows import Part, WindowSplit

__all__ = [
    "FAILURE_MODELS",
    "PHILLY_TENANTS",
    "WORKLOADS",
    "Enrichment",
    "FailureModel",
    "FaultLog",
    "GpuClusterParameters",
    "LublinParameters",
    "Part",
    "PredictionError",
    "TenantProfile",
    "Trace",
    "WindowSplit",
    "enrich",
    "gpu_cluster",
    "gpu_pods",
    "inflate",
    "load_workload",
    "lublin_feitelson",
    "lublin_mixture",
    "of_tenants",
    "predict_durations",
    "prediction_error",
    "processor_pool",
    "read_acme",
    "read_faults",
    "read_helios",
    "read_openb",
    "read_openb_orders",
    "read_pai",
    "read_philly",
    "read_philly_json",
    "read_swf",
    "read_tiresias",
    "sample_failures",
    "typical_pods",
    "unplaceable",
]
