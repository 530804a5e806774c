"""Workloads: traces of real clusters, and generators of synthetic ones.

Whatever its source, a workload is a :class:`Trace`: jobs in the order of their submission, and the
cluster that belongs to them.
"""

from envs.workloads.enrich import Enrichment, enrich, of_tenants
from envs.workloads.failures import FAILURE_MODELS, FailureModel, make_failures, sample_failures
from envs.workloads.fault_logs import FaultLog, read_faults
from envs.workloads.gpu_cluster import gpu_cluster
from envs.workloads.gpu_parameters import GpuClusterParameters
from envs.workloads.gpu_pods import gpu_pods
from envs.workloads.lublin import LublinParameters, lublin_feitelson
from envs.workloads.openb import inflate, read_openb, read_openb_orders, typical_pods
from envs.workloads.pai import read_pai
from envs.workloads.philly import read_philly, read_tiresias
from envs.workloads.philly_json import read_philly_json
from envs.workloads.prediction import PredictionError, predict_durations, prediction_error
from envs.workloads.profiles import PHILLY_TENANTS, TenantProfile
from envs.workloads.registry import WORKLOADS, load_workload
from envs.workloads.slurm_like import read_acme, read_helios
from envs.workloads.swf import processor_pool, read_swf
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
    "make_failures",
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
