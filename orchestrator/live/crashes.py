"""Crash loops: workers that are lost again and again, right after they were started."""

from __future__ import annotations

import logging

from orchestrator.engine.checks import check_report
from orchestrator.engine.engine import Outcome
from orchestrator.errors import ValidationError
from orchestrator.kernels.state.codes import Reason
from orchestrator.live.retry import Reports, delay_ms
from orchestrator.messages import Cancel, Entry, Event, WorkerExited, WorkersLost

__all__ = ["MOST_CRASHES", "CrashLoops"]


MOST_CRASHES = 6
"""Short runs in a row after which a job is taken to have failed (Kubernetes: ``backoffLimit``)."""


_SHORT_MS = 600_000  # a run that lasted longer was none of a loop


_CRASHED = 1  # exit code


_log = logging.getLogger(__name__)


class CrashLoops:
    """Lets a job whose workers are lost start again later and later, and in the end not at all.

    A first loss is passed on at once. While the next ones are held back the job keeps its place;
    the waits are those of :func:`orchestrator.live.retry.delay_ms`, about a minute together. Losses
    are counted from the log, so that a restart of the orchestrator does not forgive them.

    Parameters
    ----------
    reports : Reports
    """

    def __init__(self, reports: Reports) -> None:
        self._engine, self._clock, self._deliver = reports.engine, reports.clock, reports.deliver
        self._crashes: dict[str, int] = {}  # short runs in a row
        self._held: dict[str, int] = {}  # runs whose loss was said

    def note(self, entry: Entry, outcome: Outcome) -> None:
        """An entry of the log was applied."""
        body = entry.body
        if isinstance(body, WorkerExited | Cancel) and outcome.reason == Reason.OK:
            self._crashes.pop(body.job_id, None)
            self._held.pop(body.job_id, None)
        elif (
            isinstance(body, WorkersLost)
            and outcome.reason == Reason.OK
            and not self._gives_up(body)
        ):
            lasted_ms = self._engine.now_ms - self._engine.started_ms(body.job_id)
            self._crashes[body.job_id] = self._count(body.job_id, lasted_ms)
        self._crashes.pop(outcome.forgotten, None)
        self._held.pop(outcome.forgotten, None)

    def image(self) -> object:
        """What is counted."""
        return dict(self._crashes)

    def load(self, image: dict[str, int]) -> None:
        """Have counted what was counted then."""
        self._crashes = dict(image)

    def _count(self, job_id: str, lasted_ms: int) -> int:
        """Short runs in a row, one that lasted so long included."""
        return 1 if lasted_ms > _SHORT_MS else self._crashes.get(job_id, 0) + 1

    def _gives_up(self, lost: WorkersLost) -> bool:
        """Whether a run was being saved: that its workers go then is no crash of their own."""
        last = self._engine.history.last(lost.job_id, "started", "preempted")
        return last is not None and last.what == "preempted" and last.run == lost.run

    async def hear(self, event: Event) -> object:
        """A runtime reports something; False: it is not in the log, or not yet.

        What is no report is dropped: nothing else waits for it.
        """
        try:
            check_report(event)
        except ValidationError as error:
            _log.error("the runtime reports what is no event, which is dropped: %s", error)
            return True
        if not isinstance(event, WorkersLost) or not self._engine.is_current(event):
            return await self._deliver(event)
        if self._gives_up(event):
            return await self._deliver(event)
        if self._held.get(event.job_id) == event.run:
            return False  # it was said before, and is held back
        self._held[event.job_id] = event.run
        now_ms = self._clock.now_ms()
        crashes = self._count(event.job_id, now_ms - self._engine.started_ms(event.job_id))
        report: Event = event
        if crashes > MOST_CRASHES:
            reason = (
                f"its workers were lost {crashes} times within minutes of their start, the last "
                f"time because: {event.reason or 'nobody said why'}"
            )
            _log.error("job '%s' has failed: %s", event.job_id, reason)
            report = WorkerExited(event.job_id, event.run, _CRASHED, reason)
        if crashes == 1:
            return await self._deliver(report)
        self._clock.call_at(now_ms + delay_ms(crashes - 1), lambda: self._deliver(report))
        return False
