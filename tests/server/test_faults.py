"""One misfortune after the other, and callers who notice none.

A caller here is a program with the client: what it sends may safely be sent again, and is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from orchestrator.client import AsyncClient
from orchestrator.node.agent import pid_in

_ROOT = Path(__file__).resolve().parents[2]
_REPLICA = """
import os
from orchestrator.worker.inference.server import InferenceServer
InferenceServer(lambda x: [x, os.getpid()], threads=4).serve()
"""
_NODES = 4  # of one GPU each: a replica on each of three, and room for a fourth
_REPLICAS = 3
_LATE_S = 30.0  # for a request, misfortunes included


class _Cluster:
    """A server's process, which is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> Path:
        return self.folder / "endpoint.json"

    def start(self) -> None:
        before = self.endpoint.stat().st_ino if self.endpoint.exists() else 0
        options = ("--agents", str(_NODES), "--gpus", "1", "--dir", str(self.folder))
        with (self.folder.parent / "serve.out").open("ab") as out:
            command = [sys.executable, "-m", "agents.cli", "serve", *options]
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=_ROOT)
        begun_s = time.monotonic()
        while not self.endpoint.exists() or self.endpoint.stat().st_ino == before:
            assert self.process.poll() is None, (self.folder.parent / "serve.out").read_text()
            assert time.monotonic() - begun_s < 120
            time.sleep(0.05)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def agent(self, node: str) -> int:
        pid = pid_in(self.folder / "agents" / node)
        assert pid is not None
        return pid


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[_Cluster]:
    found = _Cluster(tmp_path / "cluster")
    found.start()
    try:
        yield found
    finally:
        found.end()
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                if any(str(tmp_path) in part for part in process.info["cmdline"] or ()):
                    process.kill()


class _Callers:
    """Requests of programs, all the while, and those that failed."""

    def __init__(self, endpoint: Path) -> None:
        self.endpoint = endpoint
        self.failed: list[str] = []
        self.counts: dict[str, int] = {}
        self.jobs: list[str] = []
        self.proxy_is_there = True

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """All of them at work."""
        async with AsyncClient(self.endpoint) as client, httpx.AsyncClient() as raw:
            self._client, self._raw = client, raw
            work = (
                (self.call, 0.02),
                (self.look, 0.1),
                (self.submit, 0.3),
                (self.go_by_port, 0.01),
            )
            tasks = [asyncio.create_task(self._repeat(what, every_s)) for what, every_s in work]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _repeat(self, what: Callable[[], Awaitable[None]], every_s: float) -> None:
        name = what.__name__
        while True:
            try:
                async with asyncio.timeout(_LATE_S):
                    await what()
                self.counts[name] = self.counts.get(name, 0) + 1
            except Exception as error:
                self.failed.append(f"{name}: {type(error).__name__}: {error}")
            await asyncio.sleep(every_s)

    async def call(self) -> None:
        """A request to the service, by the client."""
        async with self._client.call("svc", "healthz", method="GET") as parts:
            assert b"".join([part async for part in parts])

    async def look(self) -> None:
        """A question."""
        await self._client.jobs(limit=5)

    async def submit(self) -> None:
        """A job, which there must be once."""
        told = await self._client.submit(
            name="small", command=["true"], memory_per_worker_gb=0.1, max_duration_hours=1.0
        )
        self.jobs.append(told["job_id"])

    async def go_by_port(self) -> None:
        """A request to the service, at its port, by somebody who tries once."""
        if not self.proxy_is_there:
            return
        known = json.loads(self.endpoint.read_text())
        answer = await self._raw.get(
            f"{known['mesh_url']}/svc/healthz",
            headers={"Authorization": f"Bearer {known['token']}"},
            timeout=_LATE_S,
        )
        assert answer.status_code == 200, answer.text


async def _until(what: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    begun_s = time.monotonic()
    while not await what():
        assert time.monotonic() - begun_s < seconds, "it did not become true"
        await asyncio.sleep(0.05)


def _replicas(folder: Path) -> list[int]:
    """Processes of the service's replicas."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        with contextlib.suppress(psutil.Error):
            if _REPLICA in (process.info["cmdline"] or ()):
                control = (process.info["environ"] or {}).get("QUARTERMASTER_CONTROL", "")
                if control:
                    found.append(process.pid)
    return found


async def _calm(client: AsyncClient) -> None:
    """Wait until three replicas answer."""

    async def three() -> bool:
        return len((await client.service("svc"))["routable"]) == _REPLICAS

    await _until(three)


@pytest.mark.slow
async def test_nobody_who_asks_notices_a_single_misfortune(cluster: _Cluster) -> None:
    """A replica is killed, one hangs, all are replaced, a node is lost, the server is killed."""
    callers = _Callers(cluster.endpoint)
    async with AsyncClient(cluster.endpoint) as client:
        await client.submit(
            name="svc",
            job_id="svc",
            command=[sys.executable, "-c", _REPLICA],
            kind="SERVICE",
            num_workers=_REPLICAS,
            gpus_per_worker=1,
            gang_schedule=False,
            priority="PRODUCTION",
        )
        await _calm(client)
        async with callers.busy():
            await asyncio.sleep(0.5)
            os.kill(_replicas(cluster.folder)[0], signal.SIGKILL)
            await _calm(client)
            hung = _replicas(cluster.folder)[0]
            os.kill(hung, signal.SIGSTOP)
            await asyncio.sleep(2.0)
            os.kill(hung, signal.SIGCONT)
            await _calm(client)
            assert callers.failed == []

            assert (await client.replace_replicas("svc"))["replaced"] == _REPLICAS
            assert callers.failed == []

            node = next(iter(sorted((await client.job("svc"))["node_ids"])))
            os.kill(cluster.agent(node), signal.SIGKILL)
            await asyncio.sleep(0.5)
            await _calm(client)
            assert callers.failed == []

            callers.proxy_is_there = False
            await asyncio.sleep(0.2)
            cluster.kill()
            await asyncio.to_thread(cluster.start)
            await _calm(client)
            callers.proxy_is_there = True
            await asyncio.sleep(0.5)
        assert callers.failed == []
        assert min(callers.counts.values()) > 5, callers.counts

        async def done() -> bool:
            states = [(await client.job(job))["state"] for job in callers.jobs]
            return set(states) == {"completed"}

        await _until(done)
        known = [job["job_id"] for job in await client.jobs(name="small", limit=1000)]
        assert len(known) == len(set(known))
        assert set(callers.jobs) <= set(known)  # one whose caller was stopped may be there, too
        assert len(known) <= len(callers.jobs) + 1
