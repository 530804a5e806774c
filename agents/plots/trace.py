"""A workload as a picture: when jobs come, how large and how long they are, who sends them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.plots.style import ACCENT, GREY, INK, SECOND, figure_file
from envs.viewing.summary import TraceSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_trace"]

_WEEK = 7.0  # days, from which on days of the week can be told apart
_POINTS = 4000  # of a cloud
_BINS = 60
_TIMES = {1: "1 s", 60: "1 min", 3600: "1 h", 86_400: "1 d", 2_592_000: "30 d"}


def draw_trace(path: Path, summary: TraceSummary) -> None:
    """Draw what a trace is like, in six panels.

    Parameters
    ----------
    path : Path
    summary : TraceSummary
    """
    panels: tuple[Callable[[Axes, TraceSummary], None], ...] = (
        *(_arrivals, _sizes, _run_times),
        *(_estimates, _load, _users),
    )
    with figure_file(path, (11.0, 6.0), nrows=2, ncols=3) as (figure, grid):
        for axes, draw in zip(grid.flat, panels, strict=True):
            draw(axes, summary)
        where = ""
        if summary.capacity > 0:
            where = f" on {summary.capacity:,.0f} {summary.resource}"
            where += f", offered load {summary.offered_load:.2f}"
        title = f"{summary.name}: {summary.jobs:,} jobs in {summary.days:,.0f} days{where}"
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")


def _arrivals(axes: Axes, summary: TraceSummary) -> None:
    """Jobs by hour of the week where there are weeks, else of the day."""
    axes.set_title("jobs submitted in an hour")
    if summary.days >= _WEEK:
        shown = axes.pcolormesh(summary.arrivals, cmap="Blues", vmin=0.0)
        axes.invert_yaxis()
        axes.figure.colorbar(shown, ax=axes, pad=0.02, aspect=30)
        axes.set_ylabel("day of the trace's week")
        axes.set_yticks(np.arange(7) + 0.5, [str(day + 1) for day in range(7)])
    else:
        axes.bar(np.arange(24) + 0.5, summary.arrivals.sum(axis=0), color=ACCENT, width=0.9)
        axes.set_ylabel("jobs")
    axes.set(xlabel="hour of the trace's day", xticks=range(0, 25, 6), xlim=(0, 24))


def _sizes(axes: Axes, summary: TraceSummary) -> None:
    """How much of the jobs, and of the work, is of each size or smaller."""
    asked = summary.sizes > 0
    sizes, order = np.unique(summary.sizes[asked], return_inverse=True)
    work = (np.where(np.isfinite(summary.run_s), summary.run_s, 0.0) * summary.sizes)[asked]
    for weight, colour, name in ((None, ACCENT, "jobs"), (work, SECOND, "work")):
        share = np.cumsum(np.bincount(order, weight))
        axes.step(sizes, share / max(share[-1], 1e-9), where="post", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axes.set(xlabel=f"{summary.resource} of a job", ylabel="share up to it", ylim=(0, 1.02))
    axes.legend(loc="lower right")
    axes.set_title("sizes")


def _run_times(axes: Axes, summary: TraceSummary) -> None:
    axes.set_title("run times")
    run_s = summary.run_s[np.isfinite(summary.run_s)]
    if len(run_s) == 0:
        _say(axes, "no job ends")
        return
    estimate_s = summary.estimate_s[np.isfinite(summary.estimate_s)]
    high = max(run_s.max(), estimate_s.max(initial=1.0), 2.0)
    bins = np.geomspace(max(float(run_s.min()), 1.0), high * 1.001, _BINS)
    for values, colour, name in ((estimate_s, GREY, "estimates"), (run_s, ACCENT, "run times")):
        if values is run_s or not np.array_equal(values, run_s):
            count, _ = np.histogram(np.maximum(values, bins[0]), bins)
            axes.stairs(count, bins, color=colour, label=name)
    axes.axvline(float(np.median(run_s)), color=INK, lw=0.8, ls=":")
    axes.set_xscale("log")
    _time_ticks(axes, "x")
    axes.set(xlabel="dotted: the median run time", ylabel="jobs")
    axes.legend(loc="upper right")


def _estimates(axes: Axes, summary: TraceSummary) -> None:
    """Estimates against run times: evenly chosen jobs."""
    axes.set_title("estimates")
    known = np.flatnonzero(np.isfinite(summary.run_s) & np.isfinite(summary.estimate_s))
    if len(known) == 0:
        _say(axes, "nobody expects an end")
        return
    some = known[np.linspace(0, len(known) - 1, min(len(known), _POINTS)).astype(np.int64)]
    run_s, estimate_s = (np.maximum(v[some], 1.0) for v in (summary.run_s, summary.estimate_s))
    if np.array_equal(run_s, estimate_s):
        _say(axes, "estimates are the run times")
        return
    axes.plot(run_s, estimate_s, ".", ms=2, color=ACCENT, alpha=0.4, rasterized=True)
    both = [min(run_s.min(), estimate_s.min()), max(run_s.max(), estimate_s.max())]
    axes.plot(both, both, color=INK, lw=0.8, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="run time", ylabel="estimate")
    for which in ("x", "y"):
        _time_ticks(axes, which)


def _load(axes: Axes, summary: TraceSummary) -> None:
    days = summary.load_hours / 24.0
    axes.stairs(summary.load, days, fill=True, color=ACCENT, lw=0)
    axes.axhline(1.0, color=INK, lw=0.8, ls=":")
    most = max(float(np.quantile(summary.load, 0.99)) * 1.1, 1.2)  # a peak does not hide the rest
    axes.set(xlabel="days since the first submission", xlim=(0, days[-1]), ylim=(0, most))
    axes.set_ylabel("of what the cluster can do" if summary.capacity > 0 else "of the mean")
    axes.set_title("work that comes")


def _users(axes: Axes, summary: TraceSummary) -> None:
    """How much of the jobs, and of the work, the busiest users have."""
    count = len(summary.user_work)
    axes.set_title(f"{count:,} users or tenants" if count > 1 else "users")
    if count == 1:
        _say(axes, "one user, or none recorded")
        return
    share = np.arange(count + 1) / count
    for values, colour, name in (
        (summary.user_jobs, ACCENT, "jobs"),
        (summary.user_work, SECOND, "work"),
    ):
        held = np.concatenate(([0.0], np.cumsum(np.sort(values)[::-1])))
        axes.plot(share, held / max(held[-1], 1e-9), color=colour, label=name)
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="share of users, the busiest first", ylabel="share", ylim=(0, 1.02))
    axes.legend(loc="lower right")


def _time_ticks(axes: Axes, which: str) -> None:
    """Times as people say them, on a logarithmic axis in seconds."""
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    shown = {at: text for at, text in _TIMES.items() if low <= at <= high}
    axis.set_ticks(list(shown), list(shown.values()))
    axis.set_ticks([], minor=True)


def _say(axes: Axes, text: str) -> None:
    """Words in the place of a curve."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", color=GREY, transform=axes.transAxes)
