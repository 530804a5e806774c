"""Fault detection by heartbeats: a fixed timeout, or one that learns how regular a node is."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import NormalDist

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import EventKind
from orchestrator.ports import Clock, HealthListener, NodeHealth, Timer

__all__ = ["HeartbeatFaultDetector", "PhiAccrualFaultDetector"]


_ORDER = int(EventKind.NODE_FAILURE)  # among what is due at one time
_FEW = 10  # intervals from which a rhythm can be told


_log = logging.getLogger(__name__)


@dataclass
class _Watch:
    """What is known of one node."""

    last_ms: int
    alive: bool = True
    timer: Timer | None = None
    due_ms: int = 0  # when the timer goes off
    excused_ms: int = -1  # until when silence says nothing
    intervals_ms: deque[int] = field(default_factory=deque)
    sum_ms: int = 0  # of these intervals
    sum_square: int = 0


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
        self._least_ms = timeout_ms  # nobody is patient for less
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
        seen = self._watched.get(node_id)
        if seen is None:
            seen = self._watched[node_id] = _Watch(now_ms)
        elif seen.alive:
            self._learn(seen, now_ms - seen.last_ms)
        seen.last_ms = now_ms
        if seen.timer is None:
            self._set_timer(node_id, seen, self._due_ms(seen))
        elif now_ms + self._least_ms < seen.due_ms:  # otherwise it cannot be due sooner
            due_ms = self._due_ms(seen)
            if due_ms < seen.due_ms:
                self._set_timer(node_id, seen, due_ms)
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

    def _learn(self, seen: _Watch, interval_ms: int) -> None:
        """A node has beaten again after an interval."""

    def _patience_ms(self, seen: _Watch) -> int:
        """Longest silence of a node."""
        return self._timeout_ms

    async def _is_there(self, node_id: str) -> bool:
        """Whether a node that has been silent for too long answers when it is asked."""
        return False

    def _due_ms(self, seen: _Watch) -> int:
        return max(seen.last_ms + self._patience_ms(seen), seen.excused_ms)

    def _set_timer(self, node_id: str, seen: _Watch, due_ms: int) -> None:
        # One timer per node, moved later only when it fires: heartbeats are many, timeouts are few.
        if seen.timer is not None:
            seen.timer.cancel()
        seen.due_ms = due_ms
        seen.timer = self._clock.call_at(due_ms, lambda: self._look(node_id, seen), order=_ORDER)

    def _look(self, node_id: str, seen: _Watch) -> Awaitable[None] | None:
        """Time is up, unless it has beaten since: then there is nothing to wait for."""
        seen.timer = None
        now_ms = self._clock.now_ms()
        late_ms = now_ms - seen.due_ms
        if late_ms > self._least_ms // 2 and late_ms > self._patience_ms(seen) // 2:
            # We were the one who slept: what was sent meanwhile is still to be read.
            seen.excused_ms = now_ms + self._patience_ms(seen)
        due_ms = self._due_ms(seen)
        if now_ms < due_ms:
            self._set_timer(node_id, seen, due_ms)
            return None
        return self._doubt(node_id, seen)

    async def _doubt(self, node_id: str, seen: _Watch) -> None:
        """A node has been silent for too long: ask it, and take it for dead if it is."""
        last_ms = seen.last_ms
        answers = await self._is_there(node_id)
        if seen is not self._watched.get(node_id) or not seen.alive or seen.timer is not None:
            return  # meanwhile it was forgotten, reported, or has beaten
        if answers or seen.last_ms > last_ms:
            seen.excused_ms = self._clock.now_ms() + self._patience_ms(seen)
            self._set_timer(node_id, seen, self._due_ms(seen))
        else:
            await self.report(node_id)

    async def _tell(self, health: NodeHealth) -> None:
        for listener in self._listeners:
            result = listener(health)
            if inspect.isawaitable(result):
                await result


class PhiAccrualFaultDetector(HeartbeatFaultDetector):
    """A node is suspected when its silence is too unlikely, then asked, then taken for dead.

    How long a node is silent between two heartbeats is taken to be normal with the mean and the
    standard deviation of its last ones. Its suspicion phi after a silence t is -log10 of the
    probability of a longer one (Hayashibara, Defago, Yared and Katayama, "The phi accrual failure
    detector", SRDS 2004). Below ten heartbeats, and never beyond it, ``timeout_ms`` counts.

    Where the detector itself has slept, as in a process that was stopped, silence says nothing:
    nodes get their time anew.

    Parameters
    ----------
    clock : Clock
        Time.
    timeout_ms : int
        Longest silence, whatever the rhythm.
    threshold : float
        Phi from which on a node is suspected: of 10 ** ``threshold`` silences, one is as long.
    least_deviation_ms : float
        Standard deviation that is assumed at least. Real pauses are rarer and longer than normal
        ones: threshold 8 allows 5.6 of these deviations beyond the mean.
    lease_ms : int
        How long workers on a machine that is cut off go on before its agent stops them: a node is
        not taken for dead sooner after its last heartbeat, however suspicious, or its jobs would
        run twice. A node that is reported is dead at once.
    window : int
        Intervals that are remembered.
    probe_ms : int
        How long a suspected node has to answer.
    probe : coroutine function or None
        Asks a suspected node whether it is there; None: nobody is asked. An error is a no.

    Raises
    ------
    ConfigurationError
        If a number is not positive.
    """

    def __init__(
        self,
        clock: Clock,
        timeout_ms: int = 10_000,
        *,
        threshold: float = 8.0,
        least_deviation_ms: float = 50.0,
        lease_ms: int = 5000,
        window: int = 100,
        probe_ms: int = 200,
        probe: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        super().__init__(clock, timeout_ms)
        named = {
            "threshold": threshold,
            "least_deviation_ms": least_deviation_ms,
            "window": window,
            "probe_ms": probe_ms,
        }
        for name, value in named.items():
            if not value > 0 or not math.isfinite(value):
                raise ConfigurationError(
                    f"PhiAccrualFaultDetector: '{name}' is {value}; it must be positive"
                )
        if not 0 <= lease_ms <= timeout_ms:
            raise ConfigurationError(
                f"PhiAccrualFaultDetector: 'lease_ms' is {lease_ms}; give at least 0 and at most "
                f"'timeout_ms' ({timeout_ms})"
            )
        self._lease_ms = self._least_ms = lease_ms
        # By symmetry, of the lower tail: one minus it has too few digits.
        self._deviations = -NormalDist().inv_cdf(max(10.0**-threshold, 1e-300))
        self._least_deviation_ms = least_deviation_ms
        self._window = window
        self._probe_s = probe_ms / 1000.0
        self._probe = probe

    def phi(self, node_id: str) -> float:
        """Suspicion of a node now: 0 if it is not watched, infinite if it is taken for dead."""
        seen = self._watched.get(node_id)
        if seen is None:
            return 0.0
        if not seen.alive:
            return math.inf
        if len(seen.intervals_ms) < _FEW:
            return 0.0
        mean, deviation = self._rhythm(seen)
        beyond = (self._clock.now_ms() - seen.last_ms - mean) / deviation
        longer = 0.5 * math.erfc(beyond / math.sqrt(2.0))
        return -math.log10(longer) if longer > 0.0 else math.inf

    def _rhythm(self, seen: _Watch) -> tuple[float, float]:
        """Mean and standard deviation of the intervals between a node's heartbeats, ms."""
        # Of sums of integers, which are exact: heartbeats cost the same however many are known.
        count = len(seen.intervals_ms)
        variance = (count * seen.sum_square - seen.sum_ms**2) / count**2
        return seen.sum_ms / count, max(math.sqrt(variance), self._least_deviation_ms)

    def _learn(self, seen: _Watch, interval_ms: int) -> None:
        intervals_ms, oldest_ms = seen.intervals_ms, 0
        intervals_ms.append(interval_ms)
        if len(intervals_ms) > self._window:
            oldest_ms = intervals_ms.popleft()
        if interval_ms != oldest_ms:  # a regular node's sums stay as they are
            seen.sum_ms += interval_ms - oldest_ms
            seen.sum_square += interval_ms**2 - oldest_ms**2

    def _patience_ms(self, seen: _Watch) -> int:
        if len(seen.intervals_ms) < _FEW:
            return self._timeout_ms
        mean, deviation = self._rhythm(seen)
        suspected_ms = math.ceil(mean + self._deviations * deviation)
        return min(max(suspected_ms, self._lease_ms), self._timeout_ms)

    async def _is_there(self, node_id: str) -> bool:
        if self._probe is None:
            return False
        try:
            return await asyncio.wait_for(self._probe(node_id), self._probe_s)
        except Exception as error:
            _log.info("node '%s' does not answer a probe: %s", node_id, error)
            return False
