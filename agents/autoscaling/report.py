"""The result of a study of scaling: tables for people, a summary for programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agents.autoscaling.study import Outcome, Study
from agents.evaluation.files import write_json, write_text

__all__ = ["print_study", "summarise", "write_study"]

Entry = Mapping[str, Any]
_BASELINE = "reactive"


def _groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by group of series, and all of them."""
    groups: dict[str, list[Outcome]] = {"all": list(outcomes)}
    for outcome in outcomes:
        name = outcome.series
        kind = "spot demand" if name.startswith("spot") else "ServeGen totals"
        kind = "ServeGen clients" if " client" in name else kind
        groups.setdefault(kind, []).append(outcome)
    return groups


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


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


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


def print_study(outcomes: Sequence[Outcome], console: Console) -> None:
    """Show the sums."""
    table = Table(*_GROUP_HEAD, title="reactive scaling events, test part")
    for row in _group_rows(outcomes):
        table.add_row(*row)
    console.print(table)


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
    names = list(dict.fromkeys(entry["forecaster"] for entry in errors))
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
    text = "\n".join(
        [
            "# Predictive against reactive scaling\n",
            "A reactive event is a way up forced by demand above capacity. The later part of each",
            "series is judged. Scalers are chosen anew every day (hourly series: week) on the days",
            "before. Node hours count from the order of a node.\n",
            _markdown(_GROUP_HEAD, _group_rows(outcomes)),
            "By series: reactive events, and in brackets node hours relative to reactive.\n",
            _markdown(_SERIES_HEAD, _per_series(outcomes)),
            "Forecasts on the test part: mean absolute error relative to persistence; how often",
            "each was followed; how often demand was within Prophet's own 80 % interval",
            "(observation noise), and within the calibrated one.\n",
            _markdown(
                (
                    "series",
                    "delay",
                    *names,
                    "followed: " + " / ".join(name for name in names if name != "followed"),
                    "Prophet's own 80 %",
                    "calibrated 80 %",
                ),
                _error_rows(errors),
            ),
        ]
    )
    write_text(folder / "table.md", text)
