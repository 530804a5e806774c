"""Read demand series: request rates of ServeGen, and hourly demand of Alibaba's spot trace.

ServeGen (alibaba/ServeGen, data of Alibaba Model Studio, 2025) gives the request rate of each
client of a model every ten minutes. Windows in which no client sent anything are gaps of the
record. The spot trace (alibaba/clusterdata, cluster-trace-v2026-spot-gpu) is a cluster's demand by
the hour: its first hour holds the jobs that were running before, and its end fades out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import Kind, csv_line, header, read_columns, read_text, require_columns
from orchestrator.autoscaler import DemandSeries, fill_gaps
from orchestrator.errors import TraceError

__all__ = ["read_client_demand", "read_spot_hourly"]

_TEN_MINUTES = 600
_HOUR = 3600
_MOST = 1e12


def read_client_demand(
    path: str | Path, *, clients: int = 0, longest_gap: int = 144
) -> tuple[DemandSeries, ...]:
    """Read the request rates of one model, requests per second every ten minutes.

    Parameters
    ----------
    path : str or Path
        ``client_rates_<model>.csv.gz``: column ``t`` (s) and one column for each client.
    clients : int, optional
        How many of the largest clients are series of their own, by mean rate in the first half of
        the record.
    longest_gap : int, optional
        Gaps of up to so many ticks carry the last rate forward.

    Returns
    -------
    tuple of DemandSeries
        The sum over all clients, then the largest clients.

    Raises
    ------
    TraceError
        Naming file and column of what is wrong.
    """
    path = Path(path)
    text = read_text(path)
    names = [name for name in header(text) if name != "t"]
    if not names:
        raise TraceError(str(path), "no column of a client", "give a table of client rates")
    table = _columns(path, text, ["t", *names])
    _require_ticks(path, text, table[:, 0], _TEN_MINUTES)
    rates = table[:, 1:]
    model = path.name.removeprefix("client_rates_").split(".")[0]
    gaps = np.nansum(rates, axis=1) <= 0.0
    total = np.where(gaps, np.nan, np.nansum(rates, axis=1))
    parts = [(model, total)]
    largest = np.argsort(-np.nan_to_num(rates[: len(rates) // 2]).mean(axis=0), kind="stable")
    for k in largest[:clients]:
        rate = np.where(gaps, np.nan, np.nan_to_num(rates[:, k]))
        parts.append((f"{model} {names[k].replace('_', ' ')}", rate))
    return tuple(
        DemandSeries(name, fill_gaps(rate, longest_gap), _TEN_MINUTES, "requests/s")
        for name, rate in parts
    )


def read_spot_hourly(
    path: str | Path, column: str = "gpus_active_requested", *, last_hours: int = 48
) -> DemandSeries:
    """Read one column of the hourly demand of the spot trace.

    Parameters
    ----------
    path : str or Path
        ``spot_hourly.csv.gz``: column ``hour`` and others.
    column : str, optional
        ``gpus_active_requested`` (GPUs), ``jobs_submitted``, ...
    last_hours : int, optional
        Hours left out at the end, where the record fades to nothing.

    Returns
    -------
    DemandSeries
        Without hour 0.

    Raises
    ------
    TraceError
        Naming file and column of what is wrong.
    """
    path = Path(path)
    text = read_text(path)
    table = _columns(path, text, ["hour", column])
    _require_ticks(path, text, table[:, 0], 1)
    empty = np.isnan(table[1 : len(table) - last_hours, 1])
    if empty.any():
        line = csv_line(text, int(np.argmax(empty)) + 1)
        raise TraceError(str(path), f"column '{column}' is empty", "fill in the cell", line)
    values = table[1 : len(table) - last_hours, 1]
    if len(values) == 0:
        raise TraceError(str(path), "is too short", f"give more than {last_hours + 1} hours")
    unit = "jobs/h" if column == "jobs_submitted" else "GPUs"
    return DemandSeries(f"spot {column.replace('_', ' ')}", values, _HOUR, unit)


def _columns(path: Path, text: str, names: list[str]) -> NDArray[np.float64]:
    """Named columns as numbers, [rows, names]; an empty cell is not a number."""
    kinds = dict.fromkeys(names, Kind.NUMBER)
    require_columns(path, header(text), kinds, 1)
    table = read_columns(path, text, kinds)
    cells = [table[name].to_numpy(zero_copy_only=False) for name in names]
    numbers = np.stack(cells, axis=1).astype(np.float64)
    wrong = np.argwhere((numbers < 0.0) | (numbers > _MOST))
    if len(wrong):
        row, column = wrong[0]
        problem = f"column '{names[column]}' is {numbers[row, column]:g}"
        raise TraceError(str(path), problem, f"give 0 to {_MOST:g}", csv_line(text, int(row)))
    return numbers


def _require_ticks(path: Path, text: str, times: NDArray[np.float64], step: float) -> None:
    """Demand that a row follows the other, one step apart."""
    wrong = np.flatnonzero(np.diff(times) != step)
    if len(wrong):
        row = int(wrong[0]) + 1
        problem = f"time goes from {times[row - 1]:g} to {times[row]:g}, not by {step:g}"
        raise TraceError(
            str(path), problem, "put one row for each tick, in order", csv_line(text, row)
        )
