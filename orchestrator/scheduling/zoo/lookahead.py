"""Lookahead: try the best few actions of a rule on copies of the cluster, in several futures.

Each future is a random block of jobs that have already arrived, submitted again after now; the same
futures are used for every action, and the base rule plays all of them to their end. Another action
than the rule's is taken only if it is clearly cheaper. Without sampled arrivals this hurts: an
action looks good because nobody comes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, JobCode, Reason, Stream
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.messages import Plan
from orchestrator.scheduling.rules import Rule
from orchestrator.scheduling.zoo.rounds import uniforms

__all__ = ["Lookahead", "LookaheadConfig"]


_Candidate = tuple[int, int, int]  # ActionKind, job, value


@dataclass(frozen=True)
class LookaheadConfig:
    """How far and how often to look.

    Parameters
    ----------
    actions : int
        Actions tried at most, the rule's own included.
    futures : int
        Common futures that each is tried in.
    arrivals : int
        Jobs that arrive in each.
    margin : float
        Share of the cost of the rule's own action by which another one must be cheaper.
    """

    actions: int = 4
    futures: int = 3
    arrivals: int = 48
    margin: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what would try nothing."""
        for name in ("actions", "futures"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"lookahead: '{name}' must be at least 1")
        if self.arrivals < 0 or self.margin < 0:
            raise ConfigurationError("lookahead: 'arrivals' and 'margin' must not be negative")


class Lookahead:
    """A rule that thinks ahead.

    Cost is the mean bounded slowdown of the jobs that were there and of those that arrive.
    Futures are played on what policies may know: estimates, and no failures.

    Parameters
    ----------
    rule : Rule
        Proposes, and plays the futures.
    config : LookaheadConfig, optional
        How far to look.
    """

    def __init__(self, rule: Rule, config: LookaheadConfig | None = None) -> None:
        self.rule = rule
        self.config = config or LookaheadConfig()
        self._record = rule.to_record()
        self._room: ClusterState | None = None

    def decide(self, snapshot: Snapshot) -> Plan:
        """The rule's action, or a clearly cheaper one."""
        state = snapshot.state
        scratch = np.empty(max(state.shape.jobs, state.shape.workers), np.int32)
        own = entry.rule_action(state.rows, 0, self._record, scratch)
        candidates = self._candidates(state, own)
        chosen = own
        if len(candidates) > 1:
            costs = self._costs(state, candidates)
            best = int(np.argmin(costs))
            if costs[best] < costs[0] * (1.0 - self.config.margin):
                chosen = candidates[best]
        return Plan((snapshot.action(*chosen),))

    def _candidates(self, state: ClusterState, own: _Candidate) -> list[_Candidate]:
        """The rule's action first, then the placements that it would make next, then waiting."""
        found = [own]
        trial = self._workspace(state)
        for job in self._next_jobs(state):
            if len(found) >= self.config.actions:
                return found
            candidate = (int(ActionKind.PLACE), job, int(self.rule.placement))
            if candidate not in found:
                entry.copy_row(state.rows, 0, trial.rows, 0)
                if self._commit(trial, candidate):
                    found.append(candidate)
        wait = (int(ActionKind.WAIT), NO_JOB, 0)
        if len(found) < self.config.actions and own[0] != ActionKind.WAIT:
            entry.copy_row(state.rows, 0, trial.rows, 0)
            if not state.rows[0]["commitment"] and self._commit(trial, wait):
                found.append(wait)
        return found

    def _next_jobs(self, state: ClusterState) -> list[int]:
        """Waiting jobs in the rule's order."""
        count = int(state.rows[0]["queue_len"])
        waiting = [int(j) for j in state.queue[0, :count]["job"]]
        scores = {j: entry.job_score(state.rows, 0, j, int(self.rule.key)) for j in waiting}
        return sorted(waiting, key=scores.__getitem__)

    def _costs(self, state: ClusterState, candidates: list[_Candidate]) -> NDArray[np.float64]:
        costs = np.zeros(len(candidates))
        for future in range(self.config.futures):
            block = self._arrivals(state, future)
            for i, candidate in enumerate(candidates):
                costs[i] += self._play(state, candidate, block)
        return costs

    def _arrivals(self, state: ClusterState, future: int) -> NDArray[np.void]:
        """A block of consecutive earlier jobs, submitted from now on at the same pace."""
        row = state.rows[0]
        known = state.request[0, : row["next_arrival"]]
        came = state.job[0, : row["next_arrival"]]["state"] != JobCode.ABSENT
        past: NDArray[np.void] = known[came]
        count = min(self.config.arrivals, len(past) // 2)
        if count < 1:
            return past[:0].copy()
        past = past[np.argsort(past["submit_ms"], kind="stable")]
        counter = (int(row["point"]) << 8) + future
        draw = float(uniforms(int(row["seed"]), Stream.LOOKAHEAD, counter, 1)[0])
        start = int(draw * (len(past) - count + 1))
        block: NDArray[np.void] = past[start : start + count].copy()
        before = past[max(start - 1, 0)]["submit_ms"]
        block["submit_ms"] += int(row["now_ms"]) - int(before)
        # What a policy knows of run times is what was asked for.
        block["duration_ms"] = np.maximum(block["requested_ms"], 1)
        return block

    def _play(self, state: ClusterState, action: _Candidate, block: NDArray[np.void]) -> float:
        """Cost of an action in one future."""
        trial = self._workspace(state)
        entry.copy_row(state.rows, 0, trial.rows, 0)
        entry.assume_future(trial.rows, 0, block)
        if not self._commit(trial, action):
            return float("inf")
        room = np.empty(max(trial.shape.jobs, trial.shape.workers), np.int32)
        entry.replay(trial.rows, 0, self._record, room[: trial.shape.workers].copy(), room)
        return _slowdown(trial, state)

    def _commit(self, trial: ClusterState, action: _Candidate) -> bool:
        room = np.empty(trial.shape.workers, np.int32)
        return bool(entry.commit(trial.rows, 0, *action, room) == Reason.OK)

    def _workspace(self, state: ClusterState) -> ClusterState:
        """Room for the cluster and the jobs of a future, kept from one decision to the next."""
        needed = replace(state.shape, envs=1, log=1, jobs=state.shape.jobs + self.config.arrivals)
        if self._room is None or self._room.shape != needed:
            self._room = allocate(needed)
        return self._room


def _slowdown(trial: ClusterState, before: ClusterState) -> float:
    """Mean bounded slowdown of the jobs that had not ended before; who never ends counts to now."""
    row = trial.rows[0]
    count, arrived = int(row["num_jobs"]), int(before.rows[0]["next_arrival"])
    asks, runs = trial.request[0, :count], trial.job[0, :count]
    ended = before.job[0, :arrived]["state"]
    over = (ended == JobCode.COMPLETED) | (ended == JobCode.FAILED) | (ended == JobCode.ABSENT)
    counted = np.concatenate([~over, np.ones(count - arrived, np.bool_)])
    last = np.where(runs["end_ms"] >= 0, runs["end_ms"], int(row["now_ms"]))
    scale = np.maximum(asks["duration_ms"], max(int(row["slowdown_bound_ms"]), 1))
    slowdown = np.maximum((last - asks["submit_ms"]) / scale, 1.0)
    return float(slowdown[counted].mean()) if counted.any() else 0.0
