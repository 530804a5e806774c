"""Managers of workloads, and all others who see jobs before they are submitted."""

from __future__ import annotations

import logging

from orchestrator.errors import NotLeaderError
from orchestrator.ports import Admission, WorkloadManager
from orchestrator.types import JobSpec

__all__ = ["Managers"]


_log = logging.getLogger(__name__)


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
