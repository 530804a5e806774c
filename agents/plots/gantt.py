"""A window as a Gantt chart: capacity over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.outcomes import EvaluationResult
from agents.plots.style import ACCENT, GREY, MS_PER_HOUR, SECOND, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["assign_lanes", "draw_gantt"]

_MOST_LANES = 4096
_BOUND_MS = 10_000


def assign_lanes(
    start: NDArray[np.int64], end: NDArray[np.int64], size: NDArray[np.int64], lanes: int
) -> list[list[tuple[int, int]]]:
    """Give every job lanes of its own for as long as it runs.

    A job gets the smallest gap that holds it whole, else the lowest free lanes.

    Parameters
    ----------
    start, end : int64 [J]
    size : int64 [J]
        Lanes that each job needs.
    lanes : int
        All there are.

    Returns
    -------
    list of list of (int, int)
        For each job its runs of lanes: the first, and how many.
    """
    owner = np.full(lanes, -1, np.int64)
    given: list[list[tuple[int, int]]] = [[] for _ in range(len(start))]
    running: list[int] = []
    for j in np.lexsort((-size, start)):
        for k in [k for k in running if end[k] <= start[j]]:
            running.remove(k)
            for first, count in given[k]:
                owner[first : first + count] = -1
        given[j] = _take(_runs(owner < 0), int(size[j]))
        for first, count in given[j]:
            owner[first : first + count] = j
        running.append(int(j))
    return given


def _runs(free: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], free.view(np.int8), [0]))))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _take(gaps: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    whole = [gap for gap in gaps if gap[1] >= size]
    if whole:
        return [(min(whole, key=lambda gap: gap[1])[0], size)]
    taken = []
    for first, count in gaps:
        part = min(count, size)
        if part > 0:
            taken.append((first, part))
            size -= part
    return taken


def draw_gantt(path: Path, results: Sequence[EvaluationResult], sequence: int = 0) -> None:
    """Draw one window under several policies: capacity over time, and how many jobs wait.

    Every job is a block, as high as its demand and as long as its run.

    Parameters
    ----------
    path : Path
    results : sequence of EvaluationResult
        One panel for each, with the jobs of the window. Of a preempted job the last run is drawn.
    sequence : int, optional
        The window.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    norm = LogNorm(1.0, 100.0, clip=True)
    count = len(results)
    size = (9.2, 2.0 + 2.4 * count)
    layout = {"nrows": count + 1, "height_ratios": [2.0] * count + [1.0]}
    with figure_file(path, size, sharex=True, **layout) as (figure, grid):
        stops = ["#c9dcef", "#7aa6d6", "#f2c14e", "#d9632b", "#8c1c13"]
        colours = LinearSegmentedColormap.from_list("slowdown", stops)
        for axes, result in zip(grid, results, strict=False):
            _blocks(axes, result, sequence, colours, norm)
        _waiting(grid[-1], results, sequence)
        grid[-1].set_xlabel("hours since the first submission")
        bar = figure.colorbar(
            ScalarMappable(norm, colours), ax=grid[:-1], aspect=30, pad=0.01, extend="max"
        )
        bar.set_label("bounded slowdown of the job")
        bar.outline.set_visible(False)


def _slowdowns(jobs: NDArray[np.void]) -> NDArray[np.float64]:
    """Bounded slowdown of each job, from the run that it ended with."""
    run = np.maximum(jobs["end_ms"] - jobs["last_start_ms"], _BOUND_MS)
    slowdown: NDArray[np.float64] = (jobs["end_ms"] - jobs["submit_ms"]) / run
    return np.maximum(slowdown, 1.0)


def _blocks(axes: Axes, result: EvaluationResult, sequence: int, colours: Any, norm: Any) -> None:
    from matplotlib.collections import PolyCollection

    jobs = result.of_sequence(sequence)
    unit = max(int(np.gcd.reduce(jobs["units"])), -(-result.capacity_units // _MOST_LANES))
    size = -(-jobs["units"] // unit)
    lanes = result.capacity_units // unit
    placed = assign_lanes(jobs["last_start_ms"], jobs["end_ms"], size, lanes)
    zero = jobs["submit_ms"].min()
    begin = (jobs["last_start_ms"] - zero) / MS_PER_HOUR
    until = (jobs["end_ms"] - zero) / MS_PER_HOUR
    shade = colours(norm(_slowdowns(jobs)))
    corners, faces = [], []
    for j, runs in enumerate(placed):
        for first, count in runs:
            left, right = begin[j], until[j]
            low, high = first * unit / 1000, (first + count) * unit / 1000
            corners.append([(left, low), (right, low), (right, high), (left, high)])
            faces.append(shade[j])
    axes.add_collection(
        PolyCollection(corners, facecolors=faces, edgecolors="white", linewidths=0.15)
    )
    mean = result.values["bounded_slowdown"][sequence]
    axes.set(ylim=(0, result.capacity_units / 1000), ylabel=result.resource)
    axes.set_xlim(0, max(until.max(), axes.get_xlim()[1]))
    axes.set_title(f"{result.policy}: mean bounded slowdown {mean:,.1f}")


def _waiting(axes: Axes, results: Sequence[EvaluationResult], sequence: int) -> None:
    for result, colour in zip(results, (ACCENT, SECOND, GREY), strict=False):
        jobs = result.of_sequence(sequence)
        times = np.concatenate((jobs["submit_ms"], jobs["start_ms"]))
        change = np.repeat((1, -1), len(jobs))
        order = np.argsort(times, kind="stable")
        hours = (times[order] - jobs["submit_ms"].min()) / MS_PER_HOUR
        waiting = np.cumsum(change[order])
        axes.step(hours, waiting, where="post", color=colour, lw=1.2, label=result.policy)
    axes.set_ylim(bottom=0)
    axes.set(ylabel="jobs waiting")
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.95), ncols=len(results))
