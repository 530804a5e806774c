"""What the engine's outcomes mean for the metadata of checkpoints."""

from __future__ import annotations

from orchestrator.engine import Outcome
from orchestrator.messages import SaveCheckpoint, StopJob, StopReason
from orchestrator.ports import CheckpointManager

__all__ = ["CheckpointKeeper"]


class CheckpointKeeper:
    """Keeps a checkpoint manager's latest checkpoint of a job the one that the job goes on from.

    Periodic checkpoints are not events of the cluster: a job writes them by itself, and only the
    one that it falls back to is noted here, when it does.

    Parameters
    ----------
    checkpoints : CheckpointManager
        Where the metadata is.
    """

    def __init__(self, checkpoints: CheckpointManager) -> None:
        self._checkpoints = checkpoints
        self._writing: dict[str, str] = {}  # checkpoints, by job

    def note(self, outcome: Outcome, now_ms: int) -> None:
        """Record what an outcome says about saved work."""
        if outcome.forgotten:
            self._checkpoints.forget(outcome.forgotten)
        for effect in outcome.effects:
            if isinstance(effect, SaveCheckpoint):
                checkpoint_id = self._checkpoints.save(effect.job_id, effect.progress_ms, now_ms)
                self._writing[effect.job_id] = checkpoint_id
            elif isinstance(effect, StopJob):
                self._note_stop(effect, now_ms)

    def _note_stop(self, stop: StopJob, now_ms: int) -> None:
        checkpoint_id = self._writing.pop(stop.job_id, None)
        if checkpoint_id is not None and stop.reason == StopReason.PREEMPTED:
            self._checkpoints.commit(checkpoint_id)
        elif checkpoint_id is not None:
            self._checkpoints.discard(checkpoint_id)
        latest = self._checkpoints.latest(stop.job_id)
        if stop.progress_ms > (latest.progress_ms if latest else 0):
            saved = self._checkpoints.save(stop.job_id, stop.progress_ms, now_ms)
            self._checkpoints.commit(saved)
