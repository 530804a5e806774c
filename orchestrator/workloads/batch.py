"""BatchProcessor: batch inference that fills gaps, yields to everybody, and has deadlines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.errors import ValidationError
from orchestrator.kernels.codes import JobKind
from orchestrator.types import JobPriority, JobSpec

if TYPE_CHECKING:
    from orchestrator.orchestrator import InfrastructureOrchestrator

__all__ = ["BatchProcessor"]

_HOUR_MS = 3_600_000
_ENDED = ("completed", "failed")


class BatchProcessor:
    """Submits batch jobs and watches their deadlines.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
        Where they run.
    priority : JobPriority
        Class of all batch jobs.
    """

    def __init__(
        self,
        orchestrator: InfrastructureOrchestrator,
        priority: JobPriority = JobPriority.BEST_EFFORT,
    ) -> None:
        self._orchestrator = orchestrator
        self._priority = priority

    async def submit(self, spec: JobSpec, *, deadline_hours: float | None = None) -> str:
        """Submit a job as a batch job, preemptible and of the processor's class; its identity.

        Parameters
        ----------
        spec : JobSpec
            What to run; its kind, class and preemptibility are replaced.
        deadline_hours : float or None, optional
            When it should be done, from now; None: the job's own.

        Raises
        ------
        ValidationError
            If its estimate alone is beyond its deadline, or it cannot be submitted.
        """
        batch = replace(
            spec,
            kind=JobKind.BATCH,
            priority=self._priority,
            preemptible=True,
            deadline_hours=spec.deadline_hours if deadline_hours is None else deadline_hours,
        )
        due = batch.deadline_hours
        if due is not None and batch.max_duration_hours > due:
            problem = f"is {due:g}, and the job takes {batch.max_duration_hours:g} hours"
            remedy = "split the job, or move the deadline"
            raise ValidationError(f"JobSpec '{spec.job_id}'", "deadline_hours", problem, remedy)
        return await self._orchestrator.submit_job(batch)

    def jobs(self) -> list[str]:
        """Batch jobs that are known, in the order of their submission."""
        specs = self._orchestrator.jobs.values()
        return [spec.job_id for spec in specs if spec.kind == JobKind.BATCH]

    def slack_hours(self, job_id: str) -> float | None:
        """Time that a job can still lose and be done in time, by its estimate at nominal speed.

        None if it has no deadline, or has ended; below 0 if it will be late.
        """
        spec = self._orchestrator.jobs[job_id]
        status = self._orchestrator.get_job_status(job_id)
        if spec.deadline_hours is None or status["state"] in _ENDED:
            return None
        now_ms = self._orchestrator.clock.now_ms()
        due_ms = status["submit_ms"] + spec.deadline_hours * _HOUR_MS
        left_ms = spec.max_duration_hours * _HOUR_MS - status["progress_ms"]
        return float(due_ms - now_ms - max(left_ms, 0.0)) / _HOUR_MS

    def at_risk(self, margin_hours: float = 0.0) -> list[str]:
        """Jobs that will be late unless they run from now on, with a margin; most urgent first."""
        slack = {job_id: self.slack_hours(job_id) for job_id in self.jobs()}
        late = [(left, name) for name, left in slack.items() if left is not None]
        return [name for left, name in sorted(late) if left <= margin_hours]
