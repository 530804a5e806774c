"""Pictures of a backtest: how calibrated bands are, and whether stated differences came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agents.backtest.changes import KINDS, Told
from agents.backtest.replay import ASKED_OF, of_kind
from agents.backtest.score import (
    HORIZONS,
    calibration,
    of_horizon,
    score_differences,
    scores,
)
from agents.plots.style import ACCENT, GREY, SECOND, figure_file
from orchestrator.twin.answers import LEVELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_calibration", "draw_changes"]


_NOMINAL = LEVELS[-1] - LEVELS[0]
_COLOURS = (ACCENT, SECOND, "#3b8a5a")
_LINEAR_H = 0.01  # around zero the scale is linear


def draw_calibration(
    path: Path, found: Mapping[str, NDArray[np.void]], everything: NDArray[np.void]
) -> None:
    """Calibration of all levels, and coverage by horizon with what Slurm's method errs by.

    Jobs that start within a minute, as was told, are left out: that they do is no riddle.
    """
    with figure_file(path, (10.0, 4.2), ncols=2) as (_, grid):
        _draw_levels(grid[0], found, everything)
        _draw_horizons(grid[1], everything)


def _draw_levels(
    axes: Axes, found: Mapping[str, NDArray[np.void]], everything: NDArray[np.void]
) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    for answers in found.values():
        starts = of_horizon(of_kind(answers, 0), "later")
        if len(starts):
            axes.plot(LEVELS, calibration(starts), color=GREY, lw=0.5, alpha=0.7)
    for kind, colour in enumerate(_COLOURS[: len(ASKED_OF)]):
        mine = of_horizon(of_kind(everything, kind), "later")
        if len(mine):
            label = f"{ASKED_OF[kind]}s, all cells"
            axes.plot(LEVELS, calibration(mine), color=colour, marker="o", ms=4, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="quantile that was told", ylabel="share not later")
    axes.set_title("What is told comes true so often")
    axes.legend(loc="upper left")


def _draw_horizons(axes: Axes, everything: NDArray[np.void]) -> None:
    names = [name for name in HORIZONS if name not in ("all", "at once")]
    axes.axhline(_NOMINAL, color=GREY, lw=0.8)
    for kind, colour in enumerate(_COLOURS[: len(ASKED_OF)]):
        told = scores(of_kind(everything, kind))
        mine = [name for name in names if name in told]
        if not mine:
            continue
        middle = [told[name].coverage for name in mine]
        low = [told[name].coverage - told[name].coverage_low for name in mine]
        high = [told[name].coverage_high - told[name].coverage for name in mine]
        at = [names.index(name) + 0.15 * (kind - 1) for name in mine]
        label = f"{ASKED_OF[kind]}s"
        axes.errorbar(at, middle, yerr=[low, high], fmt="o", color=colour, capsize=3, label=label)
        for k, name in zip(at, mine, strict=True) if kind == 0 else ():
            errors = told[name].error_h, told[name].reserved_error_h
            note = f"{errors[0]:.1f} h\nby estimates\n{errors[1]:.1f} h"
            axes.annotate(note, (round(k), 0.03), ha="center", fontsize=7)
    axes.set_xticks(range(len(names)), ["all" if n == "later" else n for n in names])
    axes.set(ylim=(0, 1), ylabel="share of 80 % intervals that hold the truth")
    axes.set_title("Coverage by horizon; median error of starts below")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.2))


def draw_changes(path: Path, told: Sequence[Told]) -> None:
    """Mean completion time as it was said to change and as it did, and signs by kind of change."""
    with figure_file(path, (10.0, 4.2), ncols=2) as (_, grid):
        _draw_differences(grid[0], [one for one in told if one.figure == "total"])
        _draw_signs(grid[1], told)


def _draw_differences(axes: Axes, totals: Sequence[Told]) -> None:
    told = np.array([(o.told.mean, o.told.low, o.told.high) for o in totals]).reshape(-1, 3)
    true = np.array([one.true for one in totals])
    held = (true >= told[:, 1]) & (true <= told[:, 2])
    for mine, colour, label in ((held, ACCENT, "held"), (~held, SECOND, "not held")):
        # An interval need not hold its mean: futures have long tails.
        apart = np.maximum([told[:, 0] - told[:, 1], told[:, 2] - told[:, 0]], 0.0)[:, mine]
        axes.errorbar(
            true[mine], told[mine, 0], apart, fmt="o", ms=3, lw=0.6, color=colour, label=label
        )
    ends = [float(np.abs(true).max(initial=_LINEAR_H)) * sign for sign in (-1, 1)]
    axes.plot(ends, ends, color=GREY, lw=0.8)
    axes.set_xscale("symlog", linthresh=_LINEAR_H)
    axes.set_yscale("symlog", linthresh=_LINEAR_H)
    axes.set(xlabel="what it really did, h", ylabel="what was told, 80 % interval, h")
    axes.set_title("Mean completion time with a change, less without")
    axes.legend(loc="lower right")


def _draw_signs(axes: Axes, told: Sequence[Told]) -> None:
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in told)]
    axes.axhline(_NOMINAL, color=GREY, lw=0.8)
    for shift, (figure, colour) in enumerate(
        zip(("total", "others", "job"), _COLOURS, strict=True)
    ):
        for k, kind in enumerate(kinds):
            mine = [one for one in told if one.figure == figure and one.kind == kind]
            if not mine:
                continue
            one, at = score_differences(mine), k + 0.25 * (shift - 1)
            label = {"total": "all here", "others": "those who come", "job": "single jobs"}[figure]
            axes.bar(at, one.signs, 0.22, color=colour, alpha=0.35, label=label if k == 0 else None)
            axes.plot(at, one.coverage, "o", color=colour, ms=4)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set(ylim=(0, 1.02), ylabel="bars: sign right; dots: 80 % interval holds")
    axes.set_title("By kind of change")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
