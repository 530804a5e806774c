"""``quartermaster serve`` as people start it, and ``quartermaster`` commands beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "agents.cli")


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    begun_s = time.monotonic()
    while not what():
        assert time.monotonic() - begun_s < seconds, what
        time.sleep(0.02)


class Server:
    """A server's process on a folder, which may be started several times."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self._options = folder, options
        self.endpoint = folder / "endpoint.json"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        before = self._written()
        with (self.folder.parent / "serve.out").open("ab") as out:
            self._process = subprocess.Popen(
                [*PROGRAM, "serve", "--dir", str(self.folder), *self._options],
                stdout=out,
                stderr=out,
                cwd=ROOT,
            )
        until(lambda: self._written() != before or self._process.poll() is not None)
        assert self._process.poll() is None, self.said()

    def _written(self) -> tuple[int, int]:
        try:
            found = self.endpoint.stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_ino, found.st_mtime_ns)

    def said(self) -> str:
        return (self.folder.parent / "serve.out").read_text()

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def beside(self, *given: str) -> subprocess.Popen[str]:
        """A command in a process of its own."""
        return subprocess.Popen(
            [*PROGRAM, *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "QUARTERMASTER_ENDPOINT": str(self.endpoint)},
        )
