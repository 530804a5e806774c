"""The scheduling cycle: when a policy is asked, and until when."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Thread
from typing import TypeAlias, cast

from orchestrator.engine.checks import check_message
from orchestrator.engine.engine import Engine, Outcome, Room
from orchestrator.engine.plans import MOST_REFUSALS
from orchestrator.engine.snapshot import Snapshot
from orchestrator.kernels.state.codes import NO_CHANGE_MS, EventKind, Reason
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.live.retry import Persistent
from orchestrator.messages import (
    Action,
    Command,
    Decide,
    Entry,
    Event,
    FleetSeen,
    Plan,
    RegroupJob,
    Review,
    Sizing,
    StartJob,
    Submit,
    Tick,
    Wait,
    WorkerExited,
    WorkersLost,
)
from orchestrator.ports import Clock, Planner, Policy, SizingPolicy
from orchestrator.semantics import Semantics
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["MOST_ACTIONS", "AskAside", "SchedulingCycle", "ask_here"]


Ask: TypeAlias = Callable[[Policy, Snapshot], Awaitable[Plan]]
"""Has a policy decide."""


def _asked(policy: Policy, snapshot: Snapshot) -> Plan:
    """What a policy wants: all that it will want until it waits, if it can say that at once."""
    return policy.plan(snapshot) if isinstance(policy, Planner) else policy.decide(snapshot)


async def ask_here(policy: Policy, snapshot: Snapshot) -> Plan:
    """Ask a policy, while nothing else goes on: the same calls give the same history."""
    return _asked(policy, snapshot)


class AskAside:
    """Asks a policy in a thread of its own, so that requests are answered meanwhile.

    What happens then is not in the snapshot: a plan that has become illegal is refused. One that
    does not answer in time is not asked again before it has.

    Parameters
    ----------
    most_s : float
        How long a policy may take, seconds.
    """

    def __init__(self, most_s: float = 60.0) -> None:
        self._most_s = most_s
        self._asked: Thread | None = None

    async def __call__(self, policy: Policy, snapshot: Snapshot) -> Plan:
        """Ask; raises what the policy raises, and a ``TimeoutError`` if it takes too long."""
        if self._asked is not None and self._asked.is_alive():
            raise TimeoutError("the policy has not answered yet what it was asked before")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Plan] = loop.create_future()

        def settle(plan: Plan | None, error: Exception | None) -> None:
            if answer.done():
                return  # nobody waits any more
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(cast(Plan, plan))

        def work() -> None:
            plan, problem = None, None
            try:
                plan = _asked(policy, snapshot)
            except Exception as error:
                # A future cannot raise that one.
                problem = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, plan, problem)

        self._asked = Thread(target=work, name="policy", daemon=True)
        self._asked.start()
        try:
            if not (await asyncio.wait([answer], timeout=self._most_s))[0]:
                raise TimeoutError(f"the policy took more than {self._most_s:g} s")
        finally:
            answer.cancel()  # if there is none, nobody waits for it any more
        self._asked = None
        return answer.result()


MOST_ACTIONS = 128
"""Actions of one entry: more of a plan go into the next ones, so that requests have their turn."""


_AFTER_EVENTS = int(EventKind.NONE)  # order on the clock: when all of an instant has happened


_log = logging.getLogger(__name__)


def crowded(semantics: Semantics | None = None) -> Engine:
    """A small cluster at a decision point: two jobs wait, and there is room for one."""
    node = NodeSpec("warm", 1, 1.0, 1, 1.0, 1.0, "PCIe")
    shape = ClusterShape(envs=1, jobs=2, workers=1, nodes=1, devices=1)
    engine = Engine(shape, nodes=(node,), semantics=semantics)
    for name in _CROWD:  # a policy is asked where there is a choice
        spec = JobSpec(name, name, JobPriority.BATCH, 1, 1, 0.0, 1.0, 1)
        engine.handle(Entry(0, Submit(spec)))
    engine.handle(Entry(0, Review()))
    return engine


_CROWD = ("warm", "warm too")


def load_kernels(policy: Policy, semantics: Semantics | None = None) -> None:
    """Let a small cluster live through two jobs under a policy.

    Its first decision makes a process load compiled kernels, or compile them: better before anybody
    waits for a place, and keeps the event loop.
    """
    engine = crowded(semantics)
    for _ in _CROWD:
        if engine.decision_open:
            engine.handle(Entry(0, Decide(_asked(policy, engine.snapshot()))))
    for name, run in engine.placed().items():
        engine.handle(Entry(0, WorkersLost(name, run)))
    engine.handle(Entry(0, Review()))
    if isinstance(policy, SizingPolicy):
        engine.handle(Entry(0, _tick()))
    if engine.decision_open:
        engine.handle(Entry(0, Decide(_asked(policy, engine.snapshot()))))
    for name, run in engine.placed().items():
        engine.handle(Entry(0, WorkerExited(name, run)))


def _tick() -> Tick:
    """One of a cluster without services, and with a fleet to which nothing can be done."""
    sizing = Sizing(1.0, 1.0, 0.0, 0, 1, 0, 0, 0, 0)
    return Tick(1000, (), FleetSeen(None, 0, 0, 0, sizing, NO_CHANGE_MS, 0))


class SchedulingCycle:
    """Asks a policy and has its plans carried out, until nothing is left to decide or it waits.

    Parameters
    ----------
    engine : Engine
        The cluster.
    clock : Clock
        Time.
    policy : Policy
        Who decides; may be replaced between two cycles.
    propose : coroutine function
        Logs and applies a command.
    on_events : bool
        Run by itself, once everything of an instant has happened.
    review_ms : int or None
        With ``on_events``: how long a preempted job that nothing else happens to waits for its
        next chance; None: until something happens.
    fallback : Policy
        Decides where the policy raises an error, or returns what is no plan.
    may_act : callable
        Whether it may run by itself: False once somebody else leads.
    ask : coroutine function
        How a policy is asked: :func:`ask_here` or an :class:`AskAside`.
    delay_ms : int
        With ``on_events``: how long after something happened it runs. What happens meanwhile is
        decided with it.

    Attributes
    ----------
    policy_errors : int
        How often the policy failed.
    last_policy_error : str
        How it did last, or ``""``.
    took : callable
        Told of every cycle, how many seconds it took.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        policy: Policy,
        propose: Callable[[Command | Event], Awaitable[Outcome]],
        *,
        on_events: bool,
        review_ms: int | None,
        fallback: Policy,
        may_act: Callable[[], bool],
        ask: Ask,
        delay_ms: int = 0,
    ) -> None:
        self.policy = policy
        self.policy_errors = 0
        self.last_policy_error = ""
        self.took: Callable[[float], object] = lambda seconds: None
        self._fallback = fallback
        self._may_act, self._ask = may_act, ask
        self._reviewing = Persistent("a scheduling cycle", self._run_by_itself, clock)
        self.on_events = on_events
        self._engine = engine
        self._clock = clock
        self._propose = propose
        self._review_ms, self._delay_ms = review_ms, delay_ms
        self._armed = False  # a cycle is due at this instant
        self._reviews = False  # one is due later, whatever happens
        self._joins_ms = -1  # and another one, for workers that may not join before
        self._lock = asyncio.Lock()
        self._room = Room()
        self._ahead: deque[Plan] = deque()  # what is planned and not proposed yet
        self._ahead_at = 0  # entries that were applied when it was up to date

    @property
    def errors(self) -> int:
        """How often a cycle ended with an error, and was run again."""
        return self._reviewing.errors

    async def react(self) -> None:
        """Something happened: schedule, now or when all of this instant has happened."""
        if not (self.on_events and self._can_act()):
            return
        if self._engine.semantics.commitment:  # every event is a decision point by itself
            await self._reviewing.run()
        else:
            self._arm()

    def note(self, outcome: Outcome) -> None:
        """An entry was applied: who logged it may have lost the answer, and will not react."""
        open_now = self._engine.decision_open if self._engine.semantics.commitment else False
        asked = any(note.cause == "command" for note in outcome.notes)
        if self.on_events and (self._engine.happened or open_now or asked):
            self._arm()

    def _can_act(self) -> bool:
        """Whether nobody else is known to lead; if the log cannot be read, the cycle will know."""
        try:
            return self._may_act()
        except Exception:
            _log.exception("the log does not say who leads")
            return True

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            due_ms = self._clock.now_ms() + self._delay_ms
            self._clock.call_at(due_ms, self._review, order=_AFTER_EVENTS)

    async def run(self, *, review: bool) -> list[tuple[str, str]]:
        """Run a cycle; (job, node) of every worker that started. ``review``: open a point first."""
        async with self._lock:
            begun_s, started = time.perf_counter(), list[tuple[str, str]]()
            if review:
                started += _starts(await self._propose(Review()))
            refusals = 0
            while self._engine.decision_open:
                plan, outcome = await self._decide()
                started += _starts(outcome)
                if outcome.reason != Reason.OK:
                    refusals += 1
                    _log.warning("refused (%s): %s", outcome.reason.name.lower(), plan)
                if refusals > MOST_REFUSALS:
                    await self._propose(Decide(Plan((Wait(),))))
                await asyncio.sleep(0)  # requests are not kept waiting by what is still to decide
            started += await self._let_join()
            self.took(time.perf_counter() - begun_s)
        self._review_later()
        return started

    async def act(self, action: Action) -> Outcome:
        """Carry out an action that the policy was not asked for, at a decision point of its own."""
        async with self._lock:
            await self._propose(Review())
            if not self._engine.decision_open:
                return Outcome(reason=Reason.NOTHING_TO_WAIT_FOR)
            return await self._propose(Decide(Plan((action,))))

    async def _let_join(self) -> list[tuple[str, str]]:
        """Workers that were missing of jobs that are no gangs start where room was left."""
        joined = []
        for action in self._engine.late_workers():
            there = len(self._engine.workers_of(action.job_id))
            outcome = await self._propose(Decide(Plan((action,))))
            for effect in outcome.effects:
                if isinstance(effect, RegroupJob):
                    joined += [(effect.job_id, new.node_id) for new in effect.workers[there:]]
        due_ms = self._engine.next_join_ms()
        if self.on_events and due_ms is not None and due_ms != self._joins_ms:
            self._joins_ms = due_ms
            self._clock.call_at(due_ms, self._review_late, order=_AFTER_EVENTS)
        return joined

    async def resume(self) -> None:
        """Take up what was left when the orchestrator before this one ended."""
        if isinstance(self._ask, AskAside):
            await asyncio.to_thread(load_kernels, self._fallback)
        if self._engine.undecided:
            await self.react()
        else:
            self._review_later()

    async def _decide(self) -> tuple[Plan, Outcome]:
        """What the policy wants, or the fallback where it fails, and what came of it."""
        if self._ahead and self._ahead_at == self._engine.applied:
            return await self._go_on()
        plan: Plan | None = None
        applied, policy = self._engine.applied, self.policy
        try:
            plan = await self._ask(policy, self._engine.snapshot(self._room))
            check_message(Decide(plan))
        except Exception as error:
            self.policy_errors += 1
            self.last_policy_error = f"{type(error).__name__}: {error}"
            self._room = Room()  # who failed may still be at work in it
            if isinstance(plan, Plan):  # its actions are none: as illegal as any other
                return plan, Outcome(reason=Reason.UNKNOWN_ACTION)
            _log.exception("the policy failed; the fallback decides instead, for once")
            plan = self._fallback.decide(self._engine.snapshot(self._room))
            return plan, await self._propose(Decide(plan))
        if not isinstance(policy, Planner):
            return plan, await self._propose(Decide(plan))
        actions = plan.actions or (Wait(),)
        parts = range(0, len(actions), MOST_ACTIONS)
        self._ahead = deque(Plan(actions[k : k + MOST_ACTIONS]) for k in parts)
        self._ahead_at = applied
        self._engine.expect(self._ahead, applied)
        return await self._go_on()

    async def _go_on(self) -> tuple[Plan, Outcome]:
        """Propose the next part of what was planned; the rest only if nothing comes between."""
        plan = self._ahead.popleft()
        self._ahead_at = self._engine.applied + 1
        return plan, await self._propose(Decide(plan))

    async def _review(self) -> None:
        self._armed = False
        await self._reviewing.run()

    async def _review_late(self) -> None:
        self._reviews = False
        if not self._armed:
            await self._reviewing.run()

    async def _run_by_itself(self) -> None:
        await self.run(review=not self._engine.semantics.commitment)

    def _review_later(self) -> None:
        """A victim may not be placed at the point that it was preempted at: give it another."""
        row = self._engine.row
        stranded = row["queue_len"] > 0 and row["preemptions_here"] > 0
        if not self.on_events or self._review_ms is None or not stranded:
            return
        if not self._reviews:
            self._reviews = True
            due_ms = self._engine.now_ms + self._review_ms
            self._clock.call_at(due_ms, self._review_late, order=_AFTER_EVENTS)


def _starts(outcome: Outcome) -> list[tuple[str, str]]:
    starts = [effect for effect in outcome.effects if isinstance(effect, StartJob)]
    return [(start.job_id, worker.node_id) for start in starts for worker in start.workers]
