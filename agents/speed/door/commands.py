"""How long a command of ``quartermaster`` takes from its start to its end."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

__all__ = ["Start", "command_starts"]


_LISTING = json.dumps({"items": [], "next_cursor": None}).encode()
_LOOK_S = 0.01


class Start(NamedTuple):
    """Starts of an interpreter and of commands, one after the other: each the least of several.

    Parameters
    ----------
    listing_s : list of float
        ``quartermaster ls --json``, a server's answer included.
    version_s : float
        ``quartermaster version``, which asks nobody.
    python_s : float
        An interpreter that does nothing.
    """

    listing_s: list[float]
    version_s: float
    python_s: float


def command_starts(repeats: int, clock: str) -> Start:
    """Start commands, each in an interpreter of its own.

    Parameters
    ----------
    repeats : int
        How often each.
    clock : str
        ``wall``: the time of day; ``cpu``: what the processes were given.
    """
    with _listing_server() as url:
        env = {**os.environ, "QUARTERMASTER_URL": url, "QUARTERMASTER_TOKEN": "speed"}
        found: dict[str, list[float]] = {"ls --json": [], "version": [], "": []}
        for _ in range(repeats + 1):  # in turn: what slows one slows all
            for words, times in found.items():
                program = ["-m", "agents.cli", *words.split()] if words else ["-c", "pass"]
                times.append(_spent_s([sys.executable, *program], env, clock))
    listing, version, nothing = (times[1:] for times in found.values())  # the first reads files
    return Start(listing, min(version), min(nothing))


def _spent_s(program: list[str], env: dict[str, str], clock: str) -> float:
    begun_s, spent_s = time.perf_counter(), _children_s()
    subprocess.run(program, env=env, check=True, stdout=subprocess.DEVNULL)
    return _children_s() - spent_s if clock == "cpu" else time.perf_counter() - begun_s


def _children_s() -> float:
    """Processor time of the processes that were started here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@contextmanager
def _listing_server() -> Iterator[str]:
    """A server with an empty list for everybody who asks; where it is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Listing)
    thread = threading.Thread(target=server.serve_forever, args=(_LOOK_S,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Listing(BaseHTTPRequestHandler):
    """Answers with an empty list."""

    def do_GET(self) -> None:
        """Say that there is nothing."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_LISTING)))
        self.end_headers()
        self.wfile.write(_LISTING)

    def log_message(self, *args: object) -> None:
        """Say nothing on the terminal."""
