"""Pollux: the number of workers of every job by a genetic search for goodput.

Qiao et al., "Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning", OSDI
2021, section 4.2. An allocation is how many workers each job has; fitness is the generalised mean
(power -1) of the jobs' speed-ups over a fair share, those that would be interrupted weighed with
what the interruption costs them. Left out are the search over nodes (placement generators choose
them), interference avoidance, and the batch size, which the throughput curve fixes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import Stream
from orchestrator.messages import Plan
from orchestrator.scheduling.zoo.board import Board
from orchestrator.scheduling.zoo.rounds import uniforms

__all__ = ["Pollux"]


_POWER = -1.0  # of the generalised mean: 1 is the sum, lower is fairer (the paper's p)


_FLOOR = 0.01  # speed-up that a job without workers counts as


_MOST_WORKERS = 64


_Ints = NDArray[np.int64]


class Pollux:
    """Plans anew every ``round_ms``; in between only free capacity is handed out.

    Parameters
    ----------
    round_ms : int
        The paper's scheduling interval is one minute.
    population, generations : int
        Of the genetic search; the paper uses 100 and 100 for 16 nodes.
    """

    def __init__(
        self, round_ms: int = 60_000, *, population: int = 32, generations: int = 30
    ) -> None:
        if population < 4 or generations < 1 or round_ms < 0:
            raise ConfigurationError(
                f"pollux: population {population}, generations {generations} and round_ms "
                f"{round_ms}; give at least 4, 1 and 0"
            )
        self.round_ms = round_ms
        self.population = population
        self.generations = generations
        self._began_ms: int | None = None

    def decide(self, snapshot: Snapshot) -> Plan:
        """Search for an allocation, and turn towards it."""
        now, began = snapshot.now_ms, self._began_ms
        opens = began is None or now <= began or now - began >= self.round_ms
        if opens:
            self._began_ms = now
        board = Board(snapshot)
        jobs = sorted([*board.waiting(), *board.running()])
        if opens and jobs:
            search = _Search(board, jobs)
            self._apply(board, jobs, search.best(self.population, self.generations))
        else:
            for j in board.waiting():
                board.place(j)
        return board.plan()

    @staticmethod
    def _apply(board: Board, jobs: list[int], target: _Ints) -> None:
        """Shrink and preempt, then start and grow."""
        wanted = dict(zip(jobs, target.tolist(), strict=True))
        running, waiting = board.running(), board.waiting()
        for j in running:
            if 0 < wanted[j] < int(board.jobs[j]["workers_now"]):
                board.resize(j, wanted[j])
        for j in running:
            if wanted[j] == 0:
                board.preempt(j)
        for j in waiting:
            if wanted[j] > 0 and board.place(j):
                now = int(board.jobs[j]["workers_now"])
                if wanted[j] != now:
                    board.resize(j, wanted[j])
        for j in running:
            if wanted[j] > int(board.jobs[j]["workers_now"]):
                board.resize(j, wanted[j])
        for j in waiting:  # nobody is kept from capacity that is left
            board.place(j)


class _Search:
    """A genetic search over the numbers of workers of J jobs."""

    def __init__(self, board: Board, jobs: list[int]) -> None:
        asks = board.requests[jobs]
        runs = board.jobs[jobs]
        running = set(board.running())
        self.now = np.array(
            [int(r["workers_now"]) if j in running else 0 for j, r in zip(jobs, runs, strict=True)]
        )
        asked = asks["workers"].astype(np.int64)
        elastic = asks["elastic"] == 1
        most = min(board.state.shape.workers, _MOST_WORKERS)
        self.least = np.where(elastic, asks["min_workers"], asked).astype(np.int64)
        self.most = np.maximum(
            np.where(elastic, np.minimum(asks["max_workers"], most), asked), self.least
        )
        # Whoever runs and may not be preempted keeps what it needs.
        self.bound = np.array(
            [j in running and not board.requests[j]["preemptible"] for j in jobs], np.bool_
        )
        self.each = np.array([max(board.units(j, 1), 1) for j in jobs], np.int64)
        self.capacity = int(board.row["capacity_units"]) - board.leaving_units()
        self.speedup = self._speedups(board, jobs)
        self.keep = self._reallocation(board, jobs)
        self._seed = int(board.row["seed"])
        self._counter = int(board.row["point"]) << 20

    def _speedups(self, board: Board, jobs: list[int]) -> NDArray[np.float64]:
        """Goodput over that of a fair share, float64 [J, workers + 1]; 0 workers: the floor."""
        table = np.full((len(jobs), int(self.most.max()) + 1), _FLOOR)
        for i, j in enumerate(jobs):
            fair = self.capacity // len(jobs) // int(self.each[i])
            fair = int(np.clip(fair, self.least[i], self.most[i]))
            base = max(board.speed(j, fair), 1e-3)
            for k in range(int(self.least[i]), int(self.most[i]) + 1):
                table[i, k] = max(board.speed(j, k) / base, _FLOOR)
        return table

    def _reallocation(self, board: Board, jobs: list[int]) -> NDArray[np.float64]:
        """Share of its time that a job keeps if its workers change: (T - R d) / (T + d)."""
        factors = np.ones(len(jobs))
        for i, j in enumerate(jobs):
            ask, run = board.requests[j], board.jobs[j]
            age = max(board.now_ms - int(ask["submit_ms"]), 1)
            regroup = int(ask["regroup_ms"]) if ask["elastic"] else int(ask["restart_ms"])
            changes = int(run["preemptions"]) + int(run["resizes"])
            factors[i] = max((age - changes * regroup) / (age + regroup), 0.0)
        return factors

    def best(self, population: int, generations: int) -> _Ints:
        """The fittest allocation found, int64 [J]."""
        people = [self._repaired(self.now.copy()), self._repaired(self.least.copy())]
        while len(people) < population:
            people.append(self._repaired(self._mutated(people[len(people) % 2])))
        ranked = sorted(((self._fitness(workers), workers) for workers in people), key=_fitter)
        for _ in range(generations):
            children = self._children([workers for _, workers in ranked])
            ranked += [(self._fitness(workers), workers) for workers in children]
            ranked = sorted(ranked, key=_fitter)[:population]
        return ranked[0][1]

    def _children(self, ranked: list[_Ints]) -> list[_Ints]:
        """As many as there are parents: each takes after two of them, job by job."""
        children = []
        for _ in ranked:
            a, b = self._pick(ranked), self._pick(ranked)
            mask = self._uniform() < 0.5
            children.append(self._repaired(self._mutated(np.where(mask, a, b))))
        return children

    def _fitness(self, workers: _Ints) -> float:
        gains = self.speedup[np.arange(len(workers)), workers]
        changed = (workers != self.now) & (self.now > 0)
        gains = np.where(changed, gains * self.keep, gains)
        powers = np.maximum(gains, _FLOOR / 10) ** _POWER
        return float((powers.sum() / len(powers)) ** (1.0 / _POWER))

    def _uniform(self) -> NDArray[np.float64]:
        """A random number in [0, 1) for each job."""
        first, count = self._counter, len(self.now)
        self._counter += count
        return uniforms(self._seed, Stream.ORDERING, first, count)

    def _pick(self, ranked: list[_Ints]) -> _Ints:
        """The better of two (tournament)."""
        draws = self._uniform()
        first = int(draws[0] * len(ranked))
        second = int((draws[0] * 7919.0) % 1.0 * len(ranked))
        return ranked[min(first, second)]

    def _mutated(self, workers: _Ints) -> _Ints:
        """Draw the workers of a job anew, each with probability 1 / J."""
        change = self._uniform() < max(1.0 / len(workers), 0.1)
        span = self.most - self.least + 2
        drawn = (self._uniform() * span).astype(np.int64) + self.least - 1
        return np.where(change, np.where(drawn < self.least, 0, drawn), workers)

    def _repaired(self, workers: _Ints) -> _Ints:
        """Bring an allocation within bounds and capacity, taking from random jobs."""
        workers = np.where(self.bound, np.clip(workers, self.least, self.most), workers)
        workers = np.where((workers > 0) & (workers < self.least), self.least, workers)
        workers = np.minimum(workers, self.most)
        used = int((workers * self.each).sum())
        order = np.argsort(self._uniform(), kind="stable")
        for floor in (self.least, np.zeros_like(self.least)):
            for i in order:
                if used <= self.capacity:
                    return workers
                if floor[i] == 0 and self.bound[i]:
                    continue
                over = -(-(used - self.capacity) // int(self.each[i]))
                take = int(min(over, workers[i] - floor[i]))
                if floor[i] == 0:
                    take = int(workers[i])
                if take > 0:
                    workers[i] -= take
                    used -= take * int(self.each[i])
        return workers


def _fitter(person: tuple[float, _Ints]) -> float:
    """Sorts the fittest first."""
    return -person[0]
