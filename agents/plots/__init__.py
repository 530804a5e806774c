"""Pictures: learning curves, comparisons, outcomes, time series, packing and Gantt charts."""

from agents.plots.comparison import draw_comparison
from agents.plots.gantt import assign_lanes, draw_gantt
from agents.plots.learning import draw_learning_curve
from agents.plots.outcomes import draw_outcomes
from agents.plots.packing import draw_packing
from agents.plots.pictures import draw_pictures
from agents.plots.series import draw_series
from agents.plots.speed import draw_speed
from agents.plots.style import ACCENT, GREY, PALE, SECOND, figure_file

__all__ = [
    "ACCENT",
    "GREY",
    "PALE",
    "SECOND",
    "assign_lanes",
    "draw_comparison",
    "draw_gantt",
    "draw_learning_curve",
    "draw_outcomes",
    "draw_packing",
    "draw_pictures",
    "draw_series",
    "draw_speed",
    "figure_file",
]
