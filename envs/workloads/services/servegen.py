"""Read ServeGen: request rates of language-model services in production, every ten minutes.

Xiang et al., "ServeGen: Workload Characterization and Generation of Large Language Model Serving
in Production", arXiv 2505.09999; alibaba/ServeGen. ``total_<model>.csv.gz`` holds the rate summed
over a model's clients, ``client_rates_<model>.csv.gz`` one column per client.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import Kind, csv_line, header, read_columns, require_columns
from envs.workloads.files import read_text
from envs.workloads.services.series import GapFill, ServiceSeries, fill_gaps
from orchestrator.errors import TraceError

__all__ = ["read_servegen"]

_TIME = "t"
_TOTAL = "rate_rps"


def read_servegen(
    folder: str | Path,
    model: str,
    *,
    clients: int | tuple[str, ...] | None = None,
    fill: GapFill | None = None,
) -> ServiceSeries:
    """Read the demand of one model, or of its clients as one service each.

    Parameters
    ----------
    folder : str or Path
        Where the tables are.
    model : str
        For example ``"m-small"``.
    clients : int, tuple of str, or None, optional
        None: all clients together are one service, named like the model. Otherwise so many of
        the largest clients, largest first, or the ones with these columns.
    fill : GapFill or None, optional
        What stands for ticks in which no client sent anything: the publishers' record has a gap
        there. None: such a tick is an error.

    Returns
    -------
    ServiceSeries

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    kind = "total" if clients is None else "client_rates"
    path = Path(folder) / f"{kind}_{model}.csv.gz"
    text = read_text(path)
    columns = header(text)
    wanted = [_TOTAL] if clients is None else [name for name in columns if name != _TIME]
    if isinstance(clients, tuple):
        wanted = list(clients)
    if not wanted:
        raise TraceError(str(path), "has no column of rates", "give at least one client")
    everything = wanted if clients is None else [name for name in columns if name != _TIME]
    tick_s, rates = _read_rates(path, text, list(dict.fromkeys(everything + wanted)))
    missing = rates.sum(axis=0) == 0.0
    if missing.any():
        rates = _without_gaps(path, text, rates, missing, fill)
    if clients is None:
        return ServiceSeries(tick_s, (model,), rates.astype(np.float32))
    series = ServiceSeries(tick_s, tuple(everything), rates.astype(np.float32))
    if isinstance(clients, int):
        return _largest(path, series, clients)
    return series.select(wanted)


def _largest(path: Path, series: ServiceSeries, count: int) -> ServiceSeries:
    if not 1 <= count <= len(series.names):
        problem = f"'clients' is {count}, and it has {len(series.names)}"
        raise TraceError(str(path), problem, "ask for 1 to as many as there are")
    order = np.argsort(-series.rates.mean(axis=1), kind="stable")[:count]
    return series.select([series.names[row] for row in order])


def _read_rates(path: Path, text: str, names: list[str]) -> tuple[float, NDArray[np.float64]]:
    """Length of a tick in seconds, and the columns as [columns, ticks]."""
    kinds = {_TIME: Kind.INTEGER} | dict.fromkeys(names, Kind.NUMBER)
    require_columns(path, header(text), kinds, 1)
    table = read_columns(path, text, kinds)
    if table.num_rows < 2:
        raise TraceError(str(path), f"holds {table.num_rows} ticks", "give at least two")
    for name in kinds:
        empty = np.asarray(table[name].is_null())
        if empty.any():
            line = csv_line(text, int(np.argmax(empty)))
            raise TraceError(str(path), f"column '{name}' is empty", "fill in the cell", line)
    times = np.asarray(table[_TIME])
    tick = int(times[1] - times[0])
    uneven = np.diff(times) != tick
    if tick <= 0 or uneven.any():
        line = csv_line(text, int(np.argmax(uneven)) + 1)
        problem = f"column '{_TIME}' does not go on in steps of {tick} s"
        raise TraceError(str(path), problem, "give every tick, in order", line)
    rates = np.stack([np.asarray(table[name]) for name in names])
    bad = ~(rates >= 0.0) | ~np.isfinite(rates)
    if bad.any():
        column, row = np.argwhere(bad)[0]
        problem = f"column '{names[column]}' is {rates[column, row]}"
        line = csv_line(text, int(row))
        raise TraceError(str(path), problem, "rates are finite and not negative", line)
    return float(tick), rates


def _without_gaps(
    path: Path, text: str, rates: NDArray[np.float64], missing: NDArray[np.bool_], fill: object
) -> NDArray[np.float64]:
    if missing.all():
        raise TraceError(str(path), "holds no requests at all", "choose another table")
    if fill is None:
        line = csv_line(text, int(np.argmax(missing)))
        problem = f"{int(missing.sum())} ticks have no requests: gaps of the record"
        choices = ", ".join(f"GapFill.{choice.name}" for choice in GapFill)
        raise TraceError(str(path), problem, f"choose 'fill': one of {choices}", line)
    return fill_gaps(rates, missing, GapFill(fill))
