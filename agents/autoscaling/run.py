"""From configs to series and forecasters, from these to tables, outcomes and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.autoscaling.report import draw_study, print_study, write_study
from agents.autoscaling.study import (
    Bases,
    Outcome,
    Study,
    forecast_errors,
    judge_series,
    make_bases,
    rolling_settings,
)
from envs.workloads.demand import read_client_demand, read_spot_hourly
from orchestrator.autoscaler import DemandSeries, Forecaster, ForecastTable, forecaster_named
from orchestrator.autoscaler.table import table_from_bases
from orchestrator.errors import ConfigurationError

__all__ = ["build_forecasters", "make_tables", "publish_study", "read_series", "study_tables"]


_READERS: Mapping[str, Callable[..., Any]] = {
    "servegen": read_client_demand,
    "spot_hourly": read_spot_hourly,
}


Found = tuple[list[Outcome], list[dict[str, object]]]


def build_forecasters(**kinds: Mapping[str, Any] | None) -> tuple[Forecaster, ...]:
    """Make forecasters: options by kind, in the order in which they are given."""
    if not kinds:
        raise ConfigurationError("forecaster: none is given")
    return tuple(forecaster_named(name, **(options or {})) for name, options in kinds.items())


def read_series(folder: str | Path, sources: Sequence[Mapping[str, Any]]) -> list[DemandSeries]:
    """Read demand series.

    Parameters
    ----------
    folder : str or Path
        Folder of public traces, which the paths are relative to.
    sources : sequence of mappings
        ``kind`` (``servegen`` or ``spot_hourly``), ``path``, and the options of its reader.

    Returns
    -------
    list of DemandSeries
    """
    found: list[DemandSeries] = []
    for source in sources:
        options = dict(source)
        kind = options.pop("kind", None)
        if kind not in _READERS:
            raise ConfigurationError(
                f"demand: 'kind' is '{kind}'; choose from {', '.join(_READERS)}"
            )
        read = _READERS[kind](Path(folder) / options.pop("path"), **options)
        found.extend(read if isinstance(read, tuple) else (read,))
    return found


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
        ``folder``, ``workers`` and ``console`` of :func:`agents.autoscaling.study.make_bases`.

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
