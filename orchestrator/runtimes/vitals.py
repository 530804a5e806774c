"""What agents' signs of life, and connections that are gone, tell a fault detector."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orchestrator.ports import Clock, FaultDetector

__all__ = ["Vitals"]


_log = logging.getLogger(__name__)


_RECONNECT_MS = 1000  # for an agent whose connection is gone, until its node is taken for dead


class Vitals:
    """Passes signs of life on; a detector that fails costs what it would have said.

    Parameters
    ----------
    clock : Clock
    detector : FaultDetector or None
        None: nobody is told.
    reaches : callable
        Whether a node's agent is there now.
    """

    def __init__(
        self, clock: Clock, detector: FaultDetector | None, reaches: Callable[[str], bool]
    ) -> None:
        self._clock, self._detector, self._reaches = clock, detector, reaches
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = True

    def open(self) -> None:
        """Begin to tell."""
        self._closed = False

    async def close(self) -> None:
        """Tell nothing more."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def show(self, node: str) -> None:
        """A node lives; from now on it is watched, and missed."""
        if self._detector is not None:
            self._tell(self._detector.heartbeat, node)

    def report(self, node: str) -> None:
        """A node is known to be dead."""
        if self._detector is not None:
            self._tell(self._detector.report, node)

    def left(self, node: str) -> None:
        """The connection of an agent is gone: it comes back at once, or its node is dead."""
        if not self._closed and self._detector is not None:
            due_ms = self._clock.now_ms() + _RECONNECT_MS
            self._clock.call_at(due_ms, lambda: self._look_for(node))

    def _look_for(self, node: str) -> None:
        if not self._closed and not self._reaches(node):
            self.report(node)

    def _tell(self, work: Callable[[str], Awaitable[None]], node: str) -> None:
        async def guarded() -> None:
            try:
                await work(node)
            except Exception:
                _log.exception("the fault detector, or who listens to it, failed")

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
