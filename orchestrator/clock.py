"""Clocks: one advanced by hand, for simulation and tests, the real one, and that of a log."""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import time

from orchestrator.errors import ConfigurationError
from orchestrator.ports import Callback, Clock, Timer

__all__ = ["LogClock", "VirtualClock", "WallClock"]


_TURNS = 16


class _Timer:
    """A callback that is due."""

    __slots__ = ("callback", "handle")

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback
        self.handle: asyncio.TimerHandle | None = None  # of the event loop, if it waits there

    def cancel(self) -> None:
        self.callback = None
        if self.handle is not None:
            self.handle.cancel()


class VirtualClock:
    """Time that passes only when it is told to, and instantly.

    Everything that is due happens in the order (time, ``order``, sequence of the calls), one thing
    after the other: an awaitable that a callback returns is awaited before the next callback.
    A task that sleeps on this clock and is woken gets 16 turns of the event loop before time goes
    on: enough for anything that awaits memory only, and not for real input and output.

    Parameters
    ----------
    start_ms : int
        Time at the beginning.
    """

    def __init__(self, start_ms: int = 0) -> None:
        self._now_ms = start_ms
        self._sequence = itertools.count()
        self._due: list[tuple[int, int, int, _Timer]] = []
        self._advancing = False

    def now_ms(self) -> int:
        """Milliseconds on this clock."""
        return self._now_ms

    def call_at(self, time_ms: int, callback: Callback, *, order: int = 0) -> _Timer:
        """Call back at a time, or as soon as possible if it has passed."""
        timer = _Timer(callback)
        due_ms, now_ms = int(time_ms), self._now_ms
        if due_ms < now_ms:
            due_ms = now_ms
        heapq.heappush(self._due, (due_ms, order, next(self._sequence), timer))
        return timer

    async def sleep_until(self, time_ms: int) -> None:
        """Return at a time, or at once if it has passed."""
        if time_ms <= self._now_ms:
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_at(time_ms, lambda: self._wake(woken))
        try:
            await woken
        finally:
            timer.cancel()

    async def _wake(self, sleeper: asyncio.Future[None]) -> None:
        if not sleeper.done():
            sleeper.set_result(None)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def next_ms(self) -> int | None:
        """When the next thing is due, or None."""
        while self._due and self._due[0][3].callback is None:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    async def advance_to(self, time_ms: int) -> None:
        """Let everything happen that is due by a time, that time included, and stop there."""
        await self._run(time_ms)
        self._now_ms = max(self._now_ms, time_ms)

    async def run_until_idle(self) -> None:
        """Let everything happen until nothing is due any more."""
        await self._run(None)

    async def _run(self, until_ms: int | None) -> None:
        if self._advancing:
            raise ConfigurationError(
                "VirtualClock: advanced from within one of its callbacks; sleep_until() there"
            )
        self._advancing = True
        try:
            for _ in range(_TURNS):  # tasks that were just created may want to set a timer
                await asyncio.sleep(0)
            due = self._due
            while due:
                due_ms, _, _, timer = due[0]
                callback = timer.callback
                if callback is not None and until_ms is not None and due_ms > until_ms:
                    return
                heapq.heappop(due)
                if callback is None:
                    continue
                self._now_ms = due_ms
                timer.callback = None
                result = callback()
                if result is not None and inspect.isawaitable(result):
                    await result
        finally:
            self._advancing = False


class WallClock:
    """Real time: milliseconds since 1970, from a monotonic source, so that it never goes back.

    Timers need a running event loop. Callbacks that return awaitables become tasks; an exception
    in one goes to the event loop's exception handler.
    """

    def __init__(self) -> None:
        self._origin_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        self._tasks: set[asyncio.Future[object]] = set()

    def now_ms(self) -> int:
        """Milliseconds on this clock."""
        return self._origin_ms + time.monotonic_ns() // 1_000_000

    def call_at(self, time_ms: int, callback: Callback, *, order: int = 0) -> _Timer:
        """Call back at a time, or as soon as possible if it has passed.

        ``order`` only matters between timers of the same millisecond, which real time does not
        promise to keep apart; it is not used here.
        """
        timer = _Timer(callback)
        delay_s = max(0, time_ms - self.now_ms()) / 1000.0
        timer.handle = asyncio.get_running_loop().call_later(delay_s, self._fire, timer)
        return timer

    def _fire(self, timer: _Timer) -> None:
        callback = timer.callback
        timer.cancel()
        result = callback() if callback is not None else None
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            self._tasks.add(task)  # the event loop itself only keeps weak references
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "a timer's callback failed", "exception": error, "future": task}
            task.get_loop().call_exception_handler(context)

    async def sleep_until(self, time_ms: int) -> None:
        """Return at a time, or at once if it has passed."""
        left_ms = time_ms - self.now_ms()
        if left_ms > 0:
            await asyncio.sleep(left_ms / 1000.0)
            await self.sleep_until(time_ms)  # the event loop may wake a fraction too early


class LogClock:
    """Another clock, ahead of it by as much as a log was when it was taken over.

    Machines disagree about the time of day, and some are set back. Entries of a log never go back;
    but for this, time would stand still in the cluster until the clock of a new leader has come to
    where the log ended: nothing that is measured from an entry would become due.

    Parameters
    ----------
    clock : Clock
        The other one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ms = 0

    def not_before(self, time_ms: int) -> None:
        """Go on from a time, if it is still to come; timers that are set go off as they would."""
        self._ahead_ms += max(time_ms - self.now_ms(), 0)

    def of(self, time_ms: int) -> int:
        """What it is on this clock when it is some time on the other one; below 0: nobody knows."""
        return time_ms + self._ahead_ms if time_ms >= 0 else time_ms

    def now_ms(self) -> int:
        """Milliseconds on this clock."""
        return self._clock.now_ms() + self._ahead_ms

    def call_at(self, time_ms: int, callback: Callback, *, order: int = 0) -> Timer:
        """Call back at a time, or as soon as possible if it has passed."""
        return self._clock.call_at(time_ms - self._ahead_ms, callback, order=order)

    async def sleep_until(self, time_ms: int) -> None:
        """Return at a time, or at once if it has passed."""
        await self._clock.sleep_until(time_ms - self._ahead_ms)
