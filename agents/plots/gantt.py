"""A window as a Gantt chart: capacity over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.outcomes import EvaluationResult
from agents.evaluation.runs import RUN_OUTCOME
from agents.plots.style import ACCENT, GREY, INK, MS_PER_HOUR, SECOND, figure_file
from envs.viewing.lanes import MOST_LANES, assign_lanes
from orchestrator.scheduling.runs import RunEnd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_gantt", "draw_gantts"]

_MARK = 0.003  # of the width of a panel
_RED = "#d6006c"
_BOUND_MS = 10_000
_ENDS = {int(RunEnd.PREEMPTED): (INK, "preempted"), int(RunEnd.INTERRUPTED): (_RED, "node failed")}


def draw_gantt(path: Path, results: Sequence[EvaluationResult], sequence: int = 0) -> None:
    """Draw one window under several policies: capacity over time, and how many jobs wait.

    Every run of a job is a block, as high as what it holds and as long as it holds that: a job that
    was preempted has several, one that was resized another one from then on. A bar at the end of a
    block says that the job was preempted, or lost its node, and waits again.

    Parameters
    ----------
    path : Path
    results : sequence of EvaluationResult
        One panel for each, with the jobs of the window. Where the runs are not known, the last one
        of each job is drawn, and the panel says so.
    sequence : int, optional
        The window.
    """
    colours, norm = _scale()
    count = len(results)
    size = (9.2, 2.0 + 2.4 * count)
    layout = {"nrows": count + 1, "height_ratios": [2.0] * count + [1.0]}
    with figure_file(path, size, sharex=True, **layout) as (figure, grid):
        for axes, result in zip(grid, results, strict=False):
            _blocks(axes, result, sequence, colours, norm)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=len(_ENDS))
        _waiting(grid[-1], results, sequence)
        grid[-1].set_xlabel("hours since the first submission")
        _bar(figure, grid[:-1], (colours, norm), aspect=30)


def draw_gantts(
    path: Path, results: Sequence[EvaluationResult], sequence: int = 0, columns: int = 4
) -> None:
    """Draw one window under many policies, small, beside each other.

    Parameters
    ----------
    path : Path
    results : sequence of EvaluationResult
        One panel for each, in their order.
    sequence : int, optional
        The window.
    columns : int, optional
        Panels beside each other.
    """
    colours, norm = _scale()
    rows = -(-len(results) // columns)
    layout = {"nrows": rows, "ncols": columns, "sharex": True, "sharey": True, "squeeze": False}
    with figure_file(path, (3.0 * columns, 1.55 * rows + 0.4), **layout) as (figure, grid):
        for axes, result in zip(grid.flat, results, strict=False):
            _blocks(axes, result, sequence, colours, norm)
            mean = result.values["bounded_slowdown"][sequence]
            axes.set_title(f"{result.policy}  {mean:,.1f}", fontsize=8)
            axes.set_ylabel("")
            axes.tick_params(labelsize=7)
        for axes in grid.flat[len(results) :]:
            axes.set_axis_off()
        figure.supxlabel("hours since the first submission", fontsize=8)
        figure.supylabel(results[0].resource, fontsize=8)
        _bar(figure, grid, (colours, norm), aspect=30 * rows, fraction=0.02)


def _scale() -> tuple[Any, Any]:
    """Colours of slowdowns, and where on their scale one is."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    stops = ["#c9dcef", "#7aa6d6", "#f2c14e", "#d9632b", "#8c1c13"]
    return LinearSegmentedColormap.from_list("slowdown", stops), LogNorm(1.0, 100.0, clip=True)


def _bar(figure: Any, grid: Any, scale: tuple[Any, Any], **size: Any) -> None:
    """The scale beside the panels."""
    from matplotlib.cm import ScalarMappable

    colours, norm = scale
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=grid, pad=0.01, extend="max", **size)
    bar.set_label("bounded slowdown of the job")
    bar.outline.set_visible(False)


def _slowdowns(jobs: NDArray[np.void]) -> NDArray[np.float64]:
    """Bounded slowdown of each job, as the metric has it."""
    run = np.maximum(jobs["duration_ms"], _BOUND_MS)
    slowdown: NDArray[np.float64] = (jobs["end_ms"] - jobs["submit_ms"]) / run
    return np.maximum(slowdown, 1.0)


def _drawn(result: EvaluationResult, sequence: int) -> NDArray[np.void]:
    """What is drawn of a window, as runs: all of them or, if unknown, the last one of each job."""
    jobs = result.of_sequence(sequence)
    runs = result.runs.of_sequence(sequence)
    if runs is None:
        started = np.flatnonzero(jobs["start_ms"] >= 0)
        runs = np.zeros(len(started), RUN_OUTCOME)
        runs["job"], runs["start_ms"] = started, jobs["last_start_ms"][started]
        for name in ("end_ms", "units"):
            runs[name] = jobs[name][started]
    return runs[runs["end_ms"] > runs["start_ms"]]


def _blocks(axes: Axes, result: EvaluationResult, sequence: int, colours: Any, norm: Any) -> None:
    from matplotlib.collections import PolyCollection

    jobs, runs = result.of_sequence(sequence), _drawn(result, sequence)
    unit = max(int(np.gcd.reduce(runs["units"])), -(-result.capacity_units // MOST_LANES), 1)
    size = -(-runs["units"] // unit)
    placed = assign_lanes(runs["start_ms"], runs["end_ms"], size, result.capacity_units // unit)
    zero = jobs["submit_ms"].min()
    begin = (runs["start_ms"] - zero) / MS_PER_HOUR
    until = (runs["end_ms"] - zero) / MS_PER_HOUR
    shade = colours(norm(_slowdowns(jobs)))[runs["job"]]
    # An end is seen, and yet hides no more than a quarter of a short run.
    marks = np.minimum((until - begin) / 4, until.max(initial=0.0) * _MARK)
    corners, faces = [], []
    ends: dict[int, list[list[tuple[float, float]]]] = {end: [] for end in _ENDS}
    for k, lanes in enumerate(placed):
        for first, count in lanes:
            low, high = first * unit / 1000, (first + count) * unit / 1000
            corners.append(_rectangle(begin[k], until[k], low, high))
            faces.append(shade[k])
            if int(runs["end"][k]) in ends:
                mark = _rectangle(until[k] - marks[k], until[k], low, high)
                ends[int(runs["end"][k])].append(mark)
    axes.add_collection(
        PolyCollection(corners, facecolors=faces, edgecolors="white", linewidths=0.15)
    )
    for end, (colour, words) in _ENDS.items():
        if ends[end]:
            axes.add_collection(
                PolyCollection(ends[end], facecolors=colour, linewidths=0, label=words)
            )
    mean = result.values["bounded_slowdown"][sequence]
    axes.set(ylim=(0, result.capacity_units / 1000), ylabel=result.resource)
    axes.set_xlim(0, max(until.max(initial=0.0), axes.get_xlim()[1]))
    note = "" if result.runs.of_sequence(sequence) is not None else " (last run of each job only)"
    axes.set_title(f"{result.policy}: mean bounded slowdown {mean:,.1f}{note}")


def _rectangle(left: float, right: float, low: float, high: float) -> list[tuple[float, float]]:
    return [(left, low), (right, low), (right, high), (left, high)]


def _waiting(axes: Axes, results: Sequence[EvaluationResult], sequence: int) -> None:
    for result, colour in zip(results, (ACCENT, SECOND, GREY), strict=False):
        jobs = result.of_sequence(sequence)
        runs = result.runs.of_sequence(sequence)
        if runs is None:
            begun, stopped = jobs["start_ms"][jobs["start_ms"] >= 0], jobs["start_ms"][:0]
        else:
            goes_on = np.isin(runs["end"], (RunEnd.RESIZED, RunEnd.MOVED))
            begun = runs["start_ms"][~np.concatenate(([False], goes_on[:-1]))[: len(runs)]]
            stopped = runs["end_ms"][np.isin(runs["end"], list(_ENDS))]
        times = np.concatenate((jobs["submit_ms"], stopped, begun))
        change = np.repeat((1, 1, -1), (len(jobs), len(stopped), len(begun)))
        order = np.argsort(times, kind="stable")
        last = np.append(np.diff(times[order]) > 0, True)  # who starts at once does not wait
        hours = (times[order] - jobs["submit_ms"].min())[last] / MS_PER_HOUR
        waiting = np.cumsum(change[order])[last]
        label = result.policy if runs is not None else f"{result.policy}, before the first run"
        axes.step(hours, waiting, where="post", color=colour, lw=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.set(ylabel="jobs waiting")
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.95), ncols=len(results))
