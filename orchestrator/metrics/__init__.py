"""OrchestratorMetrics: what an orchestrator tells of itself, as time series and as a summary.

Series and samples are bounded; totals that the cluster's own state keeps are read from there, so
they survive a restart.
"""

from orchestrator.metrics.collector import OrchestratorMetrics
from orchestrator.metrics.views import (
    ClusterUtilization,
    JobCompletionRate,
    JobEvents,
    ScalingEfficiency,
    SchedulingLatency,
    Series,
)

__all__ = [
    "ClusterUtilization",
    "JobCompletionRate",
    "JobEvents",
    "OrchestratorMetrics",
    "ScalingEfficiency",
    "SchedulingLatency",
    "Series",
]
