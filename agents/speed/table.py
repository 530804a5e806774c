"""Speed suites: which measurements, what they should reach, which ratios must hold; their table."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agents.files import markdown_table, write_json, write_text
from agents.speed.clock import Measure
from agents.speed.measures import MEASURES
from agents.speed.workbench import UnavailableError, Workbench
from orchestrator.errors import ConfigurationError

__all__ = [
    "SMALLER",
    "Outcome",
    "Ratio",
    "SpeedSuite",
    "Target",
    "print_speed",
    "run_speed_suite",
    "write_speed",
]


SMALLER = ("s", "ms", "MiB", "leases", "times", "%")
"""Units of which less is better."""


_CLOCKS = {"wall": "wall time", "cpu": "processor time where one thread works"}


@dataclass(frozen=True)
class Target:
    """What a measurement should reach, and what it aims at; times and memory: at most."""

    least: float
    aim: float


@dataclass(frozen=True)
class Ratio:
    """A quotient of two measurements of the same run, which holds on any machine.

    Parameters
    ----------
    of, to : str
        Measurements.
    at_least : float
    """

    of: str
    to: str
    at_least: float


@dataclass(frozen=True)
class SpeedSuite:
    """What is to be measured.

    Parameters
    ----------
    name : str
    measures : sequence of str
        Some of :data:`MEASURES`.
    bench : Workbench
    targets : mapping of str to Target, optional
    ratios : sequence of Ratio, optional
        The run fails when one does not hold.
    """

    name: str
    measures: Sequence[str]
    bench: Workbench
    targets: Mapping[str, Target] = field(default_factory=dict)
    ratios: Sequence[Ratio] = ()

    def __post_init__(self) -> None:
        """Reject unknown names."""
        for name in (*self.measures, *self.targets):
            if name not in MEASURES:
                known = ", ".join(MEASURES)
                raise ConfigurationError(f"suite: unknown measurement '{name}'; known: {known}")
        for ratio in self.ratios:
            for name in (ratio.of, ratio.to):
                if name not in self.measures:
                    raise ConfigurationError(f"suite: a ratio needs '{name}': add it to 'measures'")


@dataclass(frozen=True)
class Outcome:
    """A measurement, or why it could not be made."""

    name: str
    what: str
    measure: Measure | None
    reason: str = ""


def run_speed_suite(suite: SpeedSuite) -> Iterator[Outcome]:
    """Make the measurements of a suite, one after the other."""
    for name in suite.measures:
        function = MEASURES[name]
        what = (function.__doc__ or name).splitlines()[0].rstrip(".")
        try:
            yield Outcome(name, what, function(suite.bench))
        except UnavailableError as error:
            yield Outcome(name, what, None, str(error))


def print_speed(suite: SpeedSuite, outcomes: Sequence[Outcome], console: Console) -> bool:
    """Show the measurements and ratios of a suite.

    Returns
    -------
    bool
        Whether all ratios hold.
    """
    console.print(
        f"[bold]{suite.name}[/]: {_machine()}; medians of {suite.bench.repeats} "
        f"repeats, {_CLOCKS[suite.bench.clock]}"
    )
    table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("what", ratio=1)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("range", justify="right", no_wrap=True)
    if suite.targets:
        for column in ("at least", "aim"):
            table.add_column(column, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(*_cells(suite, outcome))
    console.print(table)
    found = _ratios(suite, outcomes)
    for text, holds in found:
        console.print(f"{'[green]holds[/] ' if holds else '[red]BROKEN[/]'} {text}")
    return all(holds for _, holds in found)


def write_speed(suite: SpeedSuite, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write ``summary.json`` and ``table.md``."""
    content: dict[str, Any] = {
        "suite": suite.name,
        "machine": _machine(),
        "measures": {
            item.name: {"what": item.what, "reason": item.reason}
            if item.measure is None
            else {"what": item.what, **asdict(item.measure)}
            for item in outcomes
        },
        "ratios": [{"text": text, "holds": holds} for text, holds in _ratios(suite, outcomes)],
    }
    write_json(folder / "summary.json", content)
    write_text(folder / "table.md", _markdown(suite, outcomes))


def _cells(suite: SpeedSuite, outcome: Outcome) -> list[str]:
    measure = outcome.measure
    if measure is None:
        return [f"{outcome.what} [dim](skipped: {outcome.reason})[/]", "–"]
    what = f"{outcome.what} [dim]({measure.note})[/]" if measure.note else outcome.what
    spread = f"{_short(measure.low)}–{_short(measure.high)}" if measure.low < measure.high else ""
    cells = [what, _short(measure.value), measure.unit, spread]
    target = suite.targets.get(outcome.name)
    if target is None:
        return cells
    small = measure.unit in SMALLER
    for bound in (target.least, target.aim):
        met = measure.value <= bound if small else measure.value >= bound
        cells.append(f"[green]{_short(bound)} ✓[/]" if met else f"[red]{_short(bound)} ✗[/]")
    return cells


def _short(value: float) -> str:
    """Three digits, thousands and millions by letter."""
    if 1e3 <= value < 1e4:
        return f"{value:,.0f}"
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def _ratios(suite: SpeedSuite, outcomes: Sequence[Outcome]) -> list[tuple[str, bool]]:
    values = {item.name: item.measure.value for item in outcomes if item.measure is not None}
    found = []
    for ratio in suite.ratios:
        if ratio.of in values and ratio.to in values:
            quotient = values[ratio.of] / values[ratio.to]
            text = f"{ratio.of} / {ratio.to} = {quotient:.3g} (at least {ratio.at_least:g})"
            found.append((text, quotient >= ratio.at_least))
    return found


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _markdown(suite: SpeedSuite, outcomes: Sequence[Outcome]) -> str:
    columns = ("what", "median", "unit", "range", "at least", "aim")
    rows: list[tuple[str, ...]] = []
    for item in outcomes:
        measure, target = item.measure, suite.targets.get(item.name)
        if measure is None:
            rows.append((f"{item.what} (skipped: {item.reason})", "", "", "", "", ""))
            continue
        spread = f"{_short(measure.low)}–{_short(measure.high)}"
        bounds = ("", "") if target is None else (_short(target.least), _short(target.aim))
        what = f"{item.what} ({measure.note})" if measure.note else item.what
        rows.append((what, _short(measure.value), measure.unit, spread, *bounds))
    clock = _CLOCKS[suite.bench.clock]
    head = f"{_machine()}; medians of {suite.bench.repeats} repeats, {clock}."
    return f"{head}\n\n{markdown_table(columns, rows, text_columns=1)}\n"
