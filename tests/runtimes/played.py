"""Agents played by hand, where what they say, and when, is the point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from orchestrator.node.protocol import (
    VERSION,
    Address,
    Beat,
    Fence,
    Hello,
    Line,
    Renewed,
    Seen,
    ToAgent,
    Welcome,
)
from tests.runtimes.stage import Stage


async def agent(
    stage: Stage,
    node: str,
    *workers: Seen,
    boot: str = "boot",
    sent_ms: int = 5,
    fence: Fence = (-1, -1),
) -> Line:
    """An agent that is taken, and has these workers."""
    line = Line(*await Address.parse(stage.runtime.address).connect())
    me = node, boot, "127.0.0.1", 1, sent_ms, fence
    line.send(Hello(VERSION, stage.runtime.token, *me, workers))
    assert isinstance(await line.for_agent(), Welcome)
    return line


async def told(line: Line) -> ToAgent | None:
    """What an agent is told next, but for the answers to its beats."""
    async with asyncio.timeout(10.0):
        while isinstance(said := await line.for_agent(), Renewed):
            pass
    return said


async def silent(line: Line, for_s: float = 0.3) -> bool:
    """Whether an agent is told nothing for a while."""
    try:
        said = await asyncio.wait_for(told(line), for_s)
    except TimeoutError:
        return True
    raise AssertionError(f"it was told {said}")


@asynccontextmanager
async def beating(*lines: Line) -> AsyncIterator[None]:
    """These agents show that they are alive, as long as their lines are."""

    async def beat() -> None:
        while True:
            for line in lines:
                line.send(Beat(5))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


def seen(rank: int, **fields: Any) -> Seen:
    """A worker of run 1 of job a, which has two."""
    made = Seen("a", 1, rank, rank, rank, 2, 0, (0,), False, False)
    return msgspec.structs.replace(made, **fields)
