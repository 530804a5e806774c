"""When nodes had failed, and when they came back: what is known of how a cluster fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["MOST_OUTAGES", "Outages"]


MOST_OUTAGES = 4096
"""That are over and are kept, the last ones."""


class Outages:
    """Outages of nodes, those that are over and those that last.

    Parameters
    ----------
    known : iterable of tuple, optional
        As :meth:`image` has them.
    """

    def __init__(self, known: Iterable[tuple[str, int, int]] = ()) -> None:
        self._over = deque[tuple[str, int, int]](maxlen=MOST_OUTAGES)
        self._open = dict[str, int]()
        for node_id, from_ms, until_ms in known:
            if until_ms < 0:
                self._open[node_id] = from_ms
            else:
                self._over.append((node_id, from_ms, until_ms))

    def begin(self, node_id: str, time_ms: int) -> None:
        """A node has failed; one that had failed already has not failed again."""
        self._open.setdefault(node_id, time_ms)

    def end(self, node_id: str, time_ms: int) -> None:
        """A node is back; one that had not failed was never away."""
        from_ms = self._open.pop(node_id, None)
        if from_ms is not None:
            self._over.append((node_id, from_ms, time_ms))

    def forget(self, node_id: str) -> None:
        """A node has left: it does not come back from an outage."""
        self._open.pop(node_id, None)

    def image(self) -> tuple[tuple[str, int, int], ...]:
        """Node, from when, until when; below 0: it lasts."""
        return (*self._over, *((node_id, since, -1) for node_id, since in self._open.items()))
