"""Effects on their way out, to runtime and checkpoint manager: what these refuse is told again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from orchestrator.engine.engine import Outcome
from orchestrator.kernels.state.codes import Reason
from orchestrator.live.retry import Persistent
from orchestrator.messages import (
    Effect,
    Entry,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
    WorkerExited,
    WorkerPlacement,
)
from orchestrator.ports import CheckpointManager, Clock, Runtime

__all__ = ["CheckpointKeeper", "Outbox", "Places"]


_Spots: TypeAlias = frozenset[tuple[str, int]]


_NO_GPU = -1  # of a worker without GPUs: what it takes of its node


def _spots(workers: Sequence[WorkerPlacement]) -> _Spots:
    return frozenset((w.node_id, gpu) for w in workers for gpu in w.gpus or (_NO_GPU,))


_RUNS = 4  # of a job that are remembered; its own next start waits for the stop before


class Places:
    """Where the workers of each job were put in its last runs: its GPUs, until it ends.

    The engine frees them when it says that a job is to stop, or to be smaller or elsewhere; they
    are free when it has, and until then they are counted here.

    Attributes
    ----------
    late : dict of str to (int, int)
        Of jobs that began later than the engine knows: the run, and by how much, ms. A restart
        forgets it.
    """

    def __init__(self) -> None:
        self._workers: dict[str, dict[int, tuple[WorkerPlacement, ...]]] = {}
        self.late: dict[str, tuple[int, int]] = {}

    def note(self, entry: Entry, outcome: Outcome) -> None:
        """An entry of the log was applied."""
        for effect in outcome.effects:
            if isinstance(effect, StartJob | RegroupJob):
                runs = self._workers.setdefault(effect.job_id, {})
                left = runs.get(effect.run, ())  # until the runtime has been told
                runs[effect.run] = tuple(dict.fromkeys((*left, *effect.workers)))
                runs.pop(effect.run - _RUNS, None)
        self._forget(outcome.forgotten)
        if isinstance(entry.body, WorkerExited) and outcome.reason == Reason.OK:
            self._forget(entry.body.job_id)

    def _forget(self, job_id: str) -> None:
        self._workers.pop(job_id, None)
        self.late.pop(job_id, None)

    def of(self, job_id: str, run: int) -> _Spots:
        """GPUs of a run of a job, as (node, index)."""
        return _spots(self._workers.get(job_id, {}).get(run, ()))

    def note_regroup(self, told: RegroupJob) -> None:
        """A run has left its former places."""
        runs = self._workers.get(told.job_id, {})
        if told.run in runs:
            runs[told.run] = told.workers

    def note_start(self, start: StartJob, now_ms: int) -> None:
        """A run has begun now, or is still to begin: later than the engine knows, perhaps."""
        if now_ms > start.start_ms:
            self.late[start.job_id] = start.run, now_ms - start.start_ms

    def image(self) -> object:
        """All of them."""
        return {job_id: dict(runs) for job_id, runs in self._workers.items()}

    def load(self, image: dict[str, dict[int, tuple[WorkerPlacement, ...]]]) -> None:
        """As they were then."""
        self._workers = {job_id: dict(runs) for job_id, runs in image.items()}


class Outbox:
    """Effects on their way to a runtime, in their order.

    What the runtime refuses with an error holds up what comes later for the same job or node; a
    stop or a change of size that it refuses also holds up whoever is to start on the GPUs that it
    would have freed. Nothing else waits.

    Parameters
    ----------
    runtime : Runtime
    clock : Clock
    places : Places
        Where jobs are.
    may_act : callable
        Whether effects may be carried out: False once somebody else leads.
    """

    def __init__(
        self, runtime: Runtime, clock: Clock, places: Places, may_act: Callable[[], bool]
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._places = places
        self._may_act = may_act
        self._waiting: list[Effect] = []
        self._sending = Persistent("carrying effects out", self._flush, clock)

    @property
    def errors(self) -> int:
        """How often the runtime raised an error."""
        return self._sending.errors

    def __len__(self) -> int:
        """Count the effects that are not carried out."""
        return len(self._waiting)

    def send(self, effects: Sequence[Effect]) -> None:
        """Have effects carried out, after those that are waiting."""
        self._waiting += effects
        if effects:
            self._sending.run_now()

    def _flush(self) -> None:
        if not self._may_act():
            self._waiting.clear()  # the new leader sees what is missing
            return
        sending, self._waiting = self._waiting, []
        held_up: set[str] = set()
        taken: set[tuple[str, int]] = set()  # GPUs that are not free yet
        failed: Exception | None = None
        for effect in sending:
            blocked = bool(taken) and not taken.isdisjoint(_needs(effect))
            if not blocked and (not held_up or _subject(effect) not in held_up):
                try:
                    self._runtime.carry_out([effect])
                    self._note(effect)
                    if isinstance(effect, RegroupJob):
                        self._places.note_regroup(effect)
                    continue
                except Exception as error:
                    failed = failed or error
            self._note(effect)
            held_up.add(_subject(effect))
            if isinstance(effect, StopJob | RegroupJob):
                taken |= self._places.of(effect.job_id, effect.run) | _needs(effect)
            self._waiting.append(effect)
        if failed is not None:
            raise failed

    def _note(self, effect: Effect) -> None:
        if isinstance(effect, StartJob):
            self._places.note_start(effect, self._clock.now_ms())


def _needs(effect: Effect) -> _Spots:
    return _spots(effect.workers) if isinstance(effect, StartJob | RegroupJob) else frozenset()


def _subject(effect: Effect) -> str:
    """Whose effects have to stay in order."""
    return f"node {effect.node_id}" if isinstance(effect, ReleaseNode) else f"job {effect.job_id}"


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

    def __len__(self) -> int:
        """Count what the manager was not told yet."""
        return len(self._untold)

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
                self._writing.pop(what, None)
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
