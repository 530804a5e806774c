"""Vertical scaling: how much of each resource one replica or worker should ask for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import ConfigurationError, ValidationError

__all__ = ["ResourceBounds", "ResourceRequest", "VerticalScaler"]


@dataclass(frozen=True)
class ResourceBounds:
    """Least and most of one resource, in its own unit."""

    least: float
    most: float

    def __post_init__(self) -> None:
        """Check that they are bounds."""
        if not (0.0 <= self.least <= self.most and math.isfinite(self.most)):
            raise ConfigurationError(
                f"ResourceBounds: {self.least} .. {self.most} is no range; 0 <= least <= most"
            )


@dataclass(frozen=True)
class ResourceRequest:
    """What one worker should ask for, and why."""

    amounts: Mapping[str, float]
    changed: bool
    reason: str


class VerticalScaler:
    """Sets the requests of a worker to a percentile of its recent use, and some margin.

    This is the estimator of Autopilot's simple recommender and of Kubernetes' vertical pod
    autoscaler (Rzadca et al., EuroSys 2020): a high percentile for what can be throttled, close to
    the peak for memory, of which too little kills. A request changes only if it is off by more
    than a tolerance, since changing one means a restart.

    Parameters
    ----------
    bounds : mapping of str to ResourceBounds
        Resources by name, for example ``{"cpu_milli": ..., "memory_mib": ...}``.
    percentiles : mapping of str to float, optional
        Percentile of use to cover, by resource, in (0, 100]; 95 where not given.
    margin : float
        Added on top, as a share.
    tolerance : float
        Relative change below which the request stays.
    samples : int
        Samples remembered.
    least_samples : int
        Samples needed before anything changes.

    Raises
    ------
    ConfigurationError
        Naming what does not make sense.
    """

    def __init__(
        self,
        bounds: Mapping[str, ResourceBounds],
        *,
        percentiles: Mapping[str, float] | None = None,
        margin: float = 0.15,
        tolerance: float = 0.1,
        samples: int = 1024,
        least_samples: int = 16,
    ) -> None:
        if not bounds:
            raise ConfigurationError("VerticalScaler: 'bounds' names no resource")
        self.bounds = dict(bounds)
        self.percentiles = dict.fromkeys(bounds, 95.0) | dict(percentiles or {})
        for name, value in self.percentiles.items():
            if name not in self.bounds or not 0.0 < value <= 100.0:
                raise ConfigurationError(
                    f"VerticalScaler: the percentile of '{name}' is {value}; in (0, 100], of one "
                    f"of {', '.join(self.bounds)}"
                )
        if not margin >= 0.0 or not tolerance >= 0.0:
            raise ConfigurationError("VerticalScaler: 'margin' and 'tolerance' are at least 0")
        if not 1 <= least_samples <= samples:
            raise ConfigurationError("VerticalScaler: 1 <= 'least_samples' <= 'samples'")
        self.margin, self.tolerance, self.least_samples = margin, tolerance, least_samples
        self._used = {name: deque[float](maxlen=samples) for name in bounds}

    def observe(self, usage: Mapping[str, float]) -> None:
        """Note what one worker used of each resource.

        Raises
        ------
        ValidationError
            If a resource is missing, unknown, or its use is negative or not finite.
        """
        if set(usage) != set(self._used):
            raise ValidationError(
                "usage", "resources", f"are {sorted(usage)}", f"give {sorted(self._used)}"
            )
        for name, value in usage.items():
            if not (math.isfinite(value) and value >= 0.0):
                raise ValidationError("usage", name, f"is {value}", "at least 0, and finite")
        for name, value in usage.items():
            self._used[name].append(float(value))

    def recommend(self, current: Mapping[str, float]) -> ResourceRequest:
        """What a worker that now asks for ``current`` should ask for.

        Parameters
        ----------
        current : mapping of str to float
            Requests by resource; of others nothing is said.

        Returns
        -------
        ResourceRequest
            ``amounts`` equal ``current`` where nothing is to change.
        """
        amounts, changes = dict(current), []
        for name, used in self._used.items():
            if name not in current or len(used) < self.least_samples:
                continue
            q = self.percentiles[name]
            bounds = self.bounds[name]
            wanted = (1.0 + self.margin) * float(np.percentile(np.array(used), q))
            wanted = min(max(wanted, bounds.least), bounds.most)
            outside = not bounds.least <= current[name] <= bounds.most
            if outside or abs(wanted - current[name]) > self.tolerance * current[name]:
                amounts[name] = wanted
                changes.append(f"{name} {current[name]:.6g} to {wanted:.6g} (p{q:g} of use)")
        reason = "; ".join(changes) or "use and requests agree"
        return ResourceRequest(amounts, bool(changes), reason)
