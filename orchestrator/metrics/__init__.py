"""OrchestratorMetrics: what an orchestrator tells of itself, as time series and as a summary.

Series and samples are bounded; totals that the cluster's own state keeps are read from there, so
they survive a restart.
"""

from orchestrator.metrics.collector import OrchestratorMetrics
from orchestrator.metrics.completion import JobCompletionRate
from orchestrator.metrics.latency import SchedulingLatency
from orchestrator.metrics.scaling import ScalingEfficiency
from orchestrator.metrics.series import Series
from orchestrator.metrics.utilization import ClusterUtilization

__all__ = [
    "ClusterUtilization",
    "JobCompletionRate",
    "OrchestratorMetrics",
    "ScalingEfficiency",
    "SchedulingLatency",
    "Series",
]
