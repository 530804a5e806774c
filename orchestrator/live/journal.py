"""The way into the log and out of it: propose, replay, reconcile, keep checkpoints."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import InvariantError, QuartermasterError
from orchestrator.messages import (
    Command,
    Effect,
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
    one that it falls back to is noted here, when it does. What a manager could not be told, because
    it raised an error, is told it again, in order, by the next call of :meth:`flush`.

    Parameters
    ----------
    checkpoints : CheckpointManager
        Where the metadata is.
    """

    def __init__(self, checkpoints: CheckpointManager) -> None:
        self._checkpoints = checkpoints
        self._writing: dict[str, str] = {}  # checkpoints, by job
        self._untold: deque[tuple[Effect | str, int]] = deque()  # or a job to forget; and when

    def note(self, outcome: Outcome, now_ms: int) -> None:
        """Record what an outcome says about saved work."""
        if outcome.forgotten:
            self._untold.append((outcome.forgotten, now_ms))
        for effect in outcome.effects:
            if isinstance(effect, SaveCheckpoint | StopJob):
                self._untold.append((effect, now_ms))

    def flush(self) -> None:
        """Tell the manager what it was not told yet; raises what it raises, and goes on later."""
        while self._untold:
            what, now_ms = self._untold[0]
            if isinstance(what, str):
                self._checkpoints.forget(what)
            elif isinstance(what, SaveCheckpoint):
                checkpoint_id = self._checkpoints.save(what.job_id, what.progress_ms, now_ms)
                self._writing[what.job_id] = checkpoint_id
            elif isinstance(what, StopJob):
                self._note_stop(what, now_ms)
            self._untold.popleft()

    def _note_stop(self, stop: StopJob, now_ms: int) -> None:
        checkpoint_id = self._writing.get(stop.job_id)
        if checkpoint_id is not None and stop.reason == StopReason.PREEMPTED:
            self._checkpoints.commit(checkpoint_id)
        elif checkpoint_id is not None:
            self._checkpoints.discard(checkpoint_id)
        self._writing.pop(stop.job_id, None)
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
        self._senseless: set[int] = set()  # entries whose application raised an error
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
            index = await self._append(Entry(time_ms, body))
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

    async def _append(self, entry: Entry) -> int:
        """Append an entry; an error after it was written loses the answer only."""
        try:
            return await self._consensus.append(entry)
        except Exception:
            for at, known in enumerate(self._consensus.entries(self.applied), self.applied):
                if known == entry:
                    _log.warning("entry %d was logged, though the log raised an error", at)
                    return at
            raise

    def _sensible(self) -> list[Entry]:
        """What was applied up to now."""
        known = self._consensus.entries()[: self.applied]
        return [entry for at, entry in enumerate(known) if at not in self._senseless]

    def _apply(
        self,
        entry: Entry,
        apply: Callable[[Entry], Outcome],
        carry_out: Callable[[Outcome], None],
    ) -> Outcome | QuartermasterError:
        """Apply the next entry. One that is refused is refused alike by every replica.

        So is one that cannot be applied, whatever is raised: the cluster is then as before.
        """
        try:
            outcome = apply(entry)
        except Exception as error:
            if isinstance(error, QuartermasterError) and not isinstance(error, InvariantError):
                _log.info("entry %d of the log was refused: %s", self.applied, error)
                self.applied += 1
                return error
            _log.exception("entry %d of the log cannot be applied", self.applied)
            self._senseless.add(self.applied)
            self._engine.restore(self._sensible())
            self.applied += 1
            return InvariantError(
                f"entry {self.applied - 1} of the log cannot be applied and changes nothing "
                f"({type(error).__name__}: {error})"
            )
        self.applied += 1
        if self._observe is not None:
            self._observe(outcome)
        carry_out(outcome)
        return outcome
