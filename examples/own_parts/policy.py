"""A policy that plans on snapshots: small jobs first, all that fit."""

from __future__ import annotations

from orchestrator import Board, Plan, Snapshot
from orchestrator.testing import check_policy


class SmallestFirst:
    """Keeps ``orchestrator.Policy``."""

    def decide(self, snapshot: Snapshot) -> Plan:
        """Place waiting jobs by ascending demand; a board tries every action before it is said."""
        board = Board(snapshot)
        for job in sorted(board.waiting(), key=board.units):
            board.place(job)
        return board.plan()


if __name__ == "__main__":
    check_policy(SmallestFirst)
    print("SmallestFirst keeps what policies promise")
