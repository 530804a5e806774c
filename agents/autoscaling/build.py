"""From configs to forecasters and demand series."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.workloads.demand import read_client_demand, read_spot_hourly
from orchestrator.autoscaler import DemandSeries, Forecaster, forecaster_named
from orchestrator.errors import ConfigurationError

__all__ = ["build_forecasters", "read_series"]

_READERS: Mapping[str, Callable[..., Any]] = {
    "servegen": read_client_demand,
    "spot_hourly": read_spot_hourly,
}


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
