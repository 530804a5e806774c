"""All pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.evaluation.outcomes import METRICS
from agents.evaluation.report import Report
from agents.plots.comparison import draw_comparison
from agents.plots.gantt import draw_gantt
from agents.plots.learning import draw_learning_curve

__all__ = ["draw_pictures"]


def draw_pictures(
    folder: Path, report: Report, history: Sequence[Mapping[str, float]], title: str
) -> None:
    """Draw the pictures of a training run: learning curve, paired comparison and Gantt chart.

    The latter only if the jobs of any window were kept.

    Parameters
    ----------
    folder : Path
    report : Report
        On test windows, the trained policy first.
    history : sequence of mappings
        See :func:`draw_learning_curve`.
    title : str
        Of the learning curve.
    """
    variant, group = next(iter(report.results.items()))
    metric = report.suite.metric
    unit = f"{metric.replace('_', ' ')}, validation windows"
    # Trainers are configured with the rule that the evaluation puts first.
    reference = report.suite.baselines[0]
    reference = reference.upper() if reference == "sjf" else reference
    draw_learning_curve(folder / "learning_curve.png", history, title, unit, reference)
    draw_comparison(folder / "comparison.png", report, variant)
    rules = [result for result in group if not result.learned]
    best = min(rules, key=lambda result: -METRICS[metric] * result.values[metric].mean())
    # The window in the middle by the rule's result: neither the easiest nor the hardest.
    kept = np.unique(best.jobs["sequence"])
    if len(kept) == 0:
        return
    middle = kept[np.argsort(best.values[metric][kept])[len(kept) // 2]]
    draw_gantt(folder / "gantt.png", [group[0], best], int(middle))
