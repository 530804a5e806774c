"""What a candidate would gain: its plan and the rule's, played forward from the same snapshot.

Nobody sees the future, so both futures are played on estimates, without arrivals, until all jobs
that are there have ended: the rule's under the rule, the candidate's under the candidate for some
decision points and then under the rule. The difference of a pair has far less noise than that of
two clusters, or of two days. Points are close in time and share jobs: intervals are a little too
narrow.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.deployment.asking import considered
from orchestrator.deployment.guards import Guards
from orchestrator.deployment.records import without_sizes
from orchestrator.engine.plans import PlanExecutor
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, JobCode, Reason, Status
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.live.cycle import crowded
from orchestrator.messages import Action, PlaceJob, Plan
from orchestrator.ports import Policy, Sized
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.semantics import Semantics

__all__ = [
    "Beside",
    "Comparer",
    "ForwardPlay",
    "Gain",
    "Pair",
    "copy_snapshot",
    "sizes_of",
]


_MOST_PAIRS = 1024  # of which an interval is made
_RESAMPLES = 500
_MS_PER_S = 1000
_EVERY = 10  # pairs after which an interval is made again
_COSTS = ("bounded_slowdown", "completion")  # of a pair


_log = logging.getLogger(__name__)


def copy_snapshot(snapshot: Snapshot, room: ClusterState | None = None) -> Snapshot:
    """A copy of a snapshot, in ``room`` if that has its shape: for who spoils what it is given."""
    state = snapshot.state
    if room is None or room.shape != state.shape:
        room = allocate(state.shape)
    entry.copy_row(state.rows, 0, room.rows, 0)
    return replace(snapshot, state=room)


_MOST_SIZES = 256  # changes of services and nodes at one tick


def sizes_of(snapshot: Snapshot, sizes: Sized) -> tuple[Action, ...]:
    """What the autoscaler's arithmetic makes of services and fleet at a tick.

    Parameters
    ----------
    snapshot : Snapshot
        It is spoilt.
    sizes : Sized
        What is asked for; the rest is left alone.
    """
    state, found = snapshot.state, list[Action]()
    snapshot.show_fleet()
    state.rows["services"], state.rows["capacity_steps"] = sizes.services, int(sizes.nodes)
    rule = rule_named("fcfs+reactive").to_record()
    scratch = np.empty(max(state.shape.jobs, state.shape.workers), np.int32)
    while len(found) < _MOST_SIZES:
        kind, j, value = entry.rule_action(state.rows, 0, rule, scratch)
        if kind not in (ActionKind.SERVICE, ActionKind.CAPACITY):
            break
        found.append(snapshot.action(kind, j, value))
        if entry.commit(state.rows, 0, kind, j, value, scratch) != Reason.OK:
            break
    return tuple(found)


@dataclass(frozen=True)
class Pair:
    """A decision point: mean bounded slowdown and time to the end (s) after either plan."""

    rule: tuple[float, float]
    candidate: tuple[float, float]


@dataclass(frozen=True)
class Gain:
    """What the candidate gains, as a share of the rule's cost: mean, and its 95 % interval."""

    mean: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, rule: NDArray[np.float64], candidate: NDArray[np.float64]) -> Gain | None:
        """Of costs in pairs; None: there is nothing to go by. A bootstrap of the pairs."""
        if len(rule) < 2 or not rule.sum() > 0:
            return None
        rng = np.random.default_rng(0)  # the same pairs give the same interval
        drawn = rng.integers(len(rule), size=(_RESAMPLES, len(rule)))
        gains = 1.0 - candidate[drawn].sum(axis=1) / np.maximum(rule[drawn].sum(axis=1), 1e-12)
        low, high = np.percentile(gains, (2.5, 97.5)).tolist()
        return cls(float(1.0 - candidate.sum() / rule.sum()), low, high, len(rule))

    def as_dict(self) -> dict[str, float | int]:
        """Plain data."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "pairs": self.pairs}


class ForwardPlay:
    """Plays plans forward, in memory that is kept from one to the next; for one thread.

    Parameters
    ----------
    rule : Rule
        Plays on.
    candidate : Policy
        Plays on after its own plans, for some decision points; an instance of its own.
    ahead : int, optional
        How many.
    """

    def __init__(self, rule: Rule, candidate: Policy, ahead: int = 16) -> None:
        self._record = rule.to_record()
        self._candidate = candidate
        self._ahead = ahead
        self._trial: ClusterState | None = None
        self._scratch: ClusterState | None = None

    def pair(self, snapshot: Snapshot, rule: Plan, candidate: Plan) -> Pair:
        """What comes of two plans; raises what the candidate raises."""
        return Pair(self._cost(snapshot, rule, 0), self._cost(snapshot, candidate, self._ahead))

    def load(self, semantics: Semantics | None = None) -> None:
        """Play a small cluster forward: the first time loads kernels, which must not wait."""
        self.pair(crowded(semantics).snapshot(), Plan(), Plan((PlaceJob("warm"),)))
        self._trial = self._scratch = None

    def _cost(self, snapshot: Snapshot, plan: Plan, ahead: int) -> tuple[float, float]:
        trial = copy_snapshot(snapshot, self._trial)
        self._trial = state = trial.state
        entry.assume_future(state.rows, 0, np.zeros(0, REQUEST_DTYPE))
        index = {name: j for j, name in enumerate(trial.job_ids) if name}
        executor = PlanExecutor(state, 0, lambda name: index.get(name, NO_JOB), trial.prefer)
        executor.carry_out(without_sizes(plan))  # without requests and arrivals they gain nothing
        nodes = np.empty(state.shape.workers, np.int32)
        while ahead > 0 and entry.advance(state.rows, 0, nodes) == Status.DECISION:
            ahead -= 1
            asked = copy_snapshot(trial, self._scratch)
            self._scratch = asked.state
            thought = considered(self._candidate, asked).plan
            if executor.carry_out(without_sizes(thought)) != Reason.OK:
                break
        jobs = np.empty(max(state.shape.jobs, state.shape.workers), np.int32)
        entry.replay(state.rows, 0, self._record, nodes, jobs)
        return _costs(state, snapshot.state)


def _costs(after: ClusterState, before: ClusterState) -> tuple[float, float]:
    """Mean bounded slowdown, and s from now to the end, of the jobs that had not ended before."""
    row: Any = after.rows[0]
    asks, runs, then = after.request[0], after.job[0], before.job[0]["state"]
    over = (then == JobCode.COMPLETED) | (then == JobCode.FAILED) | (then == JobCode.ABSENT)
    left = np.flatnonzero(~over)
    if len(left) == 0:
        return 0.0, 0.0
    ends = np.where(runs["end_ms"] >= 0, runs["end_ms"], int(row["now_ms"]))[left]
    scale = np.maximum(asks["duration_ms"][left], max(int(row["slowdown_bound_ms"]), 1))
    slowdowns = np.maximum((ends - asks["submit_ms"][left]) / scale, 1.0)
    rest_s = np.maximum(ends - int(before.rows[0]["now_ms"]), 0) / _MS_PER_S
    return float(slowdowns.mean()), float(rest_s.mean())


class Comparer:
    """Pairs of costs at sampled decision points, and what they say; for one thread that plays.

    Parameters
    ----------
    play : ForwardPlay
    share : float, optional
        Of one core's time that playing forward may take: from above 0 to 1.
    """

    def __init__(self, play: ForwardPlay, share: float = 0.1) -> None:
        if not 0.0 < share <= 1.0:
            raise ConfigurationError(f"comparison: 'share' is {share}; give more than 0, at most 1")
        self._play, self._share = play, share
        self._pairs: deque[Pair] = deque(maxlen=_MOST_PAIRS)
        self._rests_until = 0.0
        self._gains: dict[str, Gain | None] = dict.fromkeys(_COSTS)
        self.errors = self.compared = 0

    @property
    def due(self) -> bool:
        """Whether the next decision point is to be compared, whatever the answers are."""
        return time.monotonic() >= self._rests_until

    def compare(self, snapshot: Snapshot, rule: Plan, candidate: Plan) -> None:
        """Play both plans forward from a snapshot, which stays as it is."""
        begun = time.monotonic()
        try:
            self._pairs.append(self._play.pair(snapshot, rule, candidate))
            self.compared += 1
            if self.compared < _EVERY or self.compared % _EVERY == 0:
                self._gains = self._estimated()
        except Exception:
            _log.exception("the plans at entry %d could not be compared", snapshot.entry)
            self.errors += 1
        ended = time.monotonic()
        self._rests_until = ended + (ended - begun) * (1.0 / self._share - 1.0)

    @property
    def gains(self) -> Mapping[str, Gain | None]:
        """Estimated gains: of mean bounded slowdown, and of the time to the end."""
        return self._gains

    def _estimated(self) -> dict[str, Gain | None]:
        rule = np.array([pair.rule for pair in self._pairs])
        candidate = np.array([pair.candidate for pair in self._pairs])
        return {name: Gain.of(rule[:, k], candidate[:, k]) for k, name in enumerate(_COSTS)}

    def breach(self, guards: Guards) -> str:
        """Why the candidate has to go, by what it is estimated to lose; ``""``: it need not."""
        gain = self._gains["bounded_slowdown"]
        if gain is None or gain.pairs < guards.pairs or gain.high >= -guards.loss:
            return ""
        return (
            f"estimated by {gain.pairs} decision points, mean bounded slowdown is worse by "
            f"{-gain.mean:.1%} (95 % interval {-gain.high:.1%} to {-gain.low:.1%})"
        )


class Beside:
    """A thread that works on one decision point at a time, and delays nobody.

    Points that come while it is at work are passed over, whatever the answers were.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._room: ClusterState | None = None
        self.passed_over = 0
        self._thread = threading.Thread(target=self._work, name="beside", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do; where not, the point that asks is passed over."""
        idle = self._idle.is_set()
        self.passed_over += not idle
        return idle

    def offer(self, snapshot: Snapshot, task: Callable[[Snapshot], None]) -> None:
        """Have something done with a copy of a snapshot, while it is idle."""
        self._idle.clear()
        copy = copy_snapshot(snapshot, self._room)
        self._room = copy.state
        self._tasks.put(lambda: task(copy))

    def drain(self, timeout_s: float = 10.0) -> bool:
        """Wait until it has nothing to do; whether that is so."""
        return self._idle.wait(timeout_s)

    def stop(self) -> None:
        """Work no more, after what it is at."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:
                _log.exception("a decision could not be looked at")
            finally:
                self._idle.set()
