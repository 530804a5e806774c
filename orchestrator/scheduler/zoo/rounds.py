"""Policies that hand the cluster out anew in rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod

from orchestrator.errors import ConfigurationError
from orchestrator.messages import Plan
from orchestrator.scheduler.snapshot import Snapshot
from orchestrator.scheduler.zoo.board import Board

__all__ = ["RoundPolicy"]


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
