"""Workloads: traces of real clusters, and generators of synthetic ones.

Whatever its source, a workload is a :class:`Trace`: jobs in the order of their submission, and the
cluster that belongs to them.
"""

from envs.workloads.enrich import Enrichment, enrich, of_tenants
from envs.workloads.gpu_cluster import gpu_cluster
from envs.workloads.gpu_parameters import GpuClusterParameters
from envs.workloads.lublin import LublinParameters, lublin_feitelson
from envs.workloads.openb import inflate, read_openb, typical_pods
from envs.workloads.philly import read_philly, read_tiresias
from envs.workloads.profiles import PHILLY_TENANTS, TenantProfile
from envs.workloads.registry import WORKLOADS, load_workload
from envs.workloads.swf import processor_pool, read_swf
from envs.workloads.trace import Trace, unplaceable
from envs.workloads.windows import Part, WindowSplit

__all__ = [
    "PHILLY_TENANTS",
    "WORKLOADS",
    "Enrichment",
    "GpuClusterParameters",
    "LublinParameters",
    "Part",
    "TenantProfile",
    "Trace",
    "WindowSplit",
    "enrich",
    "gpu_cluster",
    "inflate",
    "load_workload",
    "lublin_feitelson",
    "of_tenants",
    "processor_pool",
    "read_openb",
    "read_philly",
    "read_swf",
    "read_tiresias",
    "typical_pods",
    "unplaceable",
]
