"""The AutoScaler: how many nodes and replicas, how large, and when to change it.

``cooldown``, ``horizontal`` and ``vertical`` decide on what is known now; ``forecasting``,
``rolling``, ``table`` and ``predictive`` plan for what is to come; ``replay`` accounts for a scaler
along a demand series. The numbers come from ``orchestrator.kernels.scaling``.
"""

from orchestrator.autoscaler.cooldown import CooldownManager
from orchestrator.autoscaler.forecasting import (
    Forecaster,
    Persistence,
    Prophet,
    SeasonalMean,
    SeasonalNaive,
    Structure,
    forecaster_named,
)
from orchestrator.autoscaler.horizontal import HorizontalScaler, ScalingPlan
from orchestrator.autoscaler.predictive import Forecast, PredictiveScaler
from orchestrator.autoscaler.replay import FleetAccount, hold_peak, replay
from orchestrator.autoscaler.rolling import RollingSettings
from orchestrator.autoscaler.series import DemandSeries, fill_gaps
from orchestrator.autoscaler.table import DEFAULT_LEVELS, ForecastTable, make_table
from orchestrator.autoscaler.vertical import ResourceBounds, ResourceRequest, VerticalScaler

__all__ = [
    "DEFAULT_LEVELS",
    "CooldownManager",
    "DemandSeries",
    "FleetAccount",
    "Forecast",
    "ForecastTable",
    "Forecaster",
    "HorizontalScaler",
    "Persistence",
    "PredictiveScaler",
    "Prophet",
    "ResourceBounds",
    "ResourceRequest",
    "RollingSettings",
    "ScalingPlan",
    "SeasonalMean",
    "SeasonalNaive",
    "Structure",
    "VerticalScaler",
    "fill_gaps",
    "forecaster_named",
    "hold_peak",
    "make_table",
    "replay",
]
