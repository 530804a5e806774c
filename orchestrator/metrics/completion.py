"""JobCompletionRate: which jobs end well, and in time."""

from __future__ import annotations

from orchestrator.engine import Engine
from orchestrator.kernels.codes import JobCode
from orchestrator.messages import StartJob

__all__ = ["JobCompletionRate"]

_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


class JobCompletionRate:
    """Completed and failed jobs, and deadlines kept by those that have one."""

    def __init__(self) -> None:
        self.deadlines_met = 0
        self.deadlines_missed = 0
        self._due_ms: dict[str, int] = {}  # of jobs that have started and not ended

    def note_start(self, engine: Engine, start: StartJob) -> None:
        """A job has started."""
        j = engine.jobs.slots.find(start.job_id)
        allowed_ms = int(engine.state.request[0, j]["deadline_ms"])
        if allowed_ms > 0:
            submit_ms = int(engine.state.request[0, j]["submit_ms"])
            self._due_ms[start.job_id] = submit_ms + allowed_ms

    def settle(self, engine: Engine) -> None:
        """See which jobs with deadlines have ended."""
        for job_id, due_ms in list(self._due_ms.items()):
            if engine.jobs.code(job_id) not in _ENDED:
                continue
            del self._due_ms[job_id]
            run = engine.state.job[0, engine.jobs.slots.find(job_id)]
            kept = run["state"] == JobCode.COMPLETED and int(run["end_ms"]) <= due_ms
            self.deadlines_met += int(kept)
            self.deadlines_missed += int(not kept)

    def summary(self, engine: Engine, time_ms: int) -> dict[str, float]:
        """Counts, share of the ended jobs that completed (1 of none), completions per hour."""
        completed = engine.jobs.count("completed_jobs")
        failed = engine.jobs.count("failed_jobs")
        return {
            "completed": completed,
            "failed": failed,
            "rate": completed / (completed + failed) if completed + failed else 1.0,
            "per_hour": completed * 3_600_000 / time_ms if time_ms > 0 else 0.0,
            "deadlines_met": self.deadlines_met,
            "deadlines_missed": self.deadlines_missed,
        }
