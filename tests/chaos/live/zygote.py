"""Where processes of a schedule come from: forked from one that has everything loaded.

An interpreter that has loaded the orchestrator and its kernels costs 1.2 s of a core; a fork of it
a hundredth. What runs in the fork is what would run in a new process: :func:`leader.main`, or the
agent's own ``main``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]


class Zygote:
    """The parent of leaders, or of agents.

    Parameters
    ----------
    kind : str
        ``leader`` or ``agent``.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Load everything."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.live.zygote", self._kind),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            start_new_session=True,
        )
        await self._line()

    async def _line(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, f"the zygote of {self._kind}s has ended"
        return json.loads(line)

    async def spawn(self, config: dict[str, Any]) -> int:
        """Fork; the process, which does not outlive its purpose."""
        async with self._lock:
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(config).encode() + b"\n")
            return int(await self._line())

    async def stop(self) -> None:
        """No more are needed."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()


def _serve(kind: str) -> None:
    """Fork whenever a line says so."""
    if kind == "leader":
        from tests.chaos.live.leader import main, warm_up

        warm_up()
    else:
        from tests.chaos.live.agent import main
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they end
    _tell("ready")
    for line in sys.stdin:
        config = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _leave_home(Path(config["log"]))
                code = main(config)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.flush()
                os._exit(code)
        _tell(pid)


def _leave_home(log: Path) -> None:
    """Be a process of one's own, whose output goes to a file."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for number, where in enumerate((nothing, nothing, written)):
        os.dup2(where, number)
    os.close(nothing)
    os.close(written)


def _tell(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
