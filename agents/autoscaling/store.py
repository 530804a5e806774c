"""Fit forecasters along series in parallel processes, and keep what was made.

One file for each (series, forecaster), named after the content that it was made from: a run that
was cut short goes on where it stopped, and a series or an option that changes is made anew.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agents.evaluation.files import replacing
from orchestrator.autoscaler import DemandSeries, Forecaster
from orchestrator.autoscaler.rolling import structures

__all__ = ["Bases", "base_path", "make_bases"]

Bases = tuple[NDArray[np.float64], NDArray[np.float64]]
_VERSION = 1


def base_path(
    folder: Path, series: DemandSeries, forecaster: Forecaster, first: int, horizon: int
) -> Path:
    """Where the structures of a forecaster along a series are kept."""
    key = f"{_VERSION}:{series.digest}:{forecaster!r}:{first}:{horizon}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return folder / f"{forecaster.name}-{digest}.npz"


def _make(path: Path, series: DemandSeries, one: Forecaster, first: int, horizon: int) -> None:
    base, sigma = structures(series.values, series.day, one, first, horizon)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, base=base, sigma=sigma)


def _load(path: Path) -> Bases:
    with np.load(path, allow_pickle=False) as stored:
        return stored["base"], stored["sigma"]


def make_bases(
    series: Sequence[DemandSeries],
    forecasters: Sequence[Forecaster],
    *,
    first: Sequence[int],
    horizon: int,
    folder: Path,
    workers: int = 0,
    console: Console | None = None,
) -> list[list[Bases]]:
    """Structures of every forecaster along every series, from the cache or made now.

    Parameters
    ----------
    series : sequence of DemandSeries
    forecasters : sequence of Forecaster
    first : sequence of int
        First origin of each series.
    horizon : int
        Ticks ahead.
    folder : Path
        The cache.
    workers : int, optional
        Processes; 0: one for each core.
    console : rich.console.Console or None, optional
        Where progress is shown.

    Returns
    -------
    list of lists of (base, sigma)
        By series, then by forecaster; see :func:`orchestrator.autoscaler.rolling.structures`.
    """
    paths = [
        [base_path(folder, one, f, start, horizon) for f in forecasters]
        for one, start in zip(series, first, strict=True)
    ]
    missing = [
        (paths[s][f], series[s], forecasters[f], first[s], horizon)
        for s in range(len(series))
        for f in range(len(forecasters))
        if not paths[s][f].exists()
    ]
    columns = (TextColumn("forecasting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=console is None) as progress:
        bar = progress.add_task("forecasting", total=len(missing))
        if missing:
            # Spawned, not forked: Stan and the thread pools of NumPy do not like to be forked.
            context = multiprocessing.get_context("spawn")
            most = workers or os.cpu_count() or 1
            with ProcessPoolExecutor(min(most, len(missing)), mp_context=context) as pool:
                for done in as_completed([pool.submit(_make, *task) for task in missing]):
                    done.result()
                    progress.advance(bar)
    return [[_load(path) for path in row] for row in paths]
