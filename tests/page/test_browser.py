"""The page in a browser: Chromium, driven by playwright-core (see ``package.json``)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_SERVE = """
import sys
from pathlib import Path
from agents.serve import ServeSettings, serve
serve(ServeSettings(dir=Path(sys.argv[1]), agents=2, gpus=2))
"""


pytestmark = pytest.mark.slow


def missing() -> str:
    """Why there is no browser here; nothing: there is one."""
    for program, package in (("chromium", "chromium"), ("node", "nodejs")):
        if shutil.which(program) is None:
            return f"there is no program {program}; install it (Debian: {package})"
    if not (_HERE / "node_modules" / "playwright-core").is_dir():
        return "there is no playwright-core; run `npm ci` in tests/page"
    return ""


@pytest.fixture(autouse=True, scope="module")
def _browser() -> None:
    if reason := missing():
        pytest.skip(f"page: {reason}")


class Server:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.endpoint = folder / "endpoint.json"
        self._log = folder / "output"
        self._command = [sys.executable, *command]
        self.start()

    def start(self) -> None:
        """Start it; it answers."""
        before = self._written()
        with self._log.open("a") as log:
            environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
            self.process = subprocess.Popen(
                self._command, cwd=_ROOT, env=environment, stdout=log, stderr=log
            )
        until = time.monotonic() + 60.0
        while self._written() == before:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.02)

    def _written(self) -> int:
        """When it was said last where it answers; a server that goes on keeps its address."""
        return self.endpoint.stat().st_mtime_ns if self.endpoint.exists() else 0

    def agent(self, node_id: str) -> psutil.Process:
        """The agent of a node, which it has started."""
        children = psutil.Process(self.process.pid).children()
        return next(one for one in children if f"--node={node_id}" in one.cmdline())

    def end(self) -> None:
        """Have it end, with all that it has started."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=30)


def drive(script: str, server: Server, steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Run a script; what it asks for is done, and its figures are returned."""
    told, figures = [], {}
    command = ["node", str(_HERE / script), str(server.endpoint), str(shutil.which("chromium"))]
    with (
        contextlib.suppress(BrokenPipeError),
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as node,
    ):
        assert node.stdin is not None
        assert node.stdout is not None
        for line in node.stdout:
            told.append(line)
            word, _, rest = line.strip().partition(" ")
            if word == "step":
                answer = steps[rest]()
                with contextlib.suppress(BrokenPipeError):  # why it has left is in what it told
                    print(answer, file=node.stdin, flush=True)
            elif word == "figure":
                name, _, value = rest.partition(" ")
                figures[name] = float(value)
    assert node.returncode == 0, "".join(told)
    assert told[-1] == "done\n", "".join(told)
    return figures


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Server]:
    """A live cluster of two nodes with two GPUs each."""
    server = Server(tmp_path, "-c", _SERVE, str(tmp_path))
    yield server
    server.end()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A simulated cluster of four nodes, on which much happens."""
    folder = tmp_path_factory.mktemp("simulated")
    server = Server(folder, str(_HERE / "cluster.py"), str(folder), "4", "12")
    yield server
    server.end()


def test_it_shows_a_job_from_its_submission_to_its_end_and_who_is_lost(live: Server) -> None:
    def kill_agent() -> int:
        agent = live.agent("node-1")
        now_ms = time.time_ns() // 1_000_000
        agent.send_signal(signal.SIGKILL)
        return now_ms

    def kill_server() -> None:
        live.process.kill()
        live.process.wait()

    steps = {
        "kill an agent": kill_agent,
        "kill the server": kill_server,
        "start the server": live.start,
    }
    drive("life.mjs", live, steps)


def test_it_can_be_read_on_a_telephone_in_the_dark_and_by_keyboard(simulated: Server) -> None:
    assert json.loads(simulated.endpoint.read_text())["url"].startswith("http://127.0.0.1:")
    drive("looks.mjs", simulated, {})


def test_both_futures_of_what_is_supposed_are_drawn_and_nothing_is_done(simulated: Server) -> None:
    drive("whatif.mjs", simulated, {})
