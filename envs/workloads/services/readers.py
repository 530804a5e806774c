"""Read demand of language-model services: Azure's requests of an hour, and ServeGen's rates.

Azure: Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA
2024; Azure/AzurePublicDataset, ``AzureLLMInferenceTrace_{code,conv}.csv``. ServeGen: Xiang et al.,
"ServeGen: Workload Characterization and Generation of Large Language Model Serving in Production",
arXiv 2505.09999; alibaba/ServeGen. ``total_<model>.csv.gz`` holds the rate summed over a model's
clients every ten minutes, ``client_rates_<model>.csv.gz`` one column per client.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import (
    Kind,
    csv_cell,
    csv_line,
    header,
    read_columns,
    read_text,
    require_columns,
)
from envs.workloads.services.series import GapFill, ServiceSeries, fill_gaps
from orchestrator.errors import ConfigurationError, TraceError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["AzureService", "read_azure_llm", "read_servegen"]

_REQUEST_KINDS = {
    "TIMESTAMP": Kind.TEXT,
    "ContextTokens": Kind.INTEGER,
    "GeneratedTokens": Kind.INTEGER,
}
_TOKENS = ("ContextTokens", "GeneratedTokens")
_TIME = "t"
_ZONE = re.compile(r":\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)$")  # a time of day that names its zone
_TOTAL = "rate_rps"
_MOST_RPS = 1e12


@dataclass(frozen=True)
class AzureService:
    """Demand of a service, and the moments that its queue depends on.

    Parameters
    ----------
    series : ServiceSeries
        Requests per second.
    service_ms, service_cv2 : float
        Mean and squared coefficient of variation of the time that a request takes alone.
    arrival_cv2 : float
        Squared coefficient of variation of the gaps between requests, over the whole hour:
        changes of the rate are in it too.
    """

    series: ServiceSeries
    service_ms: float
    service_cv2: float
    arrival_cv2: float


def read_azure_llm(
    path: str | Path,
    *,
    prefill_ms_per_token: float,
    decode_ms_per_token: float,
    tick_s: float = 60.0,
    name: str | None = None,
) -> AzureService:
    """Read requests, and count them by tick.

    Parameters
    ----------
    path : str or Path
        A CSV file with TIMESTAMP, ContextTokens and GeneratedTokens, one line for each request.
    prefill_ms_per_token, decode_ms_per_token : float
        Time that a token of the prompt, and a generated one, takes. They belong to a model on
        a machine and the trace does not tell them, so they have no default.
    tick_s : float, optional
        Length of a tick. The first one begins with the first request; requests after the last
        full tick are not counted.
    name : str or None, optional
        Of the service; None: from the file's name.

    Returns
    -------
    AzureService

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    path = Path(path)
    for option, value in (("prefill", prefill_ms_per_token), ("decode", decode_ms_per_token)):
        if not (math.isfinite(value) and value >= 0.0):
            problem = f"'{option}_ms_per_token' is {value}"
            raise ConfigurationError(f"read_azure_llm: {problem}; it must not be negative")
    text = read_text(path)
    require_columns(path, header(text), _REQUEST_KINDS, 1)
    table = read_columns(path, text, _REQUEST_KINDS)
    if table.num_rows < 2:
        raise TraceError(str(path), f"holds {table.num_rows} requests", "give at least two")
    seconds = _seconds(path, text, table["TIMESTAMP"].to_pylist())
    prompt, generated = (_tokens(path, text, table, name) for name in _TOKENS)
    times_ms = prompt * prefill_ms_per_token + generated * decode_ms_per_token
    if times_ms.mean() <= 0.0:
        raise TraceError(str(path), "all requests take no time", "give times per token above 0")
    ticks = math.floor(seconds[-1] / tick_s) if tick_s > 0.0 else 0
    if ticks < 1:
        problem = f"lasts {seconds[-1]:.3f} s, less than one tick of {tick_s:g} s"
        raise TraceError(str(path), problem, "choose a shorter tick_s, above 0")
    counts = np.bincount((seconds / tick_s).astype(np.int64), minlength=ticks)[:ticks]
    label = name or path.name.removesuffix(".gz").removesuffix(".csv")
    series = ServiceSeries(tick_s, (label,), (counts / tick_s)[None].astype(np.float32))
    return AzureService(series, float(times_ms.mean()), _cv2(times_ms), _cv2(np.diff(seconds)))


def _tokens(path: Path, text: str, table: pa.Table, column: str) -> NDArray[np.float64]:
    """Tokens of each request."""
    values = np.asarray(table[column].to_numpy(), np.float64)  # null becomes nan
    bad = ~(values >= 0)
    if bad.any():
        line = csv_line(text, int(np.argmax(bad)))
        problem = f"column '{column}' is negative or empty"
        raise TraceError(str(path), problem, "correct the cell", line)
    return values


def _cv2(values: NDArray[np.float64]) -> float:
    """Squared coefficient of variation."""
    mean = float(values.mean())
    return float(values.var()) / mean**2 if mean > 0.0 else 0.0


def _seconds(path: Path, text: str, stamps: list[str]) -> NDArray[np.float64]:
    """Seconds since the first request."""
    try:
        # With zones among them NumPy warns; a cell at a time they are understood.
        plain = not any(_ZONE.search(stamp) for stamp in stamps)
        times = np.array(stamps if plain else ["with zones"], "datetime64[ns]")
    except ValueError:
        times = np.array([_parse(path, text, row, stamp) for row, stamp in enumerate(stamps)])
    if np.isnat(times).any():
        line = csv_line(text, int(np.argmax(np.isnat(times))))
        raise TraceError(str(path), "column 'TIMESTAMP' is empty", "fill in the cell", line)
    seconds = (times - times[0]).astype(np.int64) * 1e-9
    early = np.diff(seconds) < 0.0
    if early.any():
        line = csv_line(text, int(np.argmax(early)) + 1)
        problem = "column 'TIMESTAMP' is earlier than the row before it"
        raise TraceError(str(path), problem, "sort the requests by time", line)
    return np.asarray(seconds, np.float64)


def _parse(path: Path, text: str, row: int, stamp: str) -> np.datetime64:
    try:
        if _ZONE.search(stamp):
            moment = datetime.fromisoformat(stamp).astimezone(UTC).replace(tzinfo=None)
            return np.datetime64(moment, "ns")
        return np.datetime64(stamp, "ns")
    except (ValueError, OverflowError):
        problem = f"column 'TIMESTAMP' is {stamp!r}"
        remedy = "give a time like 2023-11-16 18:17:03.97"
        raise TraceError(str(path), problem, remedy, csv_line(text, row)) from None


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
            row = int(np.argmax(empty))
            problem = f"column '{name}' is {csv_cell(text, row, name)}"
            raise TraceError(str(path), problem, "fill in the cell", csv_line(text, row))
    times = np.asarray(table[_TIME])
    tick = int(times[1] - times[0])
    uneven = np.diff(times) != tick
    if tick <= 0 or uneven.any():
        line = csv_line(text, int(np.argmax(uneven)) + 1)
        problem = f"column '{_TIME}' does not go on in steps of {tick} s"
        raise TraceError(str(path), problem, "give every tick, in order", line)
    rates = np.stack([np.asarray(table[name]) for name in names])
    bad = ~((rates >= 0.0) & (rates <= _MOST_RPS))
    if bad.any():
        column, row = np.argwhere(bad)[0]
        problem = f"column '{names[column]}' is {rates[column, row]}"
        line = csv_line(text, int(row))
        raise TraceError(str(path), problem, f"give a rate from 0 to {_MOST_RPS:g}", line)
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
