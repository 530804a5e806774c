"""Two runs of the same jobs as one picture: how long each job took, and when it ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.plots.style import ACCENT, GREY, INK, SECOND, figure_file, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PairedJob", "draw_paired"]


_BAND = 0.05  # relative error of the lines beside the diagonal
_ROW_IN = 0.16  # inches of a job
_NAMED = 4  # jobs with the largest errors


@dataclass(frozen=True)
class PairedJob:
    """A job of both runs; times in seconds since the first submission.

    Parameters
    ----------
    name : str
    submit_s : float
        When it was submitted.
    runs_s : two sequences of (float, float)
        Begin and end of its runs, in the first run of the cluster and in the second.
    """

    name: str
    submit_s: float
    runs_s: tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]

    @property
    def took_s(self) -> tuple[float, float]:
        """From submission to the end."""
        first, second = (runs[-1][1] - self.submit_s for runs in self.runs_s)
        return first, second


def draw_paired(path: Path, jobs: Sequence[PairedJob], labels: tuple[str, str], title: str) -> None:
    """Draw two runs of the same jobs: completion times against each other, and both in time.

    Parameters
    ----------
    path : Path
    jobs : sequence of PairedJob
        In the order in which they are drawn, the first on top.
    labels : (str, str)
        What the two runs are called.
    title : str
    """
    size = (12.0, max(4.2, 1.2 + _ROW_IN * len(jobs)))
    with figure_file(path, size, ncols=2, width_ratios=[1.0, 1.6]) as (_, grid):
        _scatter(grid[0], jobs, labels)
        grid[0].set_title(title)
        _bars(grid[1], jobs, labels)


def _scatter(axes: Axes, jobs: Sequence[PairedJob], labels: tuple[str, str]) -> None:
    took = np.array([job.took_s for job in jobs])
    ends = np.array([took.min() * 0.85, took.max() * 1.15])
    axes.plot(ends, ends, color=GREY, lw=0.8, zorder=1)
    for factor in (1.0 - _BAND, 1.0 + _BAND):
        axes.plot(ends, ends * factor, color=GREY, lw=0.6, ls=":", zorder=1)
    axes.scatter(took[:, 0], took[:, 1], s=18, color=ACCENT, edgecolors="white", lw=0.4, zorder=2)
    error = np.abs(took[:, 1] / took[:, 0] - 1.0)
    for k in np.argsort(-error)[:_NAMED]:
        if error[k] > _BAND:
            note = f" {jobs[k].name}"
            axes.annotate(note, took[k], fontsize=7, color=INK, va="center")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel(f"completion time, {labels[0]}, s")
    axes.set_ylabel(f"completion time, {labels[1]}, s (dotted: {_BAND:.0%} off)")
    plain_ticks(axes, "x")
    plain_ticks(axes, "y")


def _bars(axes: Axes, jobs: Sequence[PairedJob], labels: tuple[str, str]) -> None:
    for run, (colour, label) in enumerate(zip((ACCENT, SECOND), labels, strict=True)):
        for row, job in enumerate(jobs):
            spans = [(begin, end - begin) for begin, end in job.runs_s[run]]
            low = row - 0.4 + 0.4 * run
            axes.broken_barh(
                spans, (low, 0.38), color=colour, lw=0, label=label if row == 0 else None
            )
    submits = [job.submit_s for job in jobs]
    axes.scatter(submits, range(len(jobs)), marker="|", s=26, color=INK, lw=0.9, label="submitted")
    axes.set_yticks(range(len(jobs)), [job.name for job in jobs], fontsize=6.5)
    axes.set_ylim(len(jobs) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_xlabel("seconds since the first submission")
    axes.legend(loc="upper right", fontsize=8)
