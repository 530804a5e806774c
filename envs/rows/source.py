"""Where the episodes of a session come from, and what they are worth: made, and copied."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.scenario import Standing, Surroundings
from envs.workloads.trace import Trace
from orchestrator.kernels.run.buffers import Episode, Prices, Source
from orchestrator.kernels.see.layout import Maximum

__all__ = ["copy_arrays", "copy_source", "make_episode", "make_prices", "maxima_of"]

_Arrays = TypeVar("_Arrays", bound=tuple[Any, ...])


def _frozen(requests: NDArray[np.void]) -> NDArray[np.void]:
    """Requests that may not be written.

    Kernels are compiled anew for arrays that differ in being writeable, as copies of a trace may.
    """
    requests = requests.view()
    requests.flags.writeable = False
    return requests


def copy_arrays(arrays: _Arrays) -> _Arrays:
    """A tuple of arrays, or of such tuples, in memory of its own; what is no array stays."""
    copies = [
        part.copy()
        if isinstance(part, np.ndarray)
        else copy_arrays(part)
        if isinstance(part, tuple)
        else part
        for part in arrays
    ]
    return type(arrays)(*copies)


def copy_source(source: Source, trace: Trace) -> Source:
    """A source of the same episodes, over a trace that is not copied again."""
    requests = _frozen(trace.requests)
    own = copy_arrays(source.episode._replace(trace=requests[:0]))
    episode = own._replace(trace=requests, standing=_frozen(own.standing))
    return Source(episode, copy_arrays(source.seen), copy_arrays(source.prices))


def maxima_of(trace: Trace) -> NDArray[np.float64]:
    """What the published encoding scales by, float64 [len(Maximum)]."""
    maxima = np.empty(len(Maximum))
    maxima[Maximum.REQUEST] = trace.requests["requested_ms"].max() / 1000.0
    for column in (Maximum.USER, Maximum.GROUP, Maximum.APPLICATION):
        maxima[column] = max(float(trace.requests[column.name.lower()].max()), 1.0)
    return maxima


def make_episode(
    trace: Trace,
    config: EnvConfig,
    starts: NDArray[np.int64],
    around: Surroundings,
    standing: Standing,
) -> Episode:
    """What episodes are made from: windows of a trace, and what surrounds them."""
    return Episode(
        length=config.episode_jobs,
        sampling=int(config.sampling),
        trace=_frozen(trace.requests),
        nodes=around.nodes,
        incidents=around.incidents,
        incident_range=around.incident_range,
        tenants=around.tenants,
        curves=around.curves,
        uplinks=around.uplinks,
        services=around.services,
        standing=_frozen(standing.requests),
        plans=standing.plans,
        series_range=around.series_range,
        typical=around.typical,
        gittins=around.gittins,
        starts=np.array(starts, np.int64),
    )


def make_prices(config: EnvConfig, windows: int) -> Prices:
    """What rewards are paid by; what the reference rule costs on each window is not known yet."""
    return Prices(
        form=int(config.reward.form),
        scaled=int(config.reward.reference is not None),
        weights=config.reward.weights,
        reference=np.full(windows, np.nan),
        reference_rule=config.reward.reference_rule.to_record(),
    )
