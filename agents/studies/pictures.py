"""Studies as pictures: curves with bands over seeds, test ratios, who is better than whom."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.statistics import Interval, group_ratio, mean_ratio
from agents.plots.style import GREY, figure_file, plain_ticks
from agents.studies.folders import Run
from agents.studies.groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curve_of", "draw_curves", "draw_pairs", "grid_of"]

_POINTS = 60  # of a curve
_DRAWS = 2000
_COLOURS = ("#1f5fa8", "#c8742a", "#3a8f5c", "#8e4a9e", "#b03a48", "#5b6b7a", "#a08a1e", "#4aa3b5")
_WIDE = 3.0


def draw_curves(
    path: Path, groups: Sequence[Group], metric: str, best: str, rule: NDArray[np.float64]
) -> None:
    """Draw validation over training time, and on the right what came of it on the test windows.

    Left, the mean over seeds of the validation's cost relative to that of the trainers' reference
    rule, with a 95 % stratified bootstrap band over the seeds (rliable; Agarwal et al., NeurIPS
    2021) and each seed as a thin line. Right, the ratio to the best rule: dots are seeds, lines
    intervals over windows and seeds.

    Parameters
    ----------
    path : Path
    groups : sequence of Group
    metric : str
        Of the test windows.
    best : str
        The best rule there.
    rule : float64 [M]
        Its costs.
    """
    size = (9.6, max(3.6, 2.2 + 0.3 * len(groups)))
    with figure_file(path, size, ncols=2, width_ratios=(1.25, 1.0)) as (_, (left, right)):
        left.axhline(1.0, color=GREY, lw=1, ls="--")
        for group, colour in zip(groups, _colours(groups), strict=True):
            _curve(left, group, colour)
        left.set(xlabel="training time, s", ylabel="validation, relative to the reference rule")
        left.set_title("validation, mean over seeds")
        left.set_xlim(left=0.0)
        low, high = left.get_ylim()
        if high > _WIDE * max(low, 1e-9):
            left.set_yscale("log")
            plain_ticks(left, "y")
        left.legend(fontsize=8)
        _ratios(right, groups, rule)
        right.set_title(f"test: {metric.replace('_', ' ')} relative to {best}")


def _colours(groups: Sequence[Group]) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(len(groups))]


def grid_of(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Moments of training at which the runs are looked at, s: as far as all of them went."""
    ends = [max(entry["seconds"] for entry in run.history) for run in runs if run.history]
    starts = [min(entry["seconds"] for entry in run.history) for run in runs if run.history]
    return np.linspace(max(starts), max(min(ends), max(starts)), _POINTS)


def curve_of(run: Run, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a run's last validation said at each moment: its cost over the reference rule's."""
    seconds = np.array([entry["seconds"] for entry in run.history])
    costs = np.array([entry["validation"] / entry["reference"] for entry in run.history])
    last = np.searchsorted(seconds, grid, side="right") - 1
    return costs[np.maximum(last, 0)]


def _curve(axes: Axes, group: Group, colour: str) -> None:
    from rliable.library import get_interval_estimates

    runs = [run for run in group.runs if run.history]
    if not runs:
        return
    grid = grid_of(runs)
    curves = np.stack([curve_of(run, grid) for run in runs])
    scores = {group.name: curves[:, np.newaxis]}  # runs, tasks (one: the validation), moments
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        # rliable says what it does, and hands its generator on by a name that arch will drop.
        warnings.filterwarnings("ignore", "random_state is deprecated", FutureWarning)
        means, bands = get_interval_estimates(
            scores, _mean_over_runs, reps=_DRAWS, random_state=_generator()
        )
    low, high = bands[group.name]
    for curve in curves if len(curves) > 1 else ():
        axes.step(grid, curve, where="post", color=colour, lw=0.5, alpha=0.35)
    axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.18, lw=0)
    label = f"{group.name} ({len(runs)})"
    axes.step(grid, means[group.name], where="post", color=colour, lw=1.8, label=label)


def _mean_over_runs(scores: NDArray[np.float64]) -> Any:
    """Mean over runs and tasks at each moment."""
    return scores.mean(axis=(0, 1))


def _generator() -> np.random.RandomState:
    """Of its own, and of the kind that rliable takes."""
    return np.random.RandomState(0)


def _ratios(axes: Axes, groups: Sequence[Group], rule: NDArray[np.float64]) -> None:
    axes.axvline(1.0, color=GREY, lw=1, ls="--")
    for row, (group, colour) in enumerate(zip(groups, _colours(groups), strict=True)):
        found = group_ratio(group.costs, rule[np.newaxis])
        axes.plot([found.low, found.high], [row, row], color=colour, lw=2.5)
        axes.plot(found.value, row, "D", color=colour, ms=6)
        seeds = [mean_ratio(run.policy, rule).value for run in group.runs]
        axes.plot(seeds, [row + 0.22] * len(seeds), "o", color=colour, ms=3.5, alpha=0.7)
    axes.set_yticks(range(len(groups)), [group.name for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel("ratio of means (dots: seeds; less is better)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def draw_pairs(
    path: Path, names: Sequence[str], improvement: Mapping[tuple[str, str], Interval]
) -> None:
    """Draw the probability that a run of a row costs less on a window than one of a column.

    Parameters
    ----------
    path : Path
        Written only if there are two groups at least.
    names : sequence of str
        The groups, best first.
    improvement : mapping of (str, str) to Interval
        Of each pair once, the better one first.
    """
    if len(names) < 2:
        return
    table = np.full((len(names), len(names)), np.nan)
    texts: dict[tuple[int, int], str] = {}
    for (mine, other), found in improvement.items():
        row, column = names.index(mine), names.index(other)
        table[row, column], table[column, row] = found.value, 1.0 - found.value
        texts[row, column] = _text(found.value, found.low, found.high)
        texts[column, row] = _text(1.0 - found.value, 1.0 - found.high, 1.0 - found.low)
    side = 2.0 + 1.05 * len(names)
    with figure_file(path, (side + 1.2, side)) as (_, axes):
        axes.imshow(table, cmap="RdBu", vmin=0.0, vmax=1.0, alpha=0.75)
        for (row, column), text in texts.items():
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        for edge in axes.spines.values():
            edge.set_visible(False)
        axes.set_title("P(the row costs less on a window)", fontsize=9)


def _text(value: float, low: float, high: float) -> str:
    return f"{value:.2f}\n{low:.2f} to {high:.2f}"
