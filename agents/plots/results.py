"""Results: learning curves, policies beside each other on the same windows, measured speeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.evaluation.outcomes import EvaluationResult
from agents.evaluation.report import Report
from agents.evaluation.statistics import Comparison, Interval, mean_difference
from agents.evaluation.suite import label
from agents.evaluation.tables import heading, readable, telling
from agents.plots.gantt import draw_gantt
from agents.plots.style import ACCENT, GREY, PALE, SECOND, figure_file, plain_ticks
from agents.speed.table import SMALLER, Outcome, SpeedSuite
from envs.outcomes import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "draw_comparison",
    "draw_learning_curve",
    "draw_outcomes",
    "draw_pictures",
    "draw_speed",
]


_ACROSS = 4


_LEAST_SHARE = 1e-3
"""Of what is asked of a speed: less is drawn as this."""

_WIDE_RANGE = 20.0


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


def draw_learning_curve(
    path: Path,
    history: Sequence[Mapping[str, float]],
    title: str,
    unit: str,
    reference_name: str = "SJF",
) -> None:
    """Draw the validation score over training time.

    Parameters
    ----------
    path : Path
        The picture, for example a ``.png``.
    history : sequence of mappings
        ``seconds``, ``validation`` and, where there is one, ``reference``: the score of a rule on
        the same windows.
    title : str
    unit : str
        What is validated.
    reference_name : str, optional
        The rule whose score ``reference`` is.
    """
    minutes = np.array([entry["seconds"] for entry in history]) / 60.0
    scores = np.array([entry["validation"] for entry in history])
    with figure_file(path, (6.4, 3.6)) as (_, axes):
        axes.grid(axis="y")
        axes.plot(minutes, scores, color=PALE, lw=1.2, zorder=2)
        axes.plot(minutes, scores, ".", color=GREY, ms=4, zorder=3, label="each validation")
        best = np.minimum.accumulate(scores)
        axes.step(minutes, best, where="post", color=ACCENT, lw=2, zorder=4, label="best so far")
        reference = history[-1].get("reference")
        if reference is not None:
            axes.axhline(reference, color=SECOND, lw=1.2, ls="--", label=reference_name)
        if scores.max() > 3.0 * scores.min():
            axes.set_yscale("log")
            plain_ticks(axes, "y")
        axes.set(xlabel="training time, minutes", ylabel=unit, title=title)
        axes.set_xlim(left=0.0)
        axes.legend()


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


def draw_speed(path: Path, suite: SpeedSuite, outcomes: Sequence[Outcome]) -> None:
    """Draw measurements in proportion to what they should at least reach: right of 1 is better.

    Parameters
    ----------
    path : Path
    suite : SpeedSuite
        With targets; measurements that have none are left out.
    outcomes : sequence of Outcome
    """
    with_target = [
        (item, item.measure, suite.targets[item.name])
        for item in outcomes
        if item.measure is not None and item.name in suite.targets
    ]
    with figure_file(path, (7.2, 0.9 + 0.3 * len(with_target))) as (_, axes):
        axes.axvline(1.0, color=GREY, lw=1, ls="--")
        for row, (_, measure, target) in enumerate(with_target):
            power = -1 if measure.unit in SMALLER else 1
            low, value, high = (  # a time of nothing at all has no place on this axis
                max(found / target.least, _LEAST_SHARE) ** power
                for found in (measure.low, measure.value, measure.high)
            )
            colour = ACCENT if value >= 1.0 else SECOND
            axes.plot([low, high], [row, row], color=colour, lw=2)
            axes.plot(value, row, "o", color=colour, ms=5)
            axes.plot((target.aim / target.least) ** power, row, "|", color=GREY, ms=9, mew=1.5)
        axes.set_yticks(range(len(with_target)), [item.name for item, _, _ in with_target])
        axes.set_ylim(len(with_target) - 0.4, -0.6)
        axes.set_xscale("log")
        plain_ticks(axes, "x")
        axes.set_xlabel("relative to the least that is asked for; bars: what is aimed at")
        axes.set_title(suite.name)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
