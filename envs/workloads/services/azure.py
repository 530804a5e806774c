"""Read Azure's trace of two language-model services: one hour, request by request.

Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA 2024;
Azure/AzurePublicDataset, ``AzureLLMInferenceTrace_{code,conv}.csv``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import Kind, csv_line, header, read_columns, require_columns
from envs.workloads.files import read_text
from envs.workloads.services.series import ServiceSeries
from orchestrator.errors import ConfigurationError, TraceError

__all__ = ["AzureService", "read_azure_llm"]

_KINDS = {
    "TIMESTAMP": Kind.TEXT,
    "ContextTokens": Kind.INTEGER,
    "GeneratedTokens": Kind.INTEGER,
}


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
    require_columns(path, header(text), _KINDS, 1)
    table = read_columns(path, text, _KINDS)
    if table.num_rows < 2:
        raise TraceError(str(path), f"holds {table.num_rows} requests", "give at least two")
    seconds = _seconds(path, text, table["TIMESTAMP"].to_pylist())
    tokens = []
    for column in ("ContextTokens", "GeneratedTokens"):
        values = np.asarray(table[column].to_numpy(), np.float64)  # null becomes nan
        bad = ~(values >= 0)
        if bad.any():
            line = csv_line(text, int(np.argmax(bad)))
            problem = f"column '{column}' is negative or empty"
            raise TraceError(str(path), problem, "correct the cell", line)
        tokens.append(values)
    times_ms = tokens[0] * prefill_ms_per_token + tokens[1] * decode_ms_per_token
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


def _cv2(values: NDArray[np.float64]) -> float:
    """Squared coefficient of variation."""
    mean = float(values.mean())
    return float(values.var()) / mean**2 if mean > 0.0 else 0.0


def _seconds(path: Path, text: str, stamps: list[str]) -> NDArray[np.float64]:
    """Seconds since the first request."""
    try:
        times = np.array(stamps, "datetime64[ns]")
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
        return np.datetime64(stamp, "ns")
    except ValueError:
        problem = f"column 'TIMESTAMP' is {stamp!r}"
        remedy = "give a time like 2023-11-16 18:17:03.97"
        raise TraceError(str(path), problem, remedy, csv_line(text, row)) from None
