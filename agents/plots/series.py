"""Curves: the course of one window, and a cluster's allocation as ever more is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.evaluation.pods import PackingResult
from agents.evaluation.series import WindowSeries
from agents.plots.style import ACCENT, GREY, INK, PALE, SECOND, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_packing", "draw_series"]


_DOWN = "#8c1c13"


_NEARLY_ALL = 0.95


def draw_series(path: Path, series: Sequence[WindowSeries], title: str = "") -> None:
    """Draw a window under several policies, one column for each, on common axes.

    Rows of panels: capacity in use, idle and out of service; jobs that wait and run; and, where
    there are services, the requests that they get, could serve and miss.

    Parameters
    ----------
    path : Path
    series : sequence of WindowSeries
        Of the same window.
    title : str, optional
    """
    served = all("offered" in one.values for one in series)
    rows = [_capacity, _jobs] + ([_requests] if served else [])
    count = len(series)
    layout = {"nrows": len(rows), "ncols": count, "sharex": True, "sharey": "row", "squeeze": False}
    size = (1.2 + 3.4 * count, 0.9 + 1.9 * len(rows))
    with figure_file(path, size, **layout) as (figure, grid):
        for column, one in enumerate(series):
            for axes, draw in zip(grid[:, column], rows, strict=True):
                draw(axes, one)
                axes.grid(axis="y")
                axes.set_ylim(bottom=0.0)
            grid[0, column].set_title(one.policy)
            grid[-1, column].set_xlabel("hours")
        grid[0, 0].set_xlim(0.0, max(_mostly_over(one) for one in series))
        for axes in grid[:, -1]:  # titles are on the left
            axes.legend(
                fontsize=7,
                ncols=3,
                loc="lower right",
                bbox_to_anchor=(1.02, 0.96),
                borderpad=0.1,
                handlelength=1.0,
                columnspacing=1.0,
            )
        grid[0, 0].set_ylabel(series[0].resource)
        grid[1, 0].set_ylabel("jobs")
        if served:
            grid[2, 0].set_ylabel("requests / s")
        if title:
            figure.suptitle(title, fontsize=9, x=0.01, ha="left")


def draw_packing(
    path: Path, results: Sequence[PackingResult], published: Mapping[str, float]
) -> None:
    """Draw how much of a cluster's GPUs each policy allocates while ever more are asked for.

    Parameters
    ----------
    path : Path
    results : sequence of PackingResult
    published : mapping of str to float
        Published allocations in the end, percent, marked on the right.
    """
    ranked = sorted(results, key=lambda result: -result.mean)
    percents = np.arange(ranked[0].curve.shape[1])
    with figure_file(path, (6.8, 4.0)) as (_, axes):
        axes.grid(axis="y")
        for number, result in enumerate(ranked):
            shade = str(0.75 * number / max(len(ranked) - 1, 1))
            color = ACCENT if number == 0 else shade
            name = f"{result.policy}  {result.mean:.1f}"
            axes.plot(percents, result.curve.mean(axis=0), color=color, lw=1.6, label=name)
            if result.policy in published:
                end = (percents[-1] + 1, published[result.policy])
                axes.plot(*end, marker="<", color=SECOND, ms=5, clip_on=False)
        axes.set(xlabel="GPUs asked for, % of the cluster", ylabel="GPUs allocated, %")
        axes.set_title("GPU allocation" + ("; triangles: published" if published else ""))
        axes.set_xlim(80.0, float(percents[-1]))
        axes.set_ylim(78.0, 97.0)
        axes.legend(fontsize=8)


def _mostly_over(one: WindowSeries) -> float:
    """When nearly all that is ever in use has been: few jobs run on for very long."""
    used = np.cumsum(one.values["busy"])
    last = int(np.searchsorted(used, _NEARLY_ALL * used[-1]))
    return float(one.edges[min(last + 1, len(one.edges) - 1)])


def _capacity(axes: Axes, one: WindowSeries) -> None:
    busy, up = one.values["busy"], one.values["in_service"]
    out = np.maximum(one.capacity - up, 0.0)
    parts = (busy, np.maximum(up - busy, 0.0), out)
    for level, part, colour, name in zip(
        (np.zeros_like(busy), busy, np.maximum(up, busy)),
        parts,
        (ACCENT, PALE, _DOWN),
        ("in use", "idle", "out of service"),
        strict=True,
    ):
        axes.stairs(
            level + part, one.edges, baseline=level, fill=True, color=colour, lw=0, label=name
        )


def _jobs(axes: Axes, one: WindowSeries) -> None:
    axes.stairs(one.values["waiting"], one.edges, color=SECOND, lw=1.2, label="waiting")
    axes.stairs(one.values["running"], one.edges, color=GREY, lw=1.0, label="running")


def _requests(axes: Axes, one: WindowSeries) -> None:
    axes.stairs(one.values["served"], one.edges, color=GREY, lw=1.0, label="could be served")
    axes.stairs(one.values["offered"], one.edges, color=INK, lw=1.2, label="asked")
    axes.stairs(one.values["violated"], one.edges, fill=True, color=_DOWN, lw=0, label="missed")
