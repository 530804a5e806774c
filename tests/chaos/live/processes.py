"""Other people's processes: wait for their end, stop and continue them, take their disk away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal


class Watched:
    """A process that somebody has started, by an identity that no other one gets."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stopped = False
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1

    @property
    def alive(self) -> bool:
        """Whether it is there; a zombie is not."""
        if self._fd < 0:
            return False
        if select.select([self._fd], [], [], 0)[0]:
            os.close(self._fd)
            self._fd = -1
        return self._fd >= 0

    async def ended(self) -> None:
        """Return when it has ended."""
        if not self.alive:
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        watch = os.dup(self._fd)
        loop.add_reader(watch, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)
            self.stopped = {signal.SIGSTOP: True, signal.SIGCONT: False}.get(number, self.stopped)

    def fill_disk(self, *, full: bool) -> None:
        """Let it write nothing more to files, or everything again."""
        most = resource.RLIM_INFINITY
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0 if full else most, most))

    def close(self) -> None:
        """Do not watch it any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
