"""Services' load and latency as short series, with a band in which the load is expected to stay.

Sampled once a second while somebody looks; what was sampled is kept for whoever looks next.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.mesh.mesh import ServiceMesh
from orchestrator.ports import Clock

__all__ = ["ServiceSeries", "load_band"]


_INTERVAL_MS = 1000


_KEPT = 600
"""Samples of each service: ten minutes."""


_AHEAD = (5, 15, 30, 60)
"""How many samples ahead the load is forecast."""


_PERCENTS = (10.0, 90.0)


_LEAST_ERRORS = 10
"""Errors that must be known for a band; with fewer there is none."""


def load_band(load: NDArray[np.float64]) -> list[list[float]]:
    """Where the load is expected: the last value, and errors that this forecast made in the past.

    Parameters
    ----------
    load : ndarray of float64, shape [samples]
        Requests per second, the newest last.

    Returns
    -------
    list of [ahead, low, middle, high]
        For every horizon (samples) of which enough errors are known: the 10th percentile, the
        median and the 90th percentile, at least 0.
    """
    band = []
    for ahead in _AHEAD:
        errors = load[ahead:] - load[:-ahead]
        if len(errors) < _LEAST_ERRORS:
            break
        low, middle, high = np.percentile(errors, (_PERCENTS[0], 50.0, _PERCENTS[1])) + load[-1]
        band.append([ahead, *(round(max(float(x), 0.0), 2) for x in (low, middle, high))])
    return band


class _Samples:
    """One service's."""

    def __init__(self, offered: int) -> None:
        self.points: deque[list[Any]] = deque(maxlen=_KEPT)  # time, requests/s, latency in ms
        self.offered = offered


class ServiceSeries:
    """What was sampled of every service of a mesh.

    Parameters
    ----------
    mesh : ServiceMesh
        Whose services they are.
    clock : Clock
        Time.
    """

    def __init__(self, mesh: ServiceMesh, clock: Clock) -> None:
        self._mesh, self._clock = mesh, clock
        self._samples: dict[str, _Samples] = {}
        self._sampled_ms = -1
        self._told: dict[str, Any] = {}

    def sample(self) -> dict[str, Any]:
        """Take a sample, if one is due: what is to be told of it, by service."""
        now_ms = self._clock.now_ms()
        passed_ms = now_ms - self._sampled_ms
        if self._sampled_ms >= 0 and passed_ms < _INTERVAL_MS:
            return {}
        first, self._sampled_ms = self._sampled_ms < 0, now_ms
        self._samples = {
            name: self._samples.get(name) or _Samples(self._mesh.counts(name).offered)
            for name in self._mesh.services
        }
        told = {}
        for name, own in self._samples.items():
            offered = self._mesh.counts(name).offered
            if not first:
                rate = 1000.0 * (offered - own.offered) / passed_ms
                took_ms = self._mesh.latency_ms(name)
                latency = None if took_ms is None else round(took_ms, 2)
                own.points.append([now_ms, round(max(rate, 0.0), 2), latency])
            own.offered = offered
            told[name] = self._state(name) | {"points": list(own.points)[-1:]}
        gone = self._told.keys() - told.keys()
        before, self._told = self._told, told
        news: dict[str, Any] = {name: now for name, now in told.items() if before.get(name) != now}
        return news | dict.fromkeys(gone)

    def all(self) -> dict[str, Any]:
        """All that is kept, by service."""
        return {
            name: self._state(name) | {"points": list(own.points)}
            for name, own in self._samples.items()
            if name in self._mesh.services
        }

    def _state(self, name: str) -> dict[str, Any]:
        """How a service is now."""
        mesh, spec = self._mesh, self._mesh.spec(name)
        counts = mesh.counts(name)
        load = np.array([point[1] for point in self._samples[name].points], np.float64)
        return {
            "objective_ms": spec.objective_ms,
            "replicas": [
                [e.address, "draining" if e.draining else "healthy" if e.healthy else "unhealthy"]
                for e in mesh.discovery.endpoints(name)
            ],
            "open": sum(
                mesh.breaker_mode(name, e.address) != 0 for e in mesh.discovery.endpoints(name)
            ),
            "offered": counts.offered,
            "failed": counts.failed,
            "shed": counts.shed,
            "retried": counts.retried,
            "within": round(counts.within / counts.offered, 4) if counts.offered else None,
            "band": load_band(load),
        }
