"""A policy against rules on the same windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents.evaluation.outcomes import METRICS, EvaluationResult
from agents.evaluation.report import Report
from agents.evaluation.statistics import Comparison
from agents.evaluation.tables import heading, readable
from agents.plots.style import ACCENT, GREY, SECOND, figure_file, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_comparison"]


def draw_comparison(path: Path, report: Report, variant: str = "") -> None:
    """Draw a policy against rules on the same windows.

    Left, window by window against the first baseline; right, the ratio of means to every baseline
    with its interval.

    Parameters
    ----------
    path : Path
    report : Report
        Its first learned policy is drawn, or else the rule of the best mean (of those that there is
        another baseline for).
    variant : str, optional
    """
    group = report.results[variant]
    metric = report.suite.metric
    compared = {pair.policy for pair in report.comparisons[variant]}
    ranked = sorted(
        (result for result in group if result.policy in compared),
        key=lambda result: (not result.learned, -METRICS[metric] * result.values[metric].mean()),
    )
    mine = next((result for result in group if result.learned), ranked[0])
    pairs = [pair for pair in report.comparisons[variant] if pair.policy == mine.policy]
    against = next(result for result in group if result.policy == pairs[0].baseline)
    name = metric.replace("_", " ")
    with figure_file(path, (8.6, 4.0), ncols=2, width_ratios=(1.0, 1.15)) as (_, (left, right)):
        _scatter(left, mine, against, metric)
        left.set_title(f"{len(mine.starts)} windows, mean: {heading(metric)}")
        _intervals(right, pairs)
        right.set_title(f"{name}, {mine.policy} relative to …")


def _scatter(axes: Axes, mine: EvaluationResult, against: EvaluationResult, metric: str) -> None:
    x, y = readable(metric, against.values[metric]), readable(metric, mine.values[metric])
    low, high = min(x.min(), y.min()) / 1.15, max(x.max(), y.max()) * 1.15
    if low > 0:
        axes.set(xscale="log", yscale="log")
    axes.plot([low, high], [low, high], color=GREY, lw=1, zorder=1)
    axes.scatter(x, y, s=14, color=ACCENT, alpha=0.6, linewidths=0, zorder=2)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel=against.policy, ylabel=mine.policy)
    for which in ("x", "y"):
        plain_ticks(axes, which)
    axes.text(0.96, 0.05, f"{mine.policy} better", ha="right", color=GREY, transform=axes.transAxes)
    axes.text(0.04, 0.93, f"{against.policy} better", color=GREY, transform=axes.transAxes)


def _intervals(axes: Axes, pairs: Sequence[Comparison]) -> None:
    axes.axvline(1.0, color=GREY, lw=1)
    for row, pair in enumerate(pairs):
        for shift, estimate, colour, text in (
            (-0.12, pair.ratio, ACCENT, "mean"),
            (0.12, pair.iqm_ratio, SECOND, "interquartile mean"),
        ):
            y = row + shift
            axes.plot([estimate.low, estimate.high], [y, y], color=colour, lw=2)
            axes.plot(estimate.value, y, "o", color=colour, ms=5, label=None if row else text)
    names = [f"{pair.baseline}\nbeaten on {pair.won:.0%}" for pair in pairs]
    axes.set_yticks(range(len(pairs)), names)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlabel("ratio, 95 % bootstrap interval (less than 1 is better)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
