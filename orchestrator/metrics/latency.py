"""SchedulingLatency: how long jobs wait from submission to their first start."""

from __future__ import annotations

from collections import deque

import numpy as np

__all__ = ["SchedulingLatency"]


class SchedulingLatency:
    """Time from submission to the first start.

    Parameters
    ----------
    limit : int
        Most waits that percentiles are taken of: the last ones. Count and mean are of all.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._waits: deque[int] = deque(maxlen=limit)
        self.count = 0
        self._sum_ms = 0

    def add(self, wait_ms: int) -> None:
        """A job has started for the first time."""
        self._waits.append(wait_ms)
        self.count += 1
        self._sum_ms += wait_ms

    def percentile(self, percent: float) -> float:
        """A percentile of the last waits, seconds, linear between them; 0 if there are none."""
        return float(np.percentile(self._waits, percent)) / 1000.0 if self._waits else 0.0

    def summary(self) -> dict[str, float]:
        """Count, and mean, median, 95th and 99th percentile and maximum in seconds."""
        return {
            "count": self.count,
            "mean_s": self._sum_ms / self.count / 1000.0 if self.count else 0.0,
            "p50_s": self.percentile(50),
            "p95_s": self.percentile(95),
            "p99_s": self.percentile(99),
            "highest_s": self.percentile(100),
        }
