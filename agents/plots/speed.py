"""Measured speeds beside what they should reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.plots.style import ACCENT, GREY, SECOND, figure_file, plain_ticks
from agents.speed.suite import Outcome, SpeedSuite
from agents.speed.table import SMALLER

__all__ = ["draw_speed"]


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
            ends = [(value / target.least) ** power for value in (measure.low, measure.high)]
            value = (measure.value / target.least) ** power
            colour = ACCENT if value >= 1.0 else SECOND
            axes.plot(ends, [row, row], color=colour, lw=2)
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
