"""Forecast tables on disk, and what predictive scaling is worth beside a reactive scaler."""

from agents.autoscaling.build import build_forecasters, read_series
from agents.autoscaling.run import make_tables, publish_study, study_tables
from agents.autoscaling.store import make_bases
from agents.autoscaling.study import Outcome, Study, judge_series

__all__ = [
    "Outcome",
    "Study",
    "build_forecasters",
    "judge_series",
    "make_bases",
    "make_tables",
    "publish_study",
    "read_series",
    "study_tables",
]
