"""The AutoScaler: how many nodes and replicas, how large, and when to change it.

``policies`` decide on what is known now, or with a forecast; ``forecast`` and ``table`` say what is
to come; ``rehearsal`` tries on a copy what it takes; ``fleet`` turns decisions into orders of
nodes; ``services`` looks at services, and at ``ticks`` a policy in charge may size all of it
instead; ``replay`` accounts for a scaler along a demand series. The numbers come from
``orchestrator.kernels.decide.scale``.
"""

from orchestrator.autoscaler.forecast import (
    Forecaster,
    Persistence,
    Prophet,
    RollingSettings,
    SeasonalMean,
    SeasonalNaive,
    Structure,
    forecaster_named,
)
from orchestrator.autoscaler.policies import (
    CooldownManager,
    Forecast,
    HorizontalScaler,
    PredictiveScaler,
    ResourceBounds,
    ResourceRequest,
    ScalingPlan,
    Supply,
    VerticalScaler,
)
from orchestrator.autoscaler.replay import FleetAccount, hold_peak, replay
from orchestrator.autoscaler.services import RateForecasting
from orchestrator.autoscaler.table import (
    DEFAULT_LEVELS,
    DemandSeries,
    ForecastTable,
    fill_gaps,
    make_table,
)

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
    "RateForecasting",
    "ResourceBounds",
    "ResourceRequest",
    "RollingSettings",
    "ScalingPlan",
    "SeasonalMean",
    "SeasonalNaive",
    "Structure",
    "Supply",
    "VerticalScaler",
    "fill_gaps",
    "forecaster_named",
    "hold_peak",
    "make_table",
    "replay",
]
