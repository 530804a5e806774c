"""The request path over HTTP: what it adds to a direct call, and how soon the sick are shut out.

Direct calls, the mesh in the caller's process, its port in another process, and Envoy in the same
run, one after the other for every request, so that they share whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from agents.speed.clock import Measure
from agents.speed.live.servers import SERVICE, Envoy, Server, new_mesh, place_of, run_fast
from agents.speed.workbench import UnavailableError, Workbench
from orchestrator.errors import ServiceError
from orchestrator.mesh import HttpTransport
from orchestrator.worker.inference.http import HttpExchange

__all__ = ["REQUESTS"]

_WARM = 300  # requests
_CLIENTS, _GAP_S = 4, 0.002  # while something is sick
_SETTLE_S = 0.5
_GIVE_UP_MS = 5000.0


@dataclass(frozen=True)
class _Times:
    """Seconds that requests took, by way: direct, mesh, port, envoy if it is there."""

    plain: dict[str, np.ndarray]
    streamed: dict[str, np.ndarray]
    no_envoy: str

    def added_ms(self, way: str, percentile: float, *, streamed: bool) -> float:
        times = self.streamed if streamed else self.plain
        own, direct = (np.percentile(times[name], percentile) for name in (way, "direct"))
        return float(1000.0 * (own - direct))


@cache
def _times(requests: int) -> _Times:
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        backends = [stack.enter_context(closing(Server("backend"))) for _ in range(2)]
        addresses = [backend.address for backend in backends]
        port = stack.enter_context(closing(Server("port", *addresses)))
        envoy, why = "", ""
        try:
            envoy = stack.enter_context(closing(Envoy(addresses, Path(folder)))).address
        except UnavailableError as error:
            why = str(error)

        async def measure() -> _Times:
            plain = await _ask_all(addresses, port.address, envoy, "/x", requests)
            streamed = await _ask_all(addresses, port.address, envoy, "/stream", requests // 2)
            return _Times(plain, streamed, why)

        found = run_fast(measure)
        assert isinstance(found, _Times)
        return found


async def _ask_all(
    backends: Sequence[str], port: str, envoy: str, path: str, requests: int
) -> dict[str, np.ndarray]:
    """Ask each way in turn, again and again."""
    transport = HttpTransport(place_of)
    mesh, prober = new_mesh(backends)
    direct, through = HttpExchange("GET", path), HttpExchange("GET", f"/{SERVICE}{path}")

    async def by_mesh() -> object:
        prober.attend(SERVICE)
        return await mesh.route(SERVICE, direct)

    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "direct": lambda: transport(backends[0], direct),
        "mesh": by_mesh,
        "port": lambda: transport(port, through),
    }
    if envoy:
        ways["envoy"] = lambda: transport(envoy, direct)
    times = {name: np.empty(requests) for name in ways}
    for k in range(-_WARM, requests):
        for name, ask in ways.items():
            begun = time.perf_counter()
            answer = await ask()
            await answer.read()  # type: ignore[attr-defined]
            times[name][max(k, 0)] = time.perf_counter() - begun
    await prober.stop()
    await transport.close()
    return times


def _added(bench: Workbench, way: str, percentile: float) -> Measure:
    times = _times(bench.requests)
    if way not in times.plain:
        raise UnavailableError(times.no_envoy)
    plain = times.added_ms(way, percentile, streamed=False)
    streamed = times.added_ms(way, percentile, streamed=True)
    direct = 1000.0 * float(np.percentile(times.plain["direct"], percentile))
    note = f"p{percentile:g}, added to a direct call of {direct:.3f} ms; in pieces {streamed:.3f}"
    return Measure(plain, "ms", min(plain, streamed), max(plain, streamed), note)


def request_mesh(bench: Workbench) -> Measure:
    """What the mesh adds to a request over HTTP in the caller's process, median."""
    return _added(bench, "mesh", 50.0)


def request_mesh_tail(bench: Workbench) -> Measure:
    """The same, 99th percentile."""
    return _added(bench, "mesh", 99.0)


def request_port(bench: Workbench) -> Measure:
    """What the mesh's port, in a process of its own, adds to a request, median."""
    return _added(bench, "port", 50.0)


def request_port_tail(bench: Workbench) -> Measure:
    """The same, 99th percentile."""
    return _added(bench, "port", 99.0)


def request_envoy(bench: Workbench) -> Measure:
    """What Envoy adds, before the same backends in the same run, median."""
    return _added(bench, "envoy", 50.0)


def request_envoy_tail(bench: Workbench) -> Measure:
    """The same, 99th percentile."""
    return _added(bench, "envoy", 99.0)


@dataclass(frozen=True)
class _Sickness:
    took_ms: float
    asked: int
    failed: int


def _shut_out(mode: str) -> _Sickness:
    """How long a backend is sick until it gets no requests, and what callers notice."""
    with ExitStack() as stack:
        backends = [stack.enter_context(closing(Server("backend"))) for _ in range(3)]
        found = run_fast(lambda: _watch_sick(backends, mode))
        assert isinstance(found, _Sickness)
        return found


async def _watch_sick(backends: Sequence[Server], mode: str) -> _Sickness:
    addresses = [backend.address for backend in backends]
    mesh, prober = new_mesh(addresses)
    outcomes: list[bool] = []
    stopping = False

    async def insist() -> None:
        while not stopping:
            prober.attend(SERVICE)
            try:
                answer = await mesh.route(SERVICE, HttpExchange("GET", "/x"))
                await answer.read()
                outcomes.append(True)
            except ServiceError:
                outcomes.append(False)
            await asyncio.sleep(_GAP_S)

    clients = [asyncio.ensure_future(insist()) for _ in range(_CLIENTS)]
    await asyncio.sleep(_SETTLE_S)
    sick = addresses[0]
    begun = time.perf_counter()
    if mode == "killed":
        backends[0].kill()
    else:
        await HttpTransport(place_of)(sick, HttpExchange("GET", f"/be/{mode}"))
    took_ms = 0.0
    while sick in mesh.discover(SERVICE) and took_ms < _GIVE_UP_MS:
        await asyncio.sleep(0.0005)
        took_ms = 1000.0 * (time.perf_counter() - begun)
    await asyncio.sleep(_SETTLE_S)
    stopping = True
    await asyncio.gather(*clients)
    await prober.stop()
    return _Sickness(took_ms, len(outcomes), outcomes.count(False))


def _detected(bench: Workbench, mode: str) -> Measure:
    found = [_shut_out(mode) for _ in range(bench.repeats)]
    times = [one.took_ms for one in found]
    asked, failed = sum(one.asked for one in found), sum(one.failed for one in found)
    note = f"probes each 15 ms, silent after 20; {failed} of {asked} requests failed"
    return Measure(float(np.median(times)), "ms", min(times), max(times), note)


def sick_answers(bench: Workbench) -> Measure:
    """A backend answers 503: until it gets no requests, over HTTP, four clients."""
    return _detected(bench, "503")


def sick_killed(bench: Workbench) -> Measure:
    """The same when it is killed."""
    return _detected(bench, "killed")


def sick_hung(bench: Workbench) -> Measure:
    """The same when it takes requests and does not answer."""
    return _detected(bench, "hung")


REQUESTS: tuple[Callable[[Workbench], Measure], ...] = (
    request_mesh,
    request_mesh_tail,
    request_port,
    request_port_tail,
    request_envoy,
    request_envoy_tail,
    sick_answers,
    sick_killed,
    sick_hung,
)
"""All of them, as they are listed."""
