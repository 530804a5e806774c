"""The result of a study of scaling: tables and a picture for people, a summary for programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.autoscaling.study import Outcome, Study, played
from agents.files import markdown_table, write_json, write_text
from agents.plots.style import ACCENT, GREY, PALE, SECOND, figure_file
from orchestrator.autoscaler import DemandSeries, ForecastTable

__all__ = ["draw_study", "print_study", "summarise", "write_study"]


Entry = Mapping[str, Any]


_BASELINE = "reactive"


_GROUP_HEAD = (
    "series",
    "scaler",
    "reactive events",
    "fewer than reactive",
    "node hours",
    "short of capacity",
    "changes of size",
)


_SERIES_HEAD = (
    "series",
    "delay",
    "reactive",
    "reactive, same budget",
    "predictive",
    "predictive, no extra hours",
)


_SHOWN = (("reactive", GREY), ("reactive, same budget", SECOND), ("predictive", ACCENT))


def summarise(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Sums by group of series and scaler, relative to the reactive scaler of the same group."""
    rows = []
    for group, members in _groups(outcomes).items():
        sums: dict[str, dict[str, float]] = {}
        for outcome in members:
            total = sums.setdefault(outcome.scaler, defaultdict(float))
            total["reactive_events"] += outcome.reactive_events
            total["short_ticks"] += outcome.short_ticks
            total["node_hours"] += outcome.node_hours
            total["changes"] += outcome.changes
            total["ticks"] += outcome.ticks
        base = sums[_BASELINE]
        for scaler, total in sums.items():
            rows.append(
                {
                    "group": group,
                    "scaler": scaler,
                    **{name: int(value) for name, value in total.items() if name != "node_hours"},
                    "fewer_events": 1.0
                    - total["reactive_events"] / max(base["reactive_events"], 1.0),
                    "relative_node_hours": total["node_hours"] / base["node_hours"],
                }
            )
    return rows


def print_study(outcomes: Sequence[Outcome], console: Console) -> None:
    """Show the sums."""
    table = Table(*_GROUP_HEAD, title="reactive scaling events, test part")
    for row in _group_rows(outcomes):
        table.add_row(*row)
    console.print(table)


def write_study(
    study: Study,
    outcomes: Sequence[Outcome],
    errors: Sequence[Entry],
    folder: Path,
    extra: Mapping[str, Any],
) -> None:
    """Write ``summary.json`` and ``table.md`` into a folder.

    Parameters
    ----------
    study : Study
    outcomes : sequence of Outcome
    errors : sequence of mappings
        From :func:`agents.autoscaling.study.forecast_errors`.
    folder : Path
    extra : mapping
        What else belongs into the summary, for example the config.
    """
    settings = asdict(study)
    settings["utilisations"] = [min(study.utilisations), max(study.utilisations)]
    for name in ("delays", "first_days", "tune_days"):
        settings[name] = {str(key): value for key, value in settings[name].items()}
    write_json(
        folder / "summary.json",
        {
            "study": settings,
            "groups": summarise(outcomes),
            "outcomes": [asdict(outcome) for outcome in outcomes],
            "forecasts": [dict(entry) for entry in errors],
            **extra,
        },
    )
    write_text(folder / "table.md", _markdown(outcomes, errors))


def _markdown(outcomes: Sequence[Outcome], errors: Sequence[Entry]) -> str:
    """The tables for people."""
    names = list(dict.fromkeys(entry["forecaster"] for entry in errors))
    return "\n".join(
        [
            "# Predictive against reactive scaling\n",
            "A reactive event is a way up forced by demand above capacity. The later part of each",
            "series is judged. Scalers are chosen anew every day (hourly series: week) on the days",
            "before. Node hours count from the order of a node.\n",
            markdown_table(_GROUP_HEAD, _group_rows(outcomes)) + "\n",
            "By series: reactive events, and in brackets node hours relative to reactive.\n",
            markdown_table(_SERIES_HEAD, _per_series(outcomes)) + "\n",
            "Forecasts on the test part: mean absolute error relative to persistence; how often",
            "each was followed; how often demand was within Prophet's own 80 % interval",
            "(observation noise), and within the calibrated one.\n",
            markdown_table(
                (
                    "series",
                    "delay",
                    *names,
                    "followed: " + " / ".join(name for name in names if name != "followed"),
                    "Prophet's own 80 %",
                    "calibrated 80 %",
                ),
                _error_rows(errors),
            )
            + "\n",
        ]
    )


def draw_study(
    path: Path,
    study: Study,
    outcomes: Sequence[Outcome],
    series: DemandSeries,
    table: ForecastTable,
    *,
    days: int = 3,
) -> None:
    """Draw the reactive events of each series, and how two scalers follow one of them.

    Parameters
    ----------
    path : Path
    study : Study
    outcomes : sequence of Outcome
        Of all series.
    series : DemandSeries
        The one whose last days are shown, at the shortest provisioning delay.
    table : ForecastTable
        Of that series.
    days : int, optional
    """
    with figure_file(path, (10.0, 5.2), ncols=2, width_ratios=(1.0, 1.25)) as (_, (left, right)):
        names = list(dict.fromkeys(outcome.series for outcome in outcomes))[::-1]
        for k, (scaler, colour) in enumerate(_SHOWN):
            sums = [
                sum(x.reactive_events for x in outcomes if (x.series, x.scaler) == (name, scaler))
                for name in names
            ]
            left.barh(
                np.arange(len(names)) + 0.26 * (1 - k), sums, 0.26, color=colour, label=scaler
            )
        left.set_yticks(np.arange(len(names)), names)
        left.grid(axis="x")
        left.set(xlabel="reactive scaling events, all delays", title="test part of each series")
        left.legend(loc="upper center", bbox_to_anchor=(0.3, -0.1), ncols=3)
        delay = study.delays_of(series)[0]
        ticks = slice(-days * series.day, None)
        hours = np.arange(days * series.day) * series.tick_s / 3600.0
        right.fill_between(hours, series.values[ticks], color=PALE, label="demand")
        unit, accounts = played(study, series, table, delay, outcomes)
        for scaler, colour in (_SHOWN[0], _SHOWN[2]):
            capacity = accounts[scaler].here[ticks] * unit
            right.step(
                hours, capacity, where="post", color=colour, lw=1.3, label=f"{scaler}: capacity"
            )
        right.set(xlabel="hours", ylabel=series.unit, xlim=(0.0, hours[-1]), ylim=(0.0, None))
        right.set_title(f"{series.name}, nodes arrive after {delay * series.tick_s // 60} min")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)


def _groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by group of series, and all of them."""
    groups: dict[str, list[Outcome]] = {"all": list(outcomes)}
    for outcome in outcomes:
        name = outcome.series
        kind = "spot demand" if name.startswith("spot") else "ServeGen totals"
        kind = "ServeGen clients" if " client" in name else kind
        groups.setdefault(kind, []).append(outcome)
    return groups


def _group_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    return [
        [
            str(row["group"]),
            str(row["scaler"]),
            f"{row['reactive_events']}",
            f"{row['fewer_events']:.0%}",
            f"{row['relative_node_hours']:.3f}",
            f"{row['short_ticks'] / row['ticks']:.2%}",
            f"{row['changes']}",
        ]
        for row in summarise(outcomes)
    ]


def _per_series(outcomes: Sequence[Outcome]) -> Iterable[list[str]]:
    """Rows of the table by series and delay."""
    pairs: dict[tuple[str, int], dict[str, Outcome]] = {}
    for outcome in outcomes:
        pairs.setdefault((outcome.series, outcome.delay_s), {})[outcome.scaler] = outcome
    for (series, delay_s), by in pairs.items():
        base = by[_BASELINE]
        row = [series, f"{delay_s // 60} min", f"{base.reactive_events}"]
        for scaler in [name for name in by if name != _BASELINE]:
            ratio = by[scaler].node_hours / base.node_hours
            row.append(f"{by[scaler].reactive_events} ({ratio:.2f})")
        yield row


def _error_rows(errors: Sequence[Entry]) -> Iterable[list[str]]:
    """One row for each series and delay: error ratios by forecaster, and coverage."""
    pairs: dict[tuple[str, int], dict[str, Entry]] = {}
    for entry in errors:
        pairs.setdefault((entry["series"], entry["delay_s"]), {})[entry["forecaster"]] = entry
    for (series, delay_s), by in pairs.items():
        row = [series, f"{delay_s // 60} min"]
        row += [f"{entry['ratio_to_persistence']:.2f}" for entry in by.values()]
        shares = [
            f"{entry['followed_share']:.0%}" for entry in by.values() if "followed_share" in entry
        ]
        own = [entry["own_80"] for entry in by.values() if "own_80" in entry]
        row.append(" / ".join(shares))
        row.append(f"{own[0]:.2f}" if own else "")
        row.append(f"{by['followed']['calibrated_80']:.2f}")
        yield row
