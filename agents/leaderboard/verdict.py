"""Paired verdicts: a policy against the best rule, and against everybody else, window by window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agents.evaluation.statistics import Interval, mean_ratio
from agents.files import markdown_table
from agents.leaderboard.store import Entry, Record

__all__ = ["Verdict", "board_table", "judge", "print_verdicts"]


@dataclass(frozen=True)
class Verdict:
    """A policy against another on the same windows.

    Parameters
    ----------
    against : str
    mean : float
        The other's mean cost.
    ratio : Interval
        Mean cost of the policy over the other's; less than 1 is better.
    won : float
        Share of windows on which the policy costs less.
    """

    against: str
    mean: float
    ratio: Interval
    won: float

    @property
    def word(self) -> str:
        """What the interval says: ``better``, ``worse``, or ``not clear``."""
        if self.ratio.high < 1.0:
            return "better"
        return "worse" if self.ratio.low > 1.0 else "not clear"


def judge(mine: Entry, record: Record) -> list[Verdict]:
    """Compare somebody with the best rule of a cell, then with everybody else who is no rule."""
    others = [record.best, *(entry for entry in record.learned if entry.name != mine.name)]
    return [_verdict(mine, other) for other in others]


def _verdict(mine: Entry, other: Entry) -> Verdict:
    return Verdict(
        against=other.name,
        mean=other.mean,
        ratio=mean_ratio(mine.costs, other.costs),
        won=float((mine.costs < other.costs).mean()),
    )


def print_verdicts(
    mine: Entry, record: Record, verdicts: Sequence[Verdict], console: Console
) -> None:
    """Show how somebody did in a cell."""
    head = f"[bold]{record.cell}[/]: {record.about}; {len(mine.costs)} windows"
    console.print(f"\n{head}")
    metric = record.metric.replace("_", " ")
    table = Table(box=SIMPLE_HEAD, title=f"{mine.name}: {metric} {mine.mean:.4g}")
    table.title_justify = "left"
    table.add_column("against")
    for name in ("its mean", "ratio", "95 % interval", "won"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row, verdict in enumerate(verdicts):
        table.add_row(
            verdict.against + (" (best rule)" if row == 0 else ""),
            f"{verdict.mean:.4g}",
            f"{verdict.ratio.value:.3f}",
            f"{verdict.ratio.low:.3f} to {verdict.ratio.high:.3f}",
            f"{verdict.won:.0%}",
            verdict.word,
        )
    console.print(table)


def board_table(records: Sequence[Record]) -> str:
    """The board in Markdown: everybody's ratio to the best rule of each cell, with its interval.

    Parameters
    ----------
    records : sequence of Record
        Of cells that are shown beside each other; rows stand in the order of the mean logarithm
        of the ratios, those who played fewer cells behind those who played more.
    """
    ratios = {record.cell: _ratios(record) for record in records}
    kinds = {entry.name: entry.kind.value for record in records for entry in record.entries}
    rows = [
        [name, kind, *(_text(ratios[record.cell].get(name)) for record in records)]
        for name, kind in sorted(kinds.items(), key=lambda item: _place(item[0], ratios.values()))
    ]
    head = ["policy", "kind", *(record.cell.replace("_", " ") for record in records)]
    lines = [
        f"- **{record.cell.replace('_', ' ')}**: {record.about}; {len(record.best.costs)} windows, "
        f"{record.metric.replace('_', ' ')}; best rule {record.best.name}, {record.best.mean:.4g}"
        for record in records
    ]
    return "\n".join([*lines, "", markdown_table(head, rows, text_columns=2)])


def _ratios(record: Record) -> dict[str, Interval]:
    return {entry.name: mean_ratio(entry.costs, record.best.costs) for entry in record.entries}


def _place(name: str, ratios: Iterable[dict[str, Interval]]) -> tuple[int, float]:
    known = [cell[name].value for cell in ratios if name in cell]
    return -len(known), float(np.mean(np.log(known)))


def _text(ratio: Interval | None) -> str:
    if ratio is None:
        return "–"
    if ratio.low == ratio.high == 1.0:
        return "1"
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
