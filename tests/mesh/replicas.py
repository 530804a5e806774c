"""Replicas behind a mesh: well, sick or silent, and how long it takes to shut a sick one out."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from orchestrator.clock import VirtualClock, WallClock
from orchestrator.errors import (
    NoHealthyEndpointError,
    RequestRejectedError,
    RetriesExhaustedError,
)
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh import HealthCheck, ProbeSpec, ServiceMesh
from tests.engine.builders import Stage, job, node, stage

NO_PROBES = ProbeSpec(interval_ms=0)


@dataclass
class Replicas:
    """What answers behind addresses, requests and health checks alike."""

    clock: VirtualClock | WallClock
    mode: dict[str, str] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    took_ms: int = 0

    async def __call__(self, address: str, request: object) -> str:
        checked = isinstance(request, HealthCheck)
        (self.checks if checked else self.requests)[address] += 1
        mode = self.mode.get(address, "well")
        if mode == "deaf" and checked:
            raise TypeError("a HealthCheck has no field 'prompt'")
        if mode == "rejects" and checked:
            raise RequestRejectedError("the prompt is empty; write something")
        if mode == "slow" and checked:
            await self.clock.sleep_until(self.clock.now_ms() + 50)
        if mode == "hangs":
            await asyncio.get_running_loop().create_future()
        if mode == "fails":
            raise ConnectionError(f"{address} is sick")
        if self.took_ms and not checked:
            await self.clock.sleep_until(self.clock.now_ms() + self.took_ms)
        return address


async def serve(replicas: int, probing: ProbeSpec | None = None) -> tuple[Stage, Replicas]:
    """A service with default rules, on an orchestrator with default probing unless said so."""
    clock = VirtualClock()
    behind = Replicas(clock)
    s = stage(node("n0", 8), clock=clock, mesh=ServiceMesh(clock, behind, probing=probing))
    await s.orchestrator.submit_job(
        job("llm", kind=JobKind.SERVICE, num_workers=replicas, max_duration_hours=1e4)
    )
    await s.orchestrator.schedule()
    return s, behind


async def ask(s: Stage, gap_ms: int, until_ms: int, lost: list[int] | None = None) -> None:
    """Send a request every so often; when requests failed goes to ``lost``."""

    async def one() -> None:
        try:
            await s.orchestrator.route_request("llm", "prompt")
        except (RetriesExhaustedError, NoHealthyEndpointError):
            if lost is not None:
                lost.append(s.clock.now_ms())

    tasks = []
    while s.clock.now_ms() < until_ms:
        tasks.append(asyncio.ensure_future(one()))
        await s.clock.advance_to(min(s.clock.now_ms() + gap_ms, until_ms))
    for task in tasks:
        if not task.done():
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def detection_ms(
    gap_ms: int, mode: str, *, probing: ProbeSpec | None = None, replicas: int = 2
) -> int:
    """From the sickness of one of some replicas to its being shut out; 20 s if it is not."""
    s, behind = await serve(replicas, probing)
    await ask(s, gap_ms, 2 * gap_ms)
    sick = s.orchestrator.mesh.discover("llm")[0]
    behind.mode[sick] = mode
    asking = [asyncio.ensure_future(s.orchestrator.route_request("llm", "prompt"))]
    began_ms = s.clock.now_ms()
    while sick in s.orchestrator.mesh.discover("llm") and s.clock.now_ms() < began_ms + 20_000:
        await s.clock.advance_to(s.clock.now_ms() + 1)
        if (s.clock.now_ms() - began_ms) % gap_ms == 0:
            asking.append(asyncio.ensure_future(s.orchestrator.route_request("llm", "prompt")))
    took_ms = s.clock.now_ms() - began_ms
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return took_ms
