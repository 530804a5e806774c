"""A candidate is asked with a deadline: what comes late is not waited for, and not taken."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass, field

from orchestrator.deployment.records import Considered, LearnedPolicy, Verdict
from orchestrator.engine.snapshot import Snapshot
from orchestrator.ports import Planner, Policy

__all__ = ["Answer", "Asker", "considered"]


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What came of asking.

    Parameters
    ----------
    verdict : Verdict
        ``TAKEN``, ``LATE`` or ``FAILED``.
    seconds : float
        Until it came, or until it was not waited for any more.
    considered : Considered or None
        The answer.
    detail : str
        What was wrong.
    """

    verdict: Verdict
    seconds: float
    considered: Considered | None = None
    detail: str = ""


@dataclass
class _Question:
    snapshot: Snapshot
    answered: threading.Event = field(default_factory=threading.Event)
    considered: Considered | None = None
    error: Exception | None = None


def considered(policy: Policy, snapshot: Snapshot) -> Considered:
    """What a policy wants, and why if it says so; the snapshot may be spoilt."""
    if isinstance(policy, LearnedPolicy):
        return policy.consider(snapshot)
    if isinstance(policy, Planner):
        return Considered(policy.plan(snapshot))
    return Considered(policy.decide(snapshot))


class Asker:
    """Asks one policy, in a thread of its own if it has a deadline.

    A policy that has not answered yet is not asked again: what is asked meanwhile is late at once.

    Parameters
    ----------
    policy : Policy
    deadline_ms : float or None
        How long it may take, milliseconds; None: as long as it takes, and in the thread that asks.
    """

    def __init__(self, policy: Policy, deadline_ms: float | None) -> None:
        self.policy = policy
        self._deadline_ms = deadline_ms
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._open: _Question | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether it has not answered yet what it was asked."""
        return self._open is not None and not self._open.answered.is_set()

    def ask(self, snapshot: Snapshot) -> Answer:
        """Ask about a snapshot, which belongs to the policy from now on."""
        begun = time.perf_counter()
        if self.busy:
            return Answer(Verdict.LATE, 0.0, detail="it has not answered what it was asked before")
        question = _Question(snapshot)
        if self._deadline_ms is None:
            self._answer(question)
        else:
            self._open = question
            self._start()
            self._questions.put(question)
            if not question.answered.wait(self._deadline_ms / 1000):
                detail = f"no answer within {self._deadline_ms:g} ms"
                return Answer(Verdict.LATE, time.perf_counter() - begun, detail=detail)
        spent = time.perf_counter() - begun
        if question.error is not None:
            error = question.error
            return Answer(Verdict.FAILED, spent, detail=f"{type(error).__name__}: {error}")
        if self._deadline_ms is not None and 1000 * spent > self._deadline_ms:
            return Answer(Verdict.LATE, spent, detail=f"it took {1000 * spent:.1f} ms")
        return Answer(Verdict.TAKEN, spent, question.considered)

    def stop(self) -> None:
        """Ask no more; a thread that hangs in its policy is left behind, and ends with it."""
        if self._thread is not None:
            self._questions.put(None)
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="candidate", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            self._answer(question)

    def _answer(self, question: _Question) -> None:
        try:
            question.considered = considered(self.policy, question.snapshot)
        except Exception as error:
            _log.exception("the candidate failed")
            question.error = error
        finally:
            question.answered.set()
