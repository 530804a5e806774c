"""Many metrics of many policies, one panel for each metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.evaluation.outcomes import METRICS
from agents.evaluation.report import Report
from agents.evaluation.statistics import Interval, mean_difference
from agents.evaluation.suite import label
from agents.evaluation.tables import heading, readable, telling
from agents.plots.style import ACCENT, GREY, SECOND, figure_file, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_outcomes"]

_ACROSS = 4
_WIDE_RANGE = 20.0


def draw_outcomes(path: Path, report: Report, variant: str = "") -> None:
    """Draw the means of a suite's metrics with their intervals, policies one below the other.

    A dashed line is the first baseline's mean. Policies that differ from it on the same windows,
    by the interval of the mean difference, are coloured: blue is better, orange worse.

    Parameters
    ----------
    path : Path
    report : Report
    variant : str, optional
    """
    group = report.results[variant]
    summaries = {result.policy: report.summaries[result.policy] for result in group}
    suite = report.suite
    wanted = dict.fromkeys((suite.metric, *suite.columns))
    metrics = telling(summaries, list(wanted))
    baseline = label(suite.baselines[0], variant)
    across = min(_ACROSS, len(metrics))
    down = -(-len(metrics) // across)
    size = (1.4 + 2.35 * across, 0.7 + down * (0.55 + 0.2 * len(group)))
    layout = {"nrows": down, "ncols": across, "sharey": True, "squeeze": False}
    with figure_file(path, size, **layout) as (_, grid):
        for axes, name in zip(grid.flat, metrics, strict=False):
            _panel(axes, report, variant, name, baseline)
        for axes in grid.flat[len(metrics) :]:
            axes.set_visible(False)
        first = grid[0, 0]
        first.set_yticks(range(len(group)), [result.policy for result in group])
        first.set_ylim(len(group) - 0.4, -0.6)


def _panel(axes: Axes, report: Report, variant: str, metric: str, baseline: str) -> None:
    group = report.results[variant]
    reference = next(result for result in group if result.policy == baseline)
    means = [report.summaries[result.policy][metric].mean for result in group]
    axes.axvline(
        readable(metric, report.summaries[baseline][metric].mean.value), color=GREY, lw=1, ls="--"
    )
    for row, (result, mean) in enumerate(zip(group, means, strict=True)):
        gap = mean_difference(result.values[metric], reference.values[metric], report.suite.seed)
        colour = _colour(gap, METRICS[metric])
        ends = [readable(metric, mean.low), readable(metric, mean.high)]
        axes.plot(ends, [row, row], color=colour, lw=2)
        axes.plot(readable(metric, mean.value), row, "o", color=colour, ms=4)
    centre = np.array([mean.value for mean in means])
    if centre.min() > 0 and centre.max() > _WIDE_RANGE * centre.min():
        axes.set_xscale("log")
        plain_ticks(axes, "x")
    elif centre.min() >= 0:
        axes.set_xlim(left=0.0)
    better = "less" if METRICS[metric] < 0 else "more"
    axes.set_title(heading(metric), fontsize=9)
    axes.set_xlabel(f"{better} is better", fontsize=7, color=GREY)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _colour(gap: Interval, sign: int) -> str:
    """By whether the mean difference to the baseline is clear."""
    low, high = sorted((sign * gap.low, sign * gap.high))
    if low > 0:
        return ACCENT
    return SECOND if high < 0 else GREY
