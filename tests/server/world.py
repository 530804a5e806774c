"""A server over a simulated cluster, asked in memory; and a real one, asked by HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from orchestrator.clock import VirtualClock
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.server.app import create_app
from orchestrator.server.guard.gate import Limits
from orchestrator.server.guard.repeats import Repeats
from orchestrator.server.guard.tokens import Role, TokenStore
from orchestrator.server.parts import Parts, Streams
from orchestrator.types import NodeSpec

SHAPE = ClusterShape(envs=1, jobs=256, workers=16, nodes=16, devices=8, tenants=32)
GENEROUS = Limits(requests_per_s=0.0)  # no limit


@dataclass
class World:
    """A simulated cluster behind an application."""

    clock: VirtualClock
    orchestrator: InfrastructureOrchestrator
    parts: Parts
    app: Any
    texts: dict[Role, str] = field(default_factory=dict)

    def client(self, role: Role | None = Role.OPERATOR, **headers: str) -> httpx.AsyncClient:
        """Somebody with a token of a role; None: without one."""
        if role is not None:
            headers["Authorization"] = f"Bearer {self.texts[role]}"
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers)


def nodes(count: int = 2, gpus: int = 4) -> list[NodeSpec]:
    """Nodes that are alike."""
    return [NodeSpec(f"n{k}", gpus, 80.0, 16, 64.0, 10.0, "NVLink") for k in range(count)]


@asynccontextmanager
async def world(
    limits: Limits = GENEROUS, folder: Path | None = None, **given: Any
) -> AsyncIterator[World]:
    """A cluster of two nodes on a clock that is advanced by hand, and its application."""
    clock = VirtualClock(1_000_000)
    options: dict[str, Any] = {"shape": SHAPE, "nodes": nodes(), "schedule_on_events": True}
    orchestrator = InfrastructureOrchestrator(*in_memory(clock), clock=clock, **(options | given))
    await orchestrator.start()
    tokens = TokenStore(None if folder is None else folder / "tokens.json", clock)
    repeats = Repeats(None if folder is None else folder / "requests.jsonl")
    parts = Parts(orchestrator, tokens, repeats, Streams(limits.streams, tokens), limits)
    made = World(clock, orchestrator, parts, create_app(parts))
    made.texts = {role: tokens.create(role.name.lower(), role) for role in Role}
    try:
        yield made
    finally:
        parts.streams.close()
        repeats.close()
        await orchestrator.stop()


async def until(condition: Callable[[], bool], most_s: float = 10.0) -> None:
    """Wait until something holds."""
    for _ in range(round(most_s / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about in time")


def job(name: str = "job", **fields: Any) -> dict[str, Any]:
    """A body that submits a job."""
    return {"name": name, "command": ["true"], **fields}


def problem(answer: httpx.Response) -> dict[str, Any]:
    """A problem, which has the form of one."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    told: dict[str, Any] = json.loads(answer.text)
    assert {"type", "title", "status", "detail", "instance"} <= set(told)
    assert told["status"] == answer.status_code
    return told


__all__ = ["GENEROUS", "SHAPE", "World", "job", "nodes", "problem", "until", "world"]
