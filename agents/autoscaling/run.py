"""From series to tables, from tables to outcomes, from outcomes to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.autoscaling.picture import draw_study
from agents.autoscaling.report import print_study, write_study
from agents.autoscaling.store import Bases, make_bases
from agents.autoscaling.study import (
    Outcome,
    Study,
    forecast_errors,
    judge_series,
    rolling_settings,
)
from orchestrator.autoscaler import DemandSeries, Forecaster, ForecastTable
from orchestrator.autoscaler.table import table_from_bases

__all__ = ["make_tables", "publish_study", "study_tables"]

Found = tuple[list[Outcome], list[dict[str, object]]]


def make_tables(
    study: Study, series: Sequence[DemandSeries], forecasters: Sequence[Forecaster], **options: Any
) -> tuple[list[ForecastTable], list[list[Bases]]]:
    """Forecast tables of every series, and the structures that they were made from.

    Parameters
    ----------
    study : Study
    series : sequence of DemandSeries
    forecasters : sequence of Forecaster
    **options
        ``folder``, ``workers`` and ``console`` of :func:`agents.autoscaling.store.make_bases`.

    Returns
    -------
    tables : list of ForecastTable
    bases : list of lists of (base, sigma)
    """
    first = [study.first(one) for one in series]
    horizon = max(max(study.delays_of(one)) for one in series)
    bases = make_bases(series, forecasters, first=first, horizon=horizon, **options)
    names = tuple(one.name for one in forecasters)
    tables = [
        table_from_bases(one, names, made, first=start, settings=rolling_settings(one))
        for one, made, start in zip(series, bases, first, strict=True)
    ]
    return tables, bases


def study_tables(
    study: Study,
    series: Sequence[DemandSeries],
    tables: Sequence[ForecastTable],
    bases: Sequence[Sequence[Bases]],
) -> Found:
    """Outcomes of all scalers, and errors of all forecasts, on every series and delay."""
    outcomes: list[Outcome] = []
    errors: list[dict[str, object]] = []
    for one, table, made in zip(series, tables, bases, strict=True):
        for delay in study.delays_of(one):
            outcomes += judge_series(study, one, table, delay)
        errors += forecast_errors(study, one, table, made)
    return outcomes, errors


def publish_study(
    study: Study,
    found: Found,
    series: Sequence[DemandSeries],
    tables: Sequence[ForecastTable],
    folder: Path,
    console: Console,
    demand: Any,
) -> None:
    """Show the sums; write ``summary.json``, ``table.md`` and ``events.png``.

    Parameters
    ----------
    study : Study
    found : tuple
        From :func:`study_tables`.
    series, tables : sequences
        The picture shows the first of them in detail.
    folder : Path
    console : rich.console.Console
    demand : any
        Where the series came from, for the summary.
    """
    outcomes, errors = found
    print_study(outcomes, console)
    write_study(study, outcomes, errors, folder, {"demand": demand})
    draw_study(folder / "events.png", study, outcomes, series[0], tables[0])
    console.print(f"written to {folder}: summary.json, table.md, events.png")
