"""What only one side knows: orders that were lost, runs begun by another, and silent addresses.

Agents are played by hand where what they say, and when, is the point.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.messages import StopJob, StopReason, WorkersLost
from orchestrator.node.protocol import Cause, Ended, Launch, Line, Report, Welcome
from orchestrator.runtimes import LocalAgents
from tests.runtimes.played import agent, beating, seen, told
from tests.runtimes.stage import Stage, until

_TRUE = ("true",)


async def test_a_run_whose_orders_were_lost_with_the_line_keeps_no_other_one_waiting(
    stage: Stage,
) -> None:
    await stage.open()
    places = (("n5", (0,)),)
    line = await agent(stage, "n5")
    stage.runtime.carry_out((stage.start("a", _TRUE, places),))
    assert isinstance(await told(line), Launch)  # it is on its way, and never carried out
    stage.runtime.carry_out((StopJob("a", 1, StopReason.INTERRUPTED, 0),))
    stage.runtime.carry_out((stage.start("a", _TRUE, places, run=2),))
    line.close()
    line = await agent(stage, "n5")
    order = await told(line)
    assert isinstance(order, Launch)
    assert order.run == 2
    line.close()


async def test_a_gang_that_two_orchestrators_began_in_part_begins_anew(stage: Stage) -> None:
    """Its workers were told of different places to meet: they would wait for ever."""
    await stage.open()
    places = (("n5", (0,)), ("n6", (0,)))
    new = await agent(stage, "n5", boot="after one that was killed")
    stage.runtime.carry_out((stage.start("a", _TRUE, places),))
    assert isinstance(await told(new), Launch)
    old = await agent(stage, "n6", seen(1))
    await until(lambda: stage.events)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert lost.reason == "a former orchestrator had begun a part of it"
    new.close()
    old.close()


async def test_a_gang_that_another_orchestrator_began_as_a_whole_goes_on(stage: Stage) -> None:
    await stage.open()
    stage.runtime.carry_out((stage.start("a", _TRUE, (("n5", (0,)), ("n6", (0,)))),))
    lines = [await agent(stage, "n5", seen(0)), await agent(stage, "n6", seen(1))]
    await asyncio.sleep(0.1)
    assert stage.runtime.observe() == {"a": 1}
    assert not stage.events
    for line in lines:
        line.close()


async def test_a_gang_of_which_a_worker_is_ending_does_not_count_without_it(stage: Stage) -> None:
    """As when an agent whose lease was over comes back before its worker is gone."""
    await stage.open()
    places = (("n5", (0,)), ("n6", (0,)))
    lines = [await agent(stage, "n5"), await agent(stage, "n6")]
    stage.runtime.carry_out((stage.start("a", _TRUE, places),))
    for line in lines:
        assert isinstance(await told(line), Launch)
    lines[1].close()
    lines[1] = await agent(stage, "n6", seen(1, halted=True))
    lines[1].send(Report(1, Ended("a", 1, 1, 1, 2, 137, Cause.LEASE)))
    lines[0].send(Report(1, Ended("a", 1, 0, 0, 2, 0, Cause.EXIT)))
    await until(lambda: stage.events)
    assert isinstance(stage.events[0], WorkersLost)
    for line in lines:
        line.close()


async def test_a_run_that_is_lost_is_not_begun_when_an_agent_comes(stage: Stage) -> None:
    """Its loss may be held back for a while; until then it is not to begin in part."""

    async def later(event: object) -> bool:
        stage.events.append(event)
        return False

    stage.options["lease_s"] = 0.2
    stage.runtime = stage.new_runtime()
    await stage.open()
    stage.runtime.bind(later)
    stage.runtime.carry_out((stage.start("a", _TRUE, (("n5", (0,)),)),))
    await until(lambda: stage.events)  # no agent is there
    line = await agent(stage, "n5")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(line.for_agent(), 0.3)
    line.close()


# --- whose absence says something -----------------------------------------------------------------


async def test_an_agent_that_waits_for_a_leader_is_not_missed_before_there_is_one(
    stage: Stage,
) -> None:
    """It hangs up on who does not lead yet, and comes again: that may take longer than patience."""
    await stage.open()
    line = await agent(stage, "n5", seen(0), fence=(4, 9))
    line.close()
    await asyncio.sleep(2.5)  # its node would be dead after 1 s, and after 2 s without a beat
    assert stage.health == []
    stage.runtime.fence(7, 20)
    await asyncio.sleep(0.5)  # the longest pause of an agent between two tries
    line = await agent(stage, "n5", seen(0), fence=(4, 9))
    async with beating(line):
        await asyncio.sleep(1.0)
    assert stage.health == []
    line.close()
    await until(lambda: stage.health)
    assert [(one.node_id, one.alive) for one in stage.health] == [("n5", False)]


async def test_an_agent_that_does_not_come_back_to_a_leader_is_missed(stage: Stage) -> None:
    await stage.open()
    line = await agent(stage, "n5", fence=(4, 9))
    line.close()
    await asyncio.sleep(0.1)
    stage.runtime.fence(7, 20)
    await until(lambda: stage.health)
    assert [(one.node_id, one.alive) for one in stage.health] == [("n5", False)]


async def test_who_comes_while_the_orchestrator_stands_still_is_not_missed(stage: Stage) -> None:
    """As when kernels are compiled just then: it is at the door, and nobody has opened yet."""
    await stage.open()
    stage.runtime.fence(7, 20)
    line = await agent(stage, "n5")
    line.close()
    await until(lambda: not stage.runtime._hub.reaches("n5"))
    come = asyncio.ensure_future(agent(stage, "n5"))
    await asyncio.sleep(0.0)
    time.sleep(1.2)  # noqa: ASYNC251  nothing else is to happen meanwhile
    line = await come
    async with beating(line):
        await asyncio.sleep(0.2)
    assert stage.health == []
    line.close()


async def test_an_address_at_which_somebody_listens_is_not_taken_from_it(
    stage: Stage, tmp_path: Path
) -> None:
    where = f"unix:{tmp_path}/address"
    stage.runtime = stage.new_runtime(address=where)
    await stage.open()
    rival = stage.new_runtime(address=where)
    with pytest.raises(ConfigurationError, match=r"somebody listens at 'unix:.*; end that one"):
        await rival.open()
    line = await agent(stage, "n5")
    line.close()


async def test_an_agent_whose_orchestrator_falls_silent_looks_for_another_one(
    stage: Stage, tmp_path: Path
) -> None:
    """As when it was stopped, or its machine is gone: nobody closes the line."""
    path = tmp_path / "address"
    taken = asyncio.Event()

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        if await line.frame() is not None:
            line.send(Welcome(0, 300, (-1, -1)))
            taken.set()
            await asyncio.sleep(30.0)

    silent = await asyncio.start_unix_server(welcome, str(path))
    stage.runtime = stage.new_runtime(address=f"unix:{path}", token="known")
    agents = LocalAgents(stage.runtime, ["n0"], tmp_path / "agents", beat_s=0.05)
    stage.agents = agents
    await agents.add("n0")
    await asyncio.wait_for(taken.wait(), 10.0)
    path.unlink()  # it lives on, unreachable
    await stage.runtime.open()
    await stage.runtime.wait_for(["n0"], 10.0)
    silent.close()
