"""The twin's own process: the same answers and the same errors, and the event loop is free."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest

from orchestrator.clock import WallClock
from orchestrator.errors import TwinError, UnknownEntityError
from orchestrator.foundations import in_memory
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.rules import RULES
from orchestrator.twin.aside import Inquiry, TwinProcess
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import LEAST_FUTURES, TwinConfig
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.supposed import Suppose
from tests.engine.builders import SHAPE, Stage, job, node, stage

FEW = TwinConfig(futures=12)
_T = TypeVar("_T")


async def crowded() -> Stage:
    """Four jobs run, and two wait."""
    here = stage(node("a"), schedule_on_events=True)
    await here.orchestrator.start()
    for k in range(6):
        await here.orchestrator.submit_job(job(f"job-{k}"))
    await here.wait(1)
    return here


def asked(here: Stage, question: Callable[[Twin], _T], config: TwinConfig = FEW) -> Inquiry[_T]:
    """A question about a cluster as it is."""
    engine, now_ms = here.orchestrator.engine, here.clock.now_ms()
    return Inquiry(engine.image(), Cast(RULES["priority"]), now_ms, config, question)


def hang(twin: Twin) -> None:
    """Never answers."""
    time.sleep(3600)


def end(twin: Twin) -> None:
    """Ends the process that thinks."""
    os.kill(os.getpid(), signal.SIGKILL)


QUESTIONS: tuple[Callable[[Twin], Any], ...] = (
    partial(Twin.when, job_id="job-4"),
    Twin.starts,
    partial(Twin.why, job_id="job-5"),
    partial(Twin.what_if, suppose=Suppose(cancel=("job-0",))),
)


async def test_it_answers_as_a_twin_in_this_process_does() -> None:
    here, aside = await crowded(), TwinProcess()
    try:
        for question in QUESTIONS:
            inquiry = asked(here, question)
            assert await aside.ask(inquiry) == inquiry.answer()
        with pytest.raises(UnknownEntityError, match="no job 'nobody'"):
            await aside.ask(asked(here, partial(Twin.when, job_id="nobody")))
        assert await aside.ask(asked(here, Twin.starts))  # an error is an answer: it lives on
    finally:
        await aside.close()


async def test_the_event_loop_goes_on_while_it_thinks() -> None:
    here, aside = await crowded(), TwinProcess()
    gaps = list[float]()

    async def beat() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - before)

    try:
        await aside.ask(asked(here, Twin.starts))  # it has started, and its kernels are loaded
        beating = asyncio.create_task(beat())
        begun = time.monotonic()
        await aside.ask(asked(here, Twin.starts, TwinConfig(futures=2000)))
        took = time.monotonic() - begun
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
    finally:
        await aside.close()
    assert sum(gaps) > 0.5 * took  # it never stood still for long: a thread would take the lock
    assert len(gaps) > 20


async def test_a_process_that_hangs_or_ends_is_an_error_and_the_next_question_is_answered() -> None:
    here, aside = await crowded(), TwinProcess()
    impatient = TwinProcess(most_s=0.2)
    try:
        with pytest.raises(TwinError, match="has ended before it answered"):
            await aside.ask(asked(here, end))
        assert await aside.ask(asked(here, Twin.starts))
        with pytest.raises(TwinError, match=r"no answer in 0\.2 s; ask for fewer futures"):
            await impatient.ask(asked(here, hang))
        waits = asyncio.create_task(aside.ask(asked(here, hang)))
        await asyncio.sleep(0.1)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert await aside.ask(asked(here, Twin.starts))
    finally:
        await aside.close()
        await impatient.close()


async def test_a_live_orchestrator_asks_a_process_and_ends_it_when_it_stops() -> None:
    clock = WallClock()
    live = InfrastructureOrchestrator(
        *in_memory(clock), clock=clock, shape=SHAPE, nodes=[node("a")], schedule_on_events=True
    )
    await live.start()
    for k in range(6):
        await live.submit_job(job(f"job-{k}"))
    await asyncio.sleep(0.1)
    thinker = live._thinker
    assert isinstance(thinker, TwinProcess)
    assert set(await live.starts(FEW)) == {"job-4", "job-5"}
    assert thinker._child is not None
    pid = thinker._child.pid
    os.kill(pid, 0)
    await live.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_when_time_is_up_fewer_futures_are_played_and_it_says_so() -> None:
    here = await crowded()
    hurried = asked(here, partial(Twin.when, job_id="job-4"), replace(FEW, seconds=0.0)).answer()
    assert hurried.sources.futures == LEAST_FUTURES
    whole = asked(here, partial(Twin.when, job_id="job-4"), replace(FEW, seconds=60.0)).answer()
    assert whole.sources.futures == FEW.futures
    suppose = partial(Twin.what_if, suppose=Suppose(cancel=("job-0",)))
    told = asked(here, suppose, replace(FEW, seconds=0.0)).answer()
    assert told.sources.futures == LEAST_FUTURES


async def test_a_question_can_be_sent() -> None:
    here = await crowded()
    for question in QUESTIONS:
        inquiry = asked(here, question)
        assert pickle.loads(pickle.dumps(inquiry, 5)).answer() == inquiry.answer()
