"""Policies that plan in rounds, and Themis.

Mahajan et al., "Themis: Fair and Efficient GPU Cluster Scheduling", NSDI 2020. Its metric is
rho = T_shared / T_isolated; leases end every few minutes, and the apps of the worst rho are served
first. Left out are the auction by which the paper distributes resources among the worst share of
the apps (here they are served in order) and the bids that weigh placements.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.lang.jit import entry
from orchestrator.kernels.lang.numbers import random_unit
from orchestrator.kernels.state.codes import Stream
from orchestrator.messages import Plan
from orchestrator.scheduling.zoo.board import Board

__all__ = ["RoundPolicy", "Themis", "finish_time_ratio", "uniforms"]


@entry
def _fill(seed: np.uint64, stream: int, first: int, drawn: NDArray[np.float64]) -> None:
    for i in range(drawn.shape[0]):
        drawn[i] = random_unit(seed, stream, first + i)


def uniforms(seed: int, stream: Stream, first: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), those of the counters from ``first`` on, float64 [count]."""
    drawn = np.empty(count)
    _fill(np.uint64(seed), int(stream), first, drawn)
    return drawn


class RoundPolicy(ABC):
    """At the first decision point of a round jobs are ranked, and the best get the cluster.

    In between, free capacity goes to waiting jobs in the order of their submission; nobody is
    preempted. Decision points come with events, so a round may last longer than ``round_ms``.

    Parameters
    ----------
    round_ms : int
        Time from which on the next decision point begins a new round; Gavel and Themis use six
        minutes and more.
    """

    def __init__(self, round_ms: int = 360_000) -> None:
        if round_ms < 0:
            raise ConfigurationError(f"round: 'round_ms' is {round_ms}; give 0 or more")
        self.round_ms = round_ms
        self._began_ms: int | None = None

    def decide(self, snapshot: Snapshot) -> Plan:
        """Rank the jobs and serve them."""
        now = snapshot.now_ms
        # Asked again at the same instant, the answer is the same; an earlier one: another episode.
        began = self._began_ms
        opens = began is None or now <= began or now - began >= self.round_ms
        if opens:
            self._began_ms = now
        board = Board(snapshot)
        jobs = sorted([*board.waiting(), *board.running()])
        if jobs:
            order = self.rank(board, jobs) if opens else board.waiting()
            board.serve(order, preempt=opens)
        return board.plan()

    @abstractmethod
    def rank(self, board: Board, jobs: list[int]) -> list[int]:
        """Order jobs, the most deserving first."""


def finish_time_ratio(board: Board, j: int, sharing: int) -> float:
    """How much later a job ends, if it runs from now on, than it would have alone: rho.

    Parameters
    ----------
    board : Board
    j : int
        Job.
    sharing : int
        Jobs that share the cluster. Alone, a job has 1 / sharing of it, and takes that much longer
        if it needs more.
    """
    ask = board.requests[j]
    shared = board.now_ms - int(ask["submit_ms"]) + board.remaining(j)
    capacity = max(int(board.row["capacity_units"]), 1)
    isolated = int(ask["requested_ms"]) * max(1.0, board.units(j) * sharing / capacity)
    return float(shared / isolated)


class Themis(RoundPolicy):
    """Rounds (leases) in which the job of the worst finish-time fairness goes first."""

    def rank(self, board: Board, jobs: list[int]) -> list[int]:
        """Order jobs by rho, the largest first."""
        ratios = {j: finish_time_ratio(board, j, len(jobs)) for j in jobs}
        return sorted(jobs, key=lambda j: (-ratios[j], int(board.requests[j]["submit_ms"]), j))
