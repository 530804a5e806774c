"""Metadata of checkpoints, in memory."""

from __future__ import annotations

from orchestrator.errors import UnknownEntityError
from orchestrator.ports import Checkpoint

__all__ = ["InMemoryCheckpoints"]


class InMemoryCheckpoints:
    """The last committed checkpoint of every job, and those that are being written."""

    def __init__(self) -> None:
        self._count = 0
        self._pending: dict[str, Checkpoint] = {}
        self._latest: dict[str, Checkpoint] = {}

    def save(self, job_id: str, progress_ms: int, time_ms: int) -> str:
        """A checkpoint has begun; its identity."""
        self._count += 1
        checkpoint_id = f"{job_id}@{self._count}"
        self._pending[checkpoint_id] = Checkpoint(checkpoint_id, job_id, progress_ms, time_ms)
        return checkpoint_id

    def commit(self, checkpoint_id: str) -> None:
        """A checkpoint is complete: it replaces the job's former one."""
        checkpoint = self._take(checkpoint_id)
        self._latest[checkpoint.job_id] = checkpoint

    def discard(self, checkpoint_id: str) -> None:
        """A checkpoint will not be completed."""
        self._take(checkpoint_id)

    def latest(self, job_id: str) -> Checkpoint | None:
        """The last committed checkpoint of a job."""
        return self._latest.get(job_id)

    def forget(self, job_id: str) -> None:
        """Nobody will ask for a job any more."""
        self._latest.pop(job_id, None)
        for checkpoint in [c for c in self._pending.values() if c.job_id == job_id]:
            del self._pending[checkpoint.checkpoint_id]

    def _take(self, checkpoint_id: str) -> Checkpoint:
        try:
            return self._pending.pop(checkpoint_id)
        except KeyError:
            raise UnknownEntityError(
                f"no checkpoint '{checkpoint_id}' is being written; save() begins one"
            ) from None
