"""ClusterUtilization: how much of the cluster is allocated."""

from __future__ import annotations

from typing import Any

from orchestrator.metrics.series import Series

__all__ = ["ClusterUtilization"]


class ClusterUtilization:
    """Allocated share of the capacity that is up: GPUs, or cores where there are none.

    Parameters
    ----------
    limit : int
        Most samples that are kept.
    """

    def __init__(self, limit: int = 1024) -> None:
        self.series = Series(limit)

    def sample(self, row: Any) -> None:
        """Note how it is now; ``row`` is a ROW_DTYPE record."""
        self.series.add(int(row["now_ms"]), self.now(row))

    @staticmethod
    def now(row: Any) -> float:
        """Allocated share of the capacity now."""
        capacity = int(row["capacity_units"])
        return (capacity - int(row["free_units"])) / capacity if capacity > 0 else 0.0

    @staticmethod
    def mean(row: Any) -> float:
        """Allocated share over time: the ratio of the two integrals."""
        capacity = int(row["capacity_unit_ms"])
        return int(row["busy_unit_ms"]) / capacity if capacity > 0 else 0.0

    def summary(self, row: Any) -> dict[str, float]:
        """Now, mean over time, and the highest sample that is kept."""
        now = self.now(row)
        highest = max(self.series.highest or 0.0, now)
        return {"now": now, "mean": self.mean(row), "highest": highest}
