"""The leaderboard as a picture: ratios to the best rule, cell by cell, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents.evaluation.statistics import Interval, mean_ratio
from agents.leaderboard.store import Entry, Kind, Record
from agents.plots.style import ACCENT, GREY, SECOND, figure_file, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_board"]

_ACROSS = 4
_RULES = 3  # of each cell, the best ones
_WIDE = 3.0


def draw_board(path: Path, records: Sequence[Record]) -> None:
    """Draw the ratio of means to the best rule, one panel for each cell.

    Blue is clearly better than the best rule, orange clearly worse, grey neither; dots are
    policies, squares rules. All policies are shown, and the best few rules of each cell: the others
    would stretch the axis until nothing can be told apart. Where ratios are far apart all the same,
    it is logarithmic.

    Parameters
    ----------
    path : Path
    records : sequence of Record
        At least one.
    """
    across = min(_ACROSS, len(records))
    down = -(-len(records) // across)
    shown = [_shown(record) for record in records]
    rows = max(len(entries) for entries in shown)
    size = (3.3 * across + 0.4, down * (0.9 + 0.24 * rows))
    layout = {"nrows": down, "ncols": across, "squeeze": False}
    with figure_file(path, size, **layout) as (figure, grid):
        for axes, record, entries in zip(grid.flat, records, shown, strict=False):
            _panel(axes, record, entries)
        for axes in grid.flat[len(records) :]:
            axes.set_visible(False)
        figure.supxlabel(
            "mean cost relative to the best rule (less is better); in brackets: windows", fontsize=8
        )


def _shown(record: Record) -> list[Entry]:
    """Who is drawn, best first."""
    found = [*record.learned, *record.rules[:_RULES]]
    return sorted(found, key=lambda entry: entry.mean)


def _panel(axes: Axes, record: Record, entries: Sequence[Entry]) -> None:
    ratios = [mean_ratio(entry.costs, record.best.costs) for entry in entries]
    axes.axvline(1.0, color=GREY, lw=1, ls="--")
    for row, (entry, ratio) in enumerate(zip(entries, ratios, strict=True)):
        colour = _colour(ratio)
        axes.plot([ratio.low, ratio.high], [row, row], color=colour, lw=2)
        marker = "s" if entry.kind == Kind.RULE else "o"
        axes.plot(ratio.value, row, marker, color=colour, ms=4)
    axes.set_yticks(range(len(entries)), [entry.name for entry in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    if max(ratio.high for ratio in ratios) > _WIDE * min(ratio.low for ratio in ratios) > 0:
        axes.set_xscale("log")
        plain_ticks(axes, "x")
    windows = len(record.best.costs)
    axes.set_title(f"{record.cell.replace('_', ' ')} ({windows})", fontsize=9)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _colour(ratio: Interval) -> str:
    if ratio.high < 1.0:
        return ACCENT
    return SECOND if ratio.low > 1.0 else GREY
