"""Schedules with known futures: how far a policy is from what is possible.

Whoever knows all jobs to come can search the orders in which they are served. Simulated annealing
(Kirkpatrick, Gelatt and Vecchi, "Optimization by simulated annealing", Science 220, 1983) over the
order of a window's jobs finds schedules that no policy can be asked for, since none knows what
comes; what they cost is an upper bound of the least that is possible, and where it is far below a
policy's cost there may be room. Every order is played by the engine, so what it costs is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from envs.session import Session
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.linear import play_order
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.scheduling.rules import rule_named

__all__ = ["AnnealedSchedule", "Annealing"]

_STARTS = ("sjf", "f1", "fcfs")
_LOOK_AGAIN = 256  # moves after which it is looked again who waits


@dataclass(frozen=True)
class Annealing:
    """How an order is annealed.

    Parameters
    ----------
    moves : int, optional
        Orders tried for each window.
    hot, cold : float, optional
        Temperature at the beginning and at the end, as a share of the window's cost.
    reach : float, optional
        Standard deviation, in places, of how far a job is taken; it shrinks to a tenth.
    seed : int, optional

    Raises
    ------
    ConfigurationError
        Naming the field and what it may be.
    """

    moves: int = 20_000
    hot: float = 1e-4
    cold: float = 1e-6
    reach: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be annealed."""
        for part in fields(self):
            what, value = f"annealing: '{part.name}'", getattr(self, part.name)
            if part.type == "int":
                check_whole(what, value, 0)
            else:
                check_finite(what, value, above=0)


class AnnealedSchedule:
    """Implements :class:`agents.problem.RowPolicy`: plays windows in orders that it has annealed.

    It begins with the best of what three rules make of a window. A move takes one of the jobs that
    wait to another place in the order, some places earlier or later. It sees what no policy sees:
    the jobs to come, and how long they really take.

    Parameters
    ----------
    settings : Annealing, optional
    """

    def __init__(self, settings: Annealing | None = None) -> None:
        self.settings = settings or Annealing()
        self.name = "annealed"

    def player_on(self, session: Session) -> Callable[[], Mapping[str, int]]:
        """What plays the first row of a session, which has just begun, to its end.

        It returns counts: ``moves``, and of these ``accepted``.
        """
        if not session.config.commitment:
            raise ConfigurationError(
                "annealed schedule: is an order of jobs and nothing else; set 'commitment' of the "
                "environment to true"
            )
        tried = _Tried(session)
        entropy = np.random.SeedSequence([self.settings.seed])

        def play() -> Mapping[str, int]:
            tried.begin()
            rng = np.random.Generator(np.random.Philox(entropy))
            order, accepted = _anneal(tried, self.settings, rng)
            tried.play_out(order)
            return {"moves": self.settings.moves, "accepted": accepted}

        return play


def _anneal(
    tried: _Tried, settings: Annealing, rng: np.random.Generator
) -> tuple[NDArray[np.float64], int]:
    """The best order that is found, and how many moves were accepted."""
    starts = [tried.shortest(), *(tried.under(name) for name in _STARTS)]
    order, cost = min(starts, key=lambda pair: pair[1])
    cost = tried.cost_of(order)
    best, least, accepted = order.copy(), cost, 0
    waiting = tried.waiting()
    for move in range(settings.moves if len(waiting) > 0 else 0):
        done = move / settings.moves
        heat = settings.hot * (settings.cold / settings.hot) ** done * least
        j = int(waiting[rng.integers(len(waiting))])
        before = order[j]
        order[j] += rng.standard_normal() * settings.reach * 10.0**-done
        found = tried.cost_of(order)
        if found <= cost or rng.random() < math.exp((cost - found) / heat):
            cost, accepted = found, accepted + 1
            if accepted % _LOOK_AGAIN == 0:
                waiting = tried.waiting()
        else:
            order[j] = before
        if cost < least:
            best, least = order.copy(), cost
    return best, accepted


class _Tried:
    """A window that is played again and again, on rows of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        shape = replace(session.state.shape, envs=1)
        self._begun: ClusterState = allocate(shape)
        self._trial: ClusterState = allocate(shape)
        self._nodes = np.zeros(shape.workers, np.int32)
        self._jobs = np.zeros(max(shape.jobs, shape.workers), np.int32)
        self._weights = np.ascontiguousarray(session.config.reward.weights, np.float64)

    def begin(self) -> None:
        """Remember the session's first row, which has just begun."""
        entry.copy_row(self._session.state.rows, 0, self._begun.rows, 0)

    def cost_of(self, order: NDArray[np.float64]) -> float:
        """What the window costs in an order."""
        entry.copy_row(self._begun.rows, 0, self._trial.rows, 0)
        return float(play_order(self._trial.rows, 0, order, self._nodes, self._weights))

    def under(self, rule: str) -> tuple[NDArray[np.float64], float]:
        """The order in which a rule starts the jobs, and what that costs."""
        entry.copy_row(self._begun.rows, 0, self._trial.rows, 0)
        record = rule_named(rule).to_record()
        entry.replay(self._trial.rows, 0, record, self._nodes, self._jobs)
        return self._by(self._started)

    def shortest(self) -> tuple[NDArray[np.float64], float]:
        """The order of the estimates: SJF's, also where jobs are backfilled."""
        entry.copy_row(self._begun.rows, 0, self._trial.rows, 0)
        return self._by(self._trial.request[0, : self._count]["requested_ms"])

    def _by(self, key: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        """The order by a key of each job, and what it costs."""
        order = np.empty(len(key))
        order[np.argsort(key, kind="stable")] = np.arange(len(key))
        return order, self.cost_of(order)

    def waiting(self) -> NDArray[np.int64]:
        """The jobs that had to wait when the window was last played."""
        asks = self._trial.request[0, : self._count]
        return np.flatnonzero(self._started > asks["submit_ms"])

    def play_out(self, order: NDArray[np.float64]) -> None:
        """Play the session's row to its end in an order."""
        rows = self._session.state.rows
        play_order(rows, 0, order, self._nodes, self._weights)

    @property
    def _count(self) -> int:
        return int(self._trial.rows[0]["num_jobs"])

    @property
    def _started(self) -> NDArray[np.int64]:
        started: NDArray[np.int64] = self._trial.job[0, : self._count]["start_ms"]
        return started
