"""Every wait for an agent has somebody who ends it, whatever was lost on the way.

Agents are played by hand; what they say, and when, is the point.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.kernels.state.codes import JobKind
from orchestrator.messages import (
    Event,
    RegroupJob,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
    WorkerExited,
    WorkerPlacement,
    WorkersLost,
)
from orchestrator.node.protocol import (
    VERSION,
    Address,
    Cause,
    Ended,
    Halt,
    Hello,
    Knows,
    Launch,
    Line,
    Report,
    World,
)
from tests.runtimes.played import agent, beating, seen, silent, told
from tests.runtimes.stage import Stage, until

_ONE, _TWO = (("n5", (0,)),), (("n5", (0,)), ("n6", (0,)))
_STOP, _SAVE = StopJob("a", 1, StopReason.INTERRUPTED, 0), SaveCheckpoint("a", 1, 1, 0)
_SOON = {"lease_s": 0.3, "grace_s": 0.05}  # after 1.3 s it is certain that nobody runs unseen


def _start(stage: Stage, places: Any = _ONE, run: int = 1, **fields: Any) -> StartJob:
    return stage.start("a", ("true",), places, run, **fields)


async def _launched(line: Line, run: int = 1) -> Launch:
    order = await told(line)
    assert isinstance(order, Launch)
    assert order.run == run
    return order


def _ended(worker: int, run: int = 1, cause: str = Cause.SIGNAL, **fields: Any) -> Report:
    code = 0 if cause == Cause.EXIT else 137
    return Report(1 + worker, Ended("a", run, worker, worker, 2, code, cause, **fields))


# --- the next run of a job ------------------------------------------------------------------------


async def test_a_worker_that_never_began_of_a_run_that_is_being_reported_keeps_nobody_waiting(
    stage: Stage,
) -> None:
    """Its start is lost with the line, its agent is back before the run's loss is in the log."""
    await stage.open()

    async def later(event: Event) -> bool:
        stage.events.append(event)
        return False

    stage.runtime.bind(later)
    lines = [await agent(stage, "n5"), await agent(stage, "n6")]
    stage.runtime.carry_out((_start(stage, _TWO),))
    for line in lines:
        await _launched(line)
    lines[1].send(_ended(1))
    await until(lambda: stage.events)
    lines[0].close()  # it has not read what it was told
    lines[0] = await agent(stage, "n5")
    stage.runtime.carry_out((_STOP, _start(stage, run=2)))
    await _launched(lines[0], run=2)
    for line in lines:
        line.close()


@pytest.mark.parametrize("stage", [_SOON], indirect=True)
async def test_who_is_told_to_end_and_says_nothing_is_asked_whom_it_has(stage: Stage) -> None:
    await stage.open()
    line = await agent(stage, "n5")
    async with beating(line):
        stage.runtime.carry_out((_start(stage),))
        await _launched(line)
        stage.runtime.carry_out((_STOP, _start(stage, run=2)))
        assert isinstance(await told(line), Halt)
        assert await told(line) is None  # the line is ended: nobody waits for ever
    line = await agent(stage, "n5", seen(0))
    assert isinstance(await told(line), Halt)  # it is there
    line.close()
    line = await agent(stage, "n5")
    await _launched(line, run=2)
    line.close()


@pytest.mark.parametrize("stage", [_SOON], indirect=True)
async def test_a_run_of_which_a_former_orchestrator_has_begun_a_part_does_not_stay_so(
    stage: Stage,
) -> None:
    """It waits for what may be left of the run before; on one of its nodes it is begun already."""
    await stage.open()
    other = await agent(stage, "n6")
    async with beating(other):
        stage.runtime.carry_out((_start(stage, _TWO, run=2),))
        line = await agent(stage, "n5", seen(0, run=2))
        async with beating(line):
            assert await silent(other)  # it may be somewhere yet
            await until(lambda: stage.events)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert lost.reason == "a former orchestrator had begun a part of it"
    for one in (line, other):
        one.close()


@pytest.mark.parametrize("stage", [_SOON], indirect=True)
async def test_a_run_that_never_began_says_nothing_about_the_one_before_it(stage: Stage) -> None:
    """Who ran that one may be cut off, and not know yet that it is over."""
    await stage.open()
    line = await agent(stage, "n5")
    async with beating(line):
        stage.runtime.carry_out((_start(stage, run=2), SaveCheckpoint("a", 2, 1, 0)))
        await until(lambda: stage.events)
        assert stage.events == [WorkersLost("a", 2, "it had not begun to run")]
        stage.runtime.carry_out((_start(stage, run=3),))
        assert await silent(line)
        await _launched(line, run=3)  # a lease later
    line.close()


@pytest.mark.parametrize("stage", [_SOON], indirect=True)
async def test_a_run_of_which_not_all_workers_were_seen_is_not_known_to_have_ended(
    stage: Stage,
) -> None:
    await stage.open()
    line = await agent(stage, "n5", seen(0))
    async with beating(line):
        stage.runtime.carry_out((_STOP, _start(stage, run=2)))
        assert isinstance(await told(line), Halt)
        line.send(_ended(0, cause=Cause.HALTED))
        while not isinstance(order := await told(line), Launch):
            assert stage.clock.now_ms() < stage.runtime._certain_ms  # its report is safe
        assert order.run == 2
        assert stage.clock.now_ms() >= stage.runtime._certain_ms
    line.close()


async def test_an_end_of_a_later_run_counts_though_an_earlier_one_was_found_first(
    stage: Stage,
) -> None:
    await stage.open()
    lines = [await agent(stage, "n5", seen(0, size=1)), await agent(stage, "n6")]
    lines[1].send(Report(1, Ended("a", 2, 0, 0, 1, 0, Cause.EXIT)))
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 2)]
    for line in lines:
        line.close()


# --- what is told again ---------------------------------------------------------------------------


async def test_who_was_told_to_end_for_others_is_told_again_or_was_never_there(
    stage: Stage,
) -> None:
    await stage.open()
    line = await agent(stage, "n5")
    stage.runtime.carry_out((_start(stage),))
    await _launched(line)
    stage.runtime.carry_out((_SAVE,))
    for _ in range(2):  # each is lost with its line
        order = await told(line)
        assert isinstance(order, Halt)
        assert "its place is needed" in order.reason
        line.close()
        line = await agent(stage, "n5", seen(0))
    line.close()
    line = await agent(stage, "n5")
    await until(lambda: stage.events)
    assert stage.events == [WorkersLost("a", 1, "it had not begun to run")]
    line.close()


async def test_who_has_missed_that_the_workers_are_others_is_told_again(stage: Stage) -> None:
    await stage.open()
    lines = [await agent(stage, "n5"), await agent(stage, "n6")]
    start = _start(stage, _TWO, elastic=True)
    stage.runtime.carry_out((start,))
    for worker, line in enumerate(lines):
        await _launched(line)
        line.send(Report(1, Knows("a", 1, worker)))
    await until(lambda: stage.runtime.knows("a"))
    places = tuple(WorkerPlacement(node, (gpu,)) for node, gpu in (("n5", 0), ("n6", 0), ("n5", 1)))
    stage.runtime.carry_out((RegroupJob("a", 1, start.spec, places, 0, 0, 1000),))
    lines[1].close()  # it does not hear of it
    while not isinstance(await told(lines[0]), Launch):
        pass
    lines[0].send(Report(2, Knows("a", 1, 2)))
    while not isinstance(world := await told(lines[0]), World):
        pass
    lines[1] = await agent(stage, "n6", seen(1, knows=True))
    again = await told(lines[1])
    assert isinstance(again, World)
    assert (again.generation, again.ranks, again.master) == (1, world.ranks, world.master)
    assert again.members == ((1, 1),)
    for line in lines:
        line.close()


async def test_a_world_that_a_former_orchestrator_told_in_part_is_told_anew(stage: Stage) -> None:
    stage.runtime.fence(0, 0)
    await stage.open()
    ahead, behind = seen(0, generation=1, knows=True), seen(1, knows=True)
    lines = [await agent(stage, "n5", ahead), await agent(stage, "n6", behind)]
    for line in lines:
        world = await told(line)
        assert isinstance(world, World)
        assert (world.generation, world.ranks) == (2, (0, 1))
        line.close()


async def test_a_greeting_that_was_overtaken_says_nothing(stage: Stage) -> None:
    """As when a line is given up before it is answered, and what was said on it arrives late."""
    await stage.open()
    line = await agent(stage, "n5", sent_ms=100)
    late = Line(*await Address.parse(stage.runtime.address).connect())
    late.send(Hello(VERSION, stage.runtime.token, "n5", "boot", "127.0.0.1", 1, 50, (-1, -1)))
    assert await told(late) is None
    stage.runtime.carry_out((_start(stage),))
    await _launched(line)
    line.close()
    late.close()


# --- replicas -------------------------------------------------------------------------------------


async def test_a_replica_that_is_renewed_when_the_orchestrator_ends_is_replaced_by_the_next(
    stage: Stage,
) -> None:
    await stage.open()
    line = await agent(stage, "n5")
    start = _start(stage, _TWO, kind=JobKind.SERVICE)
    stage.runtime.carry_out((start,))
    assert (await _launched(line)).replica
    assert stage.runtime.renew("a", ("n5", 0))
    order = await told(line)
    assert isinstance(order, Halt)
    assert order.renews
    line.close()
    await stage.leave()
    await stage.come_back()
    lines = [
        await agent(stage, "n5", seen(0, replica=True, renews=True, halted=True)),
        await agent(stage, "n6", seen(1, replica=True)),
    ]
    lines[0].send(_ended(0, cause=Cause.HALTED, replica=True, renews=True))
    await asyncio.sleep(0.1)  # nobody knows yet what it is that has ended
    assert stage.runtime.observe() == {"a": 1}
    stage.runtime.recall({"a": start.spec})
    while not isinstance(order := await told(lines[0]), Launch):
        pass
    assert (order.run, order.worker, order.gpus) == (1, 2, (0,))
    assert stage.events == []
    for line in lines:
        line.close()
