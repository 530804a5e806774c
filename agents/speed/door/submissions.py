"""The door under load: jobs that many clients submit by REST, each over a connection of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil

__all__ = ["Door", "opened"]


# A process of its own, as users have it. One job holds the only GPU, and the others wait.
_SERVER = """
import sys
from pathlib import Path
from agents.serve import ServeSettings, serve
from orchestrator.server.guard.gate import Limits

limits = Limits(requests_per_s=0.0)
settings = ServeSettings(Path(sys.argv[1]), agents=1, gpus=1, limits=limits, log_level=sys.argv[2])
serve(settings, say=lambda text: print(text, flush=True))
"""
_JOB = {"command": ["sleep", "600"], "gpus_per_worker": 1}


class Door:
    """A server that runs, seen by its clients.

    Parameters
    ----------
    url, token : str
        Where it answers, and for whom.
    pid : int
        Its process.
    """

    def __init__(self, url: str, token: str, pid: int) -> None:
        where = urlsplit(url)
        assert where.hostname is not None
        assert where.port is not None
        self._host, self._port, self._token, self.pid = where.hostname, where.port, token, pid
        self._count = 0

    def cpu_s(self) -> float:
        """Seconds of CPU that the server has had."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def paced(self, clients: int, per_s: float, seconds: float) -> list[float]:
        """Latencies, ms, of submissions by clients that submit at a rate, all together ``per_s``.

        A submission that begins late, because the one before it was slow, counts from when it was
        due.
        """
        return asyncio.run(self._paced(clients, per_s, seconds))

    def closed(self, clients: int, seconds: float) -> float:
        """Submissions a second of clients that submit the next one as soon as one is answered."""
        begun_s = time.perf_counter()
        done = asyncio.run(self._paced(clients, 0.0, seconds))
        return len(done) / (time.perf_counter() - begun_s)

    async def _paced(self, clients: int, per_s: float, seconds: float) -> list[float]:
        found: list[float] = []
        await asyncio.gather(
            *(self._client(k, clients, per_s, seconds, found) for k in range(clients))
        )
        return found

    async def _client(
        self, number: int, clients: int, per_s: float, seconds: float, found: list[float]
    ) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        begun_s = time.perf_counter()
        step_s = clients / per_s if per_s else 0.0
        due_s = begun_s + step_s * number / clients
        try:
            while True:
                now_s = time.perf_counter()
                if per_s and due_s > now_s:
                    await asyncio.sleep(due_s - now_s)
                elif not per_s:
                    due_s = now_s
                if due_s - begun_s >= seconds:
                    return
                await self._submit(reader, writer)
                found.append(1e3 * (time.perf_counter() - due_s))
                due_s += step_s
        finally:
            writer.close()

    async def _submit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        body = json.dumps({"name": f"job-{self._count}", **_JOB}).encode()
        head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
        head += f"Authorization: Bearer {self._token}\r\nIdempotency-Key: {self._count}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        told = await reader.readexactly(length)
        if not answer.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(f"a job was not submitted: {told.decode()}")


@contextmanager
def opened(log_level: str = "info") -> Iterator[Door]:
    """A server in a process of its own, with one agent."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, folder, log_level], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            if not any(line.startswith("serving on") for line in process.stdout):
                raise RuntimeError("the server did not start")
            told = json.loads((Path(folder) / "endpoint.json").read_text())
            yield Door(told["url"], told["token"], told["pid"])
        finally:
            process.terminate()
            process.wait(timeout=60)
            process.stdout.close()
