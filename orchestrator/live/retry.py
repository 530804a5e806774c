"""What could not be done now is done later: whatever is injected may fail, be slow, or be away.

Nothing that was logged is lost by it, and nothing is done twice by us: what failed is tried again,
after 1, 2, 4 ... seconds, at most a minute.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import numbers
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from orchestrator.engine.engine import Engine
from orchestrator.errors import (
    CapacityError,
    IllegalActionError,
    InvariantError,
    NotLeaderError,
    UnknownEntityError,
    ValidationError,
)
from orchestrator.messages import Event, Sizing
from orchestrator.ports import (
    Admission,
    Clock,
    FaultDetector,
    NodeHealth,
    ServiceSizer,
    WorkloadManager,
)
from orchestrator.types import JobSpec

__all__ = [
    "SENSELESS",
    "Inbox",
    "Managers",
    "Persistent",
    "Reports",
    "Watch",
    "check_health",
    "delay_ms",
]


T = TypeVar("T")


Work: TypeAlias = Callable[[], Awaitable[object] | None]


SENSELESS = (CapacityError, IllegalActionError, UnknownEntityError, ValidationError)
"""Errors of what makes no sense, now and whenever it is tried again: a full disk is none."""


_FIRST_MS = 1000


_MOST_MS = 60_000


_log = logging.getLogger(__name__)


def delay_ms(failures: int) -> int:
    """How long to wait after so many failures in a row, ms."""
    return int(min(_FIRST_MS * 2 ** min(failures - 1, 16), _MOST_MS))


class Persistent:
    """Work that is done again, later, when it raised an error; not once somebody else leads.

    Parameters
    ----------
    what : str
        For the log.
    work : callable or coroutine function
        Does all that is left to do.
    clock : Clock
        Time.

    Attributes
    ----------
    errors : int
        How often it failed.
    """

    def __init__(self, what: str, work: Work, clock: Clock) -> None:
        self.errors = 0
        self._what, self._work, self._clock = what, work, clock
        self._failures = 0  # in a row
        self._armed = False

    async def run(self) -> None:
        """Do it now; raises an :class:`InvariantError` only, which is a fault of our own."""
        try:
            done = self._work()
            if inspect.isawaitable(done):
                await done
        except asyncio.CancelledError:  # whoever waited for it does no longer
            self._later(_FIRST_MS)
            raise
        except Exception as error:
            self._fail(error)
        else:
            self._failures = 0

    def run_now(self) -> None:
        """Do work that is no coroutine; raises the same."""
        try:
            self._work()
        except Exception as error:
            self._fail(error)
        else:
            self._failures = 0

    def _fail(self, error: Exception) -> None:
        if isinstance(error, NotLeaderError):
            _log.warning("%s ends here: %s", self._what, error)
            return
        self.errors += 1
        self._failures += 1
        wait_ms = delay_ms(self._failures)
        problem = f"{type(error).__name__}: {error}"
        _log.warning("%s failed (%s); again in %d ms", self._what, problem, wait_ms)
        self._later(wait_ms)
        if isinstance(error, InvariantError):
            raise error

    def _later(self, wait_ms: int) -> None:
        if not self._armed:
            self._armed = True
            self._clock.call_at(self._clock.now_ms() + wait_ms, self._again)

    async def _again(self) -> None:
        self._armed = False
        await self.run()


class Inbox(Generic[T]):
    """What is reported, on its way into the log.

    Reports about different subjects are taken at once, so that a log in a file commits them
    together; those about one subject, one after the other.

    Parameters
    ----------
    take : coroutine function
        Logs and applies a report; raises one of ``SENSELESS`` if it makes no sense.
    clock : Clock
    subject : callable, optional
        What a report is about; by default all of them are about the same.
    """

    def __init__(
        self,
        take: Callable[[T], Awaitable[object]],
        clock: Clock,
        subject: Callable[[T], str] = lambda report: "",
    ) -> None:
        self._take, self._subject = take, subject
        self._waiting: dict[object, T] = {}
        self._busy: set[str] = set()  # subjects
        self._closed = False  # somebody else leads
        self._taking = Persistent("taking reports", self._flush, clock)

    @property
    def errors(self) -> int:
        """How often a report could not be logged."""
        return self._taking.errors

    def __len__(self) -> int:
        """Count the reports that are not logged."""
        return len(self._waiting)

    async def deliver(self, report: T) -> bool:
        """Take a report, after those that are waiting; what cannot be logged now is kept.

        False: it is not logged, and would be lost if this process ended now.
        """
        key = _key(report)
        self._waiting.setdefault(key, report)
        await self._taking.run()
        return key not in self._waiting and not self._closed

    async def _flush(self) -> None:
        """Take what waits, but for what somebody else is at already."""
        while free := self._free():
            if len(free) == 1:
                await self._settle(*free[0])
                continue
            settled = [self._settle(*one) for one in free]
            came = await asyncio.gather(*settled, return_exceptions=True)
            errors = [one for one in came if isinstance(one, BaseException)]
            if errors:  # a fault of our own before all others
                raise min(errors, key=lambda error: not isinstance(error, InvariantError))

    def _free(self) -> list[tuple[object, T]]:
        """The first report of each subject of which none is being taken."""
        found: list[tuple[object, T]] = []
        seen = set(self._busy)
        for key, report in self._waiting.items():
            subject = self._subject(report)
            if subject not in seen:
                seen.add(subject)
                found.append((key, report))
        return found

    async def _settle(self, key: object, report: T) -> None:
        subject = self._subject(report)
        if subject in self._busy or key not in self._waiting:
            return  # others of its kind have come to it first
        self._busy.add(subject)
        try:
            await self._take(report)
        except NotLeaderError:
            self._closed = True
            self._waiting.clear()  # the new leader is told
            raise
        except InvariantError:
            self._waiting.pop(key, None)  # it is in the log, and would do the same again
            raise
        except SENSELESS as error:
            _log.warning("a report makes no sense and is dropped: %s", error)
        finally:
            self._busy.discard(subject)
        self._waiting.pop(key, None)


def _key(report: object) -> object:
    """What equal reports have in common: one that nobody has checked may hold anything."""
    try:
        hash(report)
    except TypeError:
        return repr(report)
    return report


@dataclass(frozen=True)
class Reports:
    """What it takes to report something of jobs that no runtime reports, or not in time.

    Parameters
    ----------
    engine : Engine
        The cluster; to be read only.
    clock : Clock
        Time, and when to look again.
    deliver : coroutine function
        Takes reports, as those of a runtime; False: not in the log yet.
    """

    engine: Engine
    clock: Clock
    deliver: Callable[[Event], Awaitable[object]]


def check_health(health: object) -> None:
    """Raise a :class:`ValidationError` unless this is what a fault detector may report."""
    ok = (
        isinstance(health, NodeHealth)
        and isinstance(health.node_id, str)
        and isinstance(health.alive, bool)
        and isinstance(health.seen_ms, numbers.Integral)
    )
    if not ok:
        problem = f"reports {health!r:.80}"
        raise ValidationError("fault detector", "health", problem, "have it report a NodeHealth")


class Watch:
    """Talks to a fault detector. One that fails costs what it would have said, and nothing else.

    Its own next report, or a node's next heartbeat, puts right what it was not told.

    Parameters
    ----------
    detector : FaultDetector

    Attributes
    ----------
    errors : int
        How often it failed.
    """

    def __init__(self, detector: FaultDetector) -> None:
        self.errors = 0
        self._detector = detector
        self._suspects: tuple[str, ...] = ()

    async def report(self, node_id: str) -> None:
        """Somebody knows that a node is dead."""
        try:
            await self._detector.report(node_id)
        except InvariantError:
            raise  # a listener's
        except Exception:
            self._fail("be told of a failure")

    def forget(self, node_id: str) -> None:
        """A node has left, or is to be trusted."""
        try:
            self._detector.forget(node_id)
        except Exception:
            self._fail("forget a node")

    def trust(self, node_id: str) -> None:
        """A node that was taken for dead is back by word of mouth: wait for its next heartbeat."""
        if node_id in self.suspects():
            self.forget(node_id)

    def suspects(self) -> tuple[str, ...]:
        """Nodes taken for dead; those of the last time if that cannot be said."""
        try:
            self._suspects = self._detector.suspects()
        except Exception:
            self._fail("say whom it suspects")
        return self._suspects

    def _fail(self, what: str) -> None:
        self.errors += 1
        _log.exception("the fault detector failed to %s", what)


class Managers:
    """They are clients of an orchestrator: one that fails costs its review, and nothing else.

    Attributes
    ----------
    errors : int
        How often one failed.
    """

    def __init__(self) -> None:
        self.errors = 0
        self._managers: list[WorkloadManager] = []

    def add(self, *managers: WorkloadManager) -> None:
        """Have these see every job, and review theirs."""
        self._managers += managers

    def admit(self, job: JobSpec, *before: object) -> JobSpec:
        """A job as it should be submitted; ``before``: who sees it first, those that want to."""
        for part in (*before, *self._managers):
            if isinstance(part, Admission) and isinstance(job, JobSpec):
                job = part.admit(job)
        return job

    def sizing_of(self, job_id: str) -> Sizing | None:
        """How the service of a job is to be sized, if somebody knows."""
        sizers = (one for one in self._managers if isinstance(one, ServiceSizer))
        told = (one.sizing_of(job_id) for one in sizers)
        return next((sizing for sizing in told if sizing is not None), None)

    async def review(self) -> None:
        """Have everybody see to its running jobs.

        Raises
        ------
        NotLeaderError
            If somebody else leads by now.
        """
        for manager in self._managers:
            try:
                await manager.review()
            except NotLeaderError:
                raise
            except Exception:
                self.errors += 1
                _log.exception("%s failed to review its jobs", type(manager).__name__)
