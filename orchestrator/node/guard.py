"""The guard of an agent: a process that ends its workers when the agent cannot.

An agent that is killed cannot end anybody, nor can one that is stopped, and continued late. So a
second process, of a few pages of its own, knows the sessions of the workers and when their lease
ends. It ends them all when the agent is gone (its pipe closes), or when the lease is over and
nobody else has. Whoever kills both at once leaves workers to the next agent of the node, which
ends what carries the mark of the one before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from pathlib import Path

__all__ = ["Guard", "adopt_orphans", "end_marked", "end_session", "members", "now_ms"]


_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


_LATER_MS = 250  # than the lease's end: the agent, if it can, ends workers itself and says why
_OWN_FILES = 3  # standard input, output and error
_MOST_FILES = 4096


def now_ms() -> int:
    """Milliseconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def adopt_orphans() -> None:
    """Have processes whose parents below this one die become children of this one."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def members(session: int) -> list[int]:
    """Processes of a session, zombies included."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208  half the cost, at every end of a worker
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(name)) == session:
                    found.append(int(name))
    return found


def end_session(session: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the group that a worker leads; SIGKILL, to all of its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)
    if number == signal.SIGKILL:
        for pid in members(session):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def end_marked(mark: bytes) -> None:
    """Kill processes that carry a mark in their environment, wherever they have gone."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)


class Guard:
    """The agent's end of the pipe to its guard.

    Parameters
    ----------
    mark : str
        ``NAME=value``, which is in the environment of every worker of this agent.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._sessions: set[int] = set()
        self._lease_ms = 0
        self.pid, self._pipe = self._fork()

    def _fork(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _stand_guard(reading, self._mark.encode())
            finally:
                os._exit(0)
        os.close(reading)
        return pid, writing

    def respawn(self) -> None:
        """Have another one: somebody has killed it."""
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        self.pid, self._pipe = self._fork()
        for session in self._sessions:
            self._tell(f"+{session}\n")
        self._tell(f"L{self._lease_ms}\n")

    def add(self, session: int) -> None:
        """A worker has started."""
        self._sessions.add(session)
        self._tell(f"+{session}\n")

    def remove(self, session: int) -> None:
        """A worker and its session are gone."""
        self._sessions.discard(session)
        self._tell(f"-{session}\n")

    def lease(self, until_ms: int) -> None:
        """Workers may live until then."""
        self._lease_ms = until_ms
        self._tell(f"L{until_ms}\n")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it is gone, and its end was not seen yet: respawn()
            os.write(self._pipe, line.encode())

    def close(self) -> None:
        """End the guard, and whatever is left of workers."""
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _stand_guard(pipe: int, mark: bytes) -> None:
    """Watch until the agent is gone; runs in the guard's process."""
    os.setsid()
    for ended_by in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ended_by, signal.SIG_IGN)  # who ends the agent ends the guard, by the pipe
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.closerange(_OWN_FILES, pipe)
    os.closerange(pipe + 1, _MOST_FILES)
    sessions, lease_ms, text = set[int](), 0, b""
    while True:
        wait_s = None
        if sessions and lease_ms:
            wait_s = max(lease_ms + _LATER_MS - now_ms(), 0) / 1000
        if not select.select([pipe], [], [], wait_s)[0]:
            for session in sessions:
                end_session(session)
            sessions.clear()  # the agent, when it can, finds them gone
            continue
        data = os.read(pipe, 65536)
        if not data:
            break
        *lines, text = (text + data).split(b"\n")
        for line in lines:
            kind, number = line[:1], int(line[1:])
            if kind == b"L":
                lease_ms = number
            elif kind == b"+":
                sessions.add(number)
            else:
                sessions.discard(number)
    for session in sessions:
        end_session(session)
    end_marked(mark)
