"""The way into the log and out of it: propose, replay, reconcile, keep checkpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import QuartermasterError
from orchestrator.messages import (
    Command,
    Entry,
    Event,
    SaveCheckpoint,
    StopJob,
    StopReason,
    WorkersLost,
)
from orchestrator.ports import CheckpointManager, Clock, ConsensusEngine, Runtime

__all__ = ["CheckpointKeeper", "Journal", "reconcile"]


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


async def reconcile(
    engine: Engine, runtime: Runtime, propose: Callable[[Event], Awaitable[object]]
) -> None:
    """Make a runtime and a cluster agree.

    Jobs whose workers are gone fall back to their last checkpoints; workers that should not exist
    are stopped.

    Parameters
    ----------
    engine : Engine
        What should run.
    runtime : Runtime
        What does.
    propose : coroutine function
        Logs and applies an event.
    """
    placed, observed = engine.placed(), runtime.observe()
    runtime.carry_out(
        [
            StopJob(job_id, run, StopReason.UNEXPECTED, 0)
            for job_id, run in observed.items()
            if placed.get(job_id) != run
        ]
    )
    for job_id, run in placed.items():
        if observed.get(job_id) != run:
            await propose(WorkersLost(job_id, run, "not found at start-up"))


_log = logging.getLogger(__name__)


class Journal:
    """Applies a consensus log to an engine.

    Making one replays what the log holds: the effects of these entries were carried out when they
    were written.

    Parameters
    ----------
    consensus : ConsensusEngine
        The log.
    engine : Engine
        Who applies it, and nobody else does.
    clock : Clock
        Stamps new entries.
    carry_out : callable
        Told of every outcome of a new entry, in order, as soon as it is applied.
    observe : callable or None, optional
        Told of every outcome, replayed ones included, before that: for what is kept in memory
        only.
    """

    def __init__(
        self,
        consensus: ConsensusEngine,
        engine: Engine,
        clock: Clock,
        carry_out: Callable[[Outcome], None],
        observe: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._consensus = consensus
        self._engine = engine
        self._clock = clock
        self._carry_out = carry_out
        self._observe = observe
        self._lock = asyncio.Lock()
        self.applied = 0
        for entry in consensus.entries():
            self._apply(entry, engine.handle, lambda outcome: None)

    async def propose(self, body: Command | Event) -> Outcome:
        """Log and apply; what came of it.

        Raises
        ------
        QuartermasterError
            If it makes no sense. It is not even logged if that is clear beforehand.
        """
        async with self._lock:
            self._engine.check(body)
            time_ms = max(self._clock.now_ms(), self._engine.now_ms)
            index = await self._consensus.append(Entry(time_ms, body))
            first, outcomes = self.applied, []
            for at, entry in enumerate(self._consensus.entries(first), first):
                # Only what comes next is still as it was when it was checked.
                checked = at == index == first
                apply = self._engine.apply if checked else self._engine.handle
                outcomes.append(self._apply(entry, apply, self._carry_out))
            mine = outcomes[index - first]
        if isinstance(mine, QuartermasterError):
            raise mine
        return mine

    def _apply(
        self,
        entry: Entry,
        apply: Callable[[Entry], Outcome],
        carry_out: Callable[[Outcome], None],
    ) -> Outcome | QuartermasterError:
        """Apply the next entry. One that is refused is refused alike by every replica."""
        try:
            outcome = apply(entry)
        except QuartermasterError as error:
            _log.info("entry %d of the log was refused: %s", self.applied, error)
            self.applied += 1
            return error
        self.applied += 1
        if self._observe is not None:
            self._observe(outcome)
        carry_out(outcome)
        return outcome
