"""A bounded time series."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from orchestrator.errors import ConfigurationError

__all__ = ["Series"]


class Series:
    """The last values of something, with their times.

    Parameters
    ----------
    limit : int
        Most values that are kept; older ones are forgotten.
    """

    def __init__(self, limit: int = 1024) -> None:
        if limit < 1:
            raise ConfigurationError(f"Series: 'limit' is {limit}; it must be at least 1")
        self._points: deque[tuple[int, float]] = deque(maxlen=limit)

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(self._points)

    @property
    def last(self) -> float | None:
        """The last value; None if there is none."""
        return self._points[-1][1] if self._points else None

    @property
    def highest(self) -> float | None:
        """The highest value that is kept."""
        return max((value for _, value in self._points), default=None)

    def add(self, time_ms: int, value: float) -> None:
        """Note a value; one of the same time replaces the one before."""
        if self._points and self._points[-1][0] == time_ms:
            self._points.pop()
        self._points.append((time_ms, float(value)))
