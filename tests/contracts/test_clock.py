"""What every clock promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from orchestrator.clock import VirtualClock, WallClock
from orchestrator.errors import ConfigurationError
from orchestrator.ports import Clock

_Pass = Callable[[Clock, int], Awaitable[None]]


async def _advance(clock: Clock, until_ms: int) -> None:
    assert isinstance(clock, VirtualClock)
    await clock.advance_to(until_ms)


async def _live(clock: Clock, until_ms: int) -> None:
    await asyncio.sleep(max(0, until_ms - clock.now_ms()) / 1000 + 0.02)


@pytest.fixture(params=["virtual", "wall"])
def time(request: pytest.FixtureRequest) -> tuple[Clock, _Pass]:
    if request.param == "virtual":
        return VirtualClock(1000), _advance
    return WallClock(), _live


async def test_a_callback_happens_when_it_is_due(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    start_ms, seen = clock.now_ms(), []
    clock.call_at(start_ms + 20, lambda: seen.append(clock.now_ms()))
    await let_pass(clock, start_ms + 5)
    assert seen == [] or seen[0] >= start_ms + 20  # real time may have run on
    await let_pass(clock, start_ms + 40)
    assert len(seen) == 1
    assert seen[0] >= start_ms + 20


async def test_what_is_due_earlier_happens_earlier(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    start_ms, seen = clock.now_ms(), []
    for delay_ms in (30, 10, 20):
        clock.call_at(start_ms + delay_ms, lambda d=delay_ms: seen.append(d))  # type: ignore[misc]
    await let_pass(clock, start_ms + 50)
    assert seen == [10, 20, 30]


async def test_a_coroutine_function_may_be_called(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    seen: list[str] = []

    async def callback() -> None:
        await asyncio.sleep(0)
        seen.append("called")

    clock.call_at(clock.now_ms(), callback)
    await let_pass(clock, clock.now_ms() + 10)
    assert seen == ["called"]


async def test_a_cancelled_callback_does_not_happen(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    seen: list[str] = []
    timer = clock.call_at(clock.now_ms() + 5, lambda: seen.append("called"))
    timer.cancel()
    timer.cancel()
    await let_pass(clock, clock.now_ms() + 10)
    assert seen == []


async def test_cancelling_too_late_is_fine(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    seen: list[str] = []
    timer = clock.call_at(clock.now_ms(), lambda: seen.append("called"))
    await let_pass(clock, clock.now_ms() + 10)
    timer.cancel()
    assert seen == ["called"]


async def test_the_past_is_as_soon_as_possible(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    seen: list[str] = []
    clock.call_at(clock.now_ms() - 500, lambda: seen.append("called"))
    await let_pass(clock, clock.now_ms() + 10)
    assert seen == ["called"]


async def test_a_sleeper_wakes_when_it_is_time(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    start_ms, woken = clock.now_ms(), []

    async def sleeper() -> None:
        await clock.sleep_until(start_ms + 20)
        woken.append(clock.now_ms())
        await clock.sleep_until(start_ms)  # has passed

    task = asyncio.create_task(sleeper())
    await let_pass(clock, start_ms + 40)
    await asyncio.wait_for(task, 1.0)
    assert woken[0] >= start_ms + 20


async def test_time_does_not_go_back(time: tuple[Clock, _Pass]) -> None:
    clock, let_pass = time
    before_ms = clock.now_ms()
    await let_pass(clock, before_ms + 3)
    await let_pass(clock, before_ms)
    assert clock.now_ms() >= before_ms + 3


# --- of the virtual clock -------------------------------------------------------------------------


async def test_an_instant_goes_by_order_then_by_sequence() -> None:
    clock, seen = VirtualClock(), []
    for name, order in (("c", 2), ("a", 0), ("d", 2), ("b", 1)):
        clock.call_at(7, lambda n=name: seen.append(n), order=order)  # type: ignore[misc]
    await clock.advance_to(7)
    assert seen == ["a", "b", "c", "d"]


async def test_what_is_added_to_an_instant_still_belongs_to_it() -> None:
    clock, seen = VirtualClock(), []

    def first() -> None:
        seen.append("first")
        clock.call_at(5, lambda: seen.append("added"), order=1)

    clock.call_at(5, first)
    clock.call_at(5, lambda: seen.append("last"), order=2)
    await clock.advance_to(5)
    assert seen == ["first", "added", "last"]
    assert clock.now_ms() == 5


async def test_a_callback_is_finished_before_the_next_one() -> None:
    clock, seen = VirtualClock(), []

    async def slow() -> None:
        for turn in range(3):
            await asyncio.sleep(0)
            seen.append(turn)

    clock.call_at(1, slow)
    clock.call_at(1, lambda: seen.append(99))
    await clock.run_until_idle()
    assert seen == [0, 1, 2, 99]


async def test_cancelled_timers_do_not_move_time() -> None:
    clock = VirtualClock()
    clock.call_at(1000, lambda: None).cancel()
    await clock.run_until_idle()
    assert clock.now_ms() == 0


async def test_a_sleeper_acts_before_time_goes_on() -> None:
    clock, seen = VirtualClock(), []

    async def sleeper() -> None:
        for due_ms in (10, 20):
            await clock.sleep_until(due_ms)
            seen.append((clock.now_ms(), "sleeper"))

    task = asyncio.create_task(sleeper())
    clock.call_at(10, lambda: seen.append((10, "after")), order=1)
    clock.call_at(15, lambda: seen.append((15, "between")))
    await clock.run_until_idle()
    await task
    assert seen == [(10, "sleeper"), (10, "after"), (15, "between"), (20, "sleeper")]


async def test_a_cancelled_sleeper_leaves_no_timer() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep_until(1000))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await clock.run_until_idle()
    assert clock.now_ms() == 0


async def test_time_cannot_be_advanced_from_within() -> None:
    clock = VirtualClock()
    clock.call_at(1, lambda: clock.advance_to(5))
    with pytest.raises(ConfigurationError, match="sleep_until"):
        await clock.run_until_idle()


async def test_an_error_in_a_callback_is_not_lost() -> None:
    clock = VirtualClock()

    async def fail() -> None:
        raise ValueError("broken")

    clock.call_at(1, fail)
    with pytest.raises(ValueError, match="broken"):
        await clock.run_until_idle()


# --- of real time ---------------------------------------------------------------------------------


async def test_an_error_in_a_timer_reaches_the_event_loop() -> None:
    clock, heard = WallClock(), []

    async def fail() -> None:
        raise ValueError("broken")

    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    clock.call_at(clock.now_ms(), fail)
    await asyncio.sleep(0.02)
    assert [str(context["exception"]) for context in heard] == ["broken"]
