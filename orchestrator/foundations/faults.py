"""Fault detection by heartbeats and a timeout."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import EventKind
from orchestrator.ports import Clock, HealthListener, NodeHealth, Timer

__all__ = ["HeartbeatFaultDetector"]


@dataclass
class _Watch:
    """What is known of one node."""

    last_ms: int
    alive: bool = True
    timer: Timer | None = None


class HeartbeatFaultDetector:
    """A node that has not shown itself for ``timeout_ms`` is taken for dead, until it does again.

    A node is watched from its first heartbeat on, so that clusters without heartbeats lose no
    nodes. Listeners hear of changes only.

    Parameters
    ----------
    clock : Clock
        Time.
    timeout_ms : int
        Longest silence.
    """

    def __init__(self, clock: Clock, timeout_ms: int = 10_000) -> None:
        if timeout_ms <= 0:
            raise ConfigurationError(
                f"HeartbeatFaultDetector: 'timeout_ms' is {timeout_ms}; it must be positive"
            )
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._watched: dict[str, _Watch] = {}
        self._dead: set[str] = set()  # of those, so that asking for suspects costs no more
        self._listeners: list[HealthListener] = []

    def subscribe(self, listener: HealthListener) -> None:
        """Have changes told to a listener, which may be a coroutine function."""
        self._listeners.append(listener)

    def suspects(self) -> tuple[str, ...]:
        """Nodes taken for dead, in alphabetical order."""
        return tuple(sorted(self._dead))

    async def heartbeat(self, node_id: str) -> None:
        """A node has shown that it is alive."""
        now_ms = self._clock.now_ms()
        seen = self._watched.setdefault(node_id, _Watch(now_ms))
        seen.last_ms = now_ms
        if seen.timer is None:
            self._set_timer(node_id, seen)
        if not seen.alive:
            seen.alive = True
            self._dead.discard(node_id)
            await self._tell(NodeHealth(node_id, True, now_ms))

    async def report(self, node_id: str) -> None:
        """Somebody knows that a node is dead."""
        seen = self._watched.setdefault(node_id, _Watch(self._clock.now_ms()))
        if seen.timer is not None:
            seen.timer.cancel()
            seen.timer = None
        if seen.alive:
            seen.alive = False
            self._dead.add(node_id)
            await self._tell(NodeHealth(node_id, False, seen.last_ms))

    def forget(self, node_id: str) -> None:
        """A node has left: do not watch it any more."""
        self._dead.discard(node_id)
        seen = self._watched.pop(node_id, None)
        if seen is not None and seen.timer is not None:
            seen.timer.cancel()

    def _set_timer(self, node_id: str, seen: _Watch) -> None:
        # One timer per node, moved only when it fires: heartbeats are many, timeouts are few.
        seen.timer = self._clock.call_at(
            seen.last_ms + self._timeout_ms,
            lambda: self._look(node_id, seen),
            order=EventKind.NODE_FAILURE,
        )

    async def _look(self, node_id: str, seen: _Watch) -> None:
        seen.timer = None
        if self._clock.now_ms() >= seen.last_ms + self._timeout_ms:
            await self.report(node_id)
        else:
            self._set_timer(node_id, seen)

    async def _tell(self, health: NodeHealth) -> None:
        for listener in self._listeners:
            result = listener(health)
            if inspect.isawaitable(result):
                await result
